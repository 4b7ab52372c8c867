"""Probes of what an episode depends on: its seed and its actions, and nothing else."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import gymnasium
import numpy as np

from nervex.envs.doctor.finding import ERROR, NOTE, WARNING
from nervex.envs.doctor.play import Episode, difference, play, playing
from nervex.envs.doctor.trial import DRAW_SEEDS, SEEDS, Trial, kept_generators

_GENERATOR_FIX = "draw from a generator of the env's own, made of the seed (self.np_random in Gymnasium)"


def same_seed(trial: Trial) -> None:
    """New instances with the same seed and actions play the same, whatever the global generators hold."""
    records = []
    for global_seed in (1, 2):
        with kept_generators(global_seed), trial.fresh() as subject:
            records.append(trial.plays(subject, SEEDS))
    diff = _difference(*records)
    names = " and ".join(trial.touched)
    if diff is None:
        if trial.touched:
            trial.findings.add(
                WARNING,
                "global-random",
                f"it changes the state of the global generator {names}, which other envs and the policy draw from",
                _GENERATOR_FIX,
            )
        return
    with kept_generators(1), trial.fresh() as subject:
        fixed = _difference(records[0], trial.plays(subject, SEEDS))
    if fixed is None:
        trial.findings.add(
            ERROR,
            "same-seed",
            f"seed {SEEDS[0]} does not fix the episode, the global generator "
            f"{names or 'of Python or NumPy'} does: two instances differ in the {diff}",
            _GENERATOR_FIX,
        )
        return
    trial.findings.add(
        ERROR,
        "same-seed",
        f"the same seed and actions give other episodes in two new instances: {diff}",
        "make every generator of the env from the seed at reset, and use no clock and no order of sets",
    )


def carried_over(trial: Trial) -> None:
    """After other episodes, ended or broken off, a seed plays the same as in the beginning."""
    if "same-seed" in trial.findings:
        return
    ended = [len(episode) for episode in trial.episodes if episode.ended]
    seed = SEEDS[0]
    with trial.fresh() as subject:
        first = trial.plays(subject, [seed])
        play(subject, SEEDS[1], 1, "random", max(1, min(trial.prefix // 2, 7)))
        broken_off = _difference(first, trial.plays(subject, [seed]))
        if broken_off is None and ended and trial.affords(0, 2, 2 * min(ended)):
            play(subject, SEEDS[2], 3, trial.episodes[0].style, max(ended))
            finished = _difference(first, trial.plays(subject, [seed]))
        else:
            finished = None
        diff = broken_off or finished
        if diff is None:
            return
        after = "broken off" if broken_off else "ended"
        wrappers = _normalizers(subject.env)
        if wrappers:
            trial.findings.add(
                NOTE,
                "carried-over",
                f"{wrappers} keeps statistics from episode to episode: {diff}",
                "policy.normalize does the same inside the weights, and resumes exactly",
            )
            return
        trial.findings.add(
            WARNING,
            "carried-over",
            f"the same seed plays differently once another episode was {after}: "
            f"{diff}; something is kept from the episode before",
            "set all state of the episode anew in reset()",
        )


def different_seeds(trial: Trial) -> None:
    """Seeds make a difference, unless the env is deterministic."""
    if "same-seed" in trial.findings:
        return
    records = []
    with _constant_generators() as constant:
        for seed in SEEDS:
            with trial.fresh() as subject:
                records.append(trial.plays(subject, [seed, None]))
    first = [record[:1] for record in records]
    if any(_difference(a, b) for a, b in pairwise(first)):
        _restarted(trial, records[-1])
        return
    starts = f"seeds {', '.join(map(str, SEEDS))} all play the same episode"
    again = records[0]
    again_same = [play_again for play_again in again[1:] if _difference([again[0]], [play_again])]
    if again_same and not _same_start(again):
        trial.findings.add(
            ERROR,
            "seed-ignored",
            f"{starts}, though the next reset without a seed starts another",
            "use the seed that reset() or seed() is given",
        )
    elif len(constant) > len(SEEDS):  # at each reset, and not once for each instance
        trial.findings.add(
            WARNING,
            "seed-ignored",
            f"{starts}: the env makes a generator of the constant seed {constant[0]}",
            "make it of the seed that reset() or seed() is given",
        )
    else:
        trial.findings.add(
            NOTE,
            "deterministic",
            f"{starts}: the env is deterministic, or ignores its seed",
            "nothing, if that is meant",
        )


def _same_start(records: list[Episode]) -> bool:
    """Whether the second record begins with the first's observation; it was played with other actions."""
    return difference(_begin(records[0]), _begin(records[1])) is None


def _begin(record: Episode) -> Episode:
    begin = Episode(record.seed, record.style)
    begin.obs = record.obs[:1]
    return begin


def _restarted(trial: Trial, records: list[Episode]) -> None:
    """A reset without a seed goes on from the generator; seeds differ, so that a repetition is no accident."""
    seed = SEEDS[-1]
    with trial.fresh() as subject:
        first = play(subject, seed, 7, "random", trial.prefix)
        others = [play(subject, None, 7, "random", trial.prefix) for _ in range(2)]
    if all(difference(first, other) is None for other in others):
        trial.findings.add(
            WARNING,
            "seed-again",
            f"after seed {seed}, resets without a seed start that same episode again and again",
            "use the seed once; later resets go on from the generator",
        )


def shared_state(trial: Trial) -> None:
    """Two instances that are played by turns play as each does alone."""
    if "same-seed" in trial.findings:
        return
    with trial.fresh() as subject:
        alone = [play(subject, SEEDS[0], 11, "random", trial.prefix)]
    with trial.fresh() as subject:
        alone.append(play(subject, SEEDS[1], 12, "random", trial.prefix))
    with trial.fresh() as one, trial.fresh() as other:
        turns = [
            playing(s, seed, draw, "random", trial.prefix)
            for s, seed, draw in ((one, SEEDS[0], 11), (other, SEEDS[1], 12))
        ]
        together: list[Any] = [None, None]
        alive = [0, 1]
        while alive:
            for i in list(alive):
                record = next(turns[i], None)
                if record is None:
                    alive.remove(i)
                else:
                    together[i] = record
    diff = _difference(alone, together)
    if diff is not None:
        what = (
            "the global generator" if "global-random" in trial.findings else "something (a class attribute, a module)"
        )
        trial.findings.add(
            ERROR,
            "shared-state",
            f"two instances that are played by turns share {what}: {diff}",
            "keep all state in the instance (self....), set in __init__ or reset()",
        )


def _difference(a: list[Episode], b: list[Episode]) -> str | None:
    return next((diff for x, y in zip(a, b, strict=False) if (diff := difference(x, y)) is not None), None)


def _normalizers(env: Any) -> str:
    names = []
    while isinstance(env, gymnasium.Wrapper):
        names += [type(env).__name__] if "Normalize" in type(env).__name__ else []
        env = env.env
    return " and ".join(names)


@contextmanager
def _constant_generators() -> Iterator[list[int]]:
    """Gives a list of the seeds, other than those of the probe, of which generators are made while this is open."""
    found: list[int] = []
    original = np.random.default_rng

    def default_rng(seed: Any = None) -> Any:
        if isinstance(seed, int) and seed not in (*SEEDS, *DRAW_SEEDS):
            found.append(seed)
        return original(seed)

    np.random.default_rng = default_rng
    try:
        yield found
    finally:
        np.random.default_rng = original
