"""Probes of how episodes end: which flag, at which step, with which observation, and what the last info holds."""

from collections import Counter

import numpy as np

from nervex.envs.doctor.finding import ERROR, NOTE, WARNING, Broken, Findings
from nervex.envs.doctor.play import Episode, equal, play, vector
from nervex.envs.doctor.spaces import draw
from nervex.envs.doctor.trial import Trial

_TRUNCATED_FIX = (
    "set truncated there and not terminated (info['truncated'] in a BaseEnv), so that learning bootstraps; TimeLimit "
    "of Gymnasium does it"
)


def flags(trial: Trial) -> None:
    """An end is a termination or a truncation."""
    ends = [episode for episode in trial.episodes if episode.ended]
    if not ends:
        longest = max((len(episode) for episode in trial.episodes), default=0)
        if longest >= 200:
            trial.findings.add(
                NOTE,
                "no-end",
                f"no episode ended within {longest} steps",
                "set a time limit (TimeLimit, max_episode_steps) if evaluations should end",
            )
        return
    both = [episode for episode in ends if episode.steps[-1].terminated and episode.steps[-1].truncated]
    longest = max(map(len, ends))
    early = [episode for episode in both if len(episode) < longest]
    if early or (len(both) == len(ends) >= 2):
        lengths = ", ".join(str(len(episode)) for episode in both[:4])
        trial.findings.add(
            WARNING,
            "both-flags",
            f"{len(both)} of {len(ends)} episodes ended terminated and truncated at once (at steps {lengths})",
            "terminated: the task ended; truncated: a limit outside the task cut it; set the one that is meant",
        )


def time_limit(trial: Trial) -> None:
    """A limit on the number of steps is a truncation."""
    ends = [episode for episode in trial.episodes if episode.ended]
    count = Counter(len(e) for e in ends if e.steps[-1].terminated and not e.steps[-1].truncated)
    if not count:
        return
    longest = max(count)
    others = [n for length, n in count.items() if length != longest]
    natural = max(map(len, ends)) > longest or longest < 2 or count[longest] < 3
    if natural or (others and not _piled_up(count, longest, ends)):
        return
    last = [e for e in ends if len(e) == longest and e.steps[-1].terminated]
    seen = f"{count[longest]} of {len(ends)} episodes terminated at exactly step {longest}"
    if others:
        seen += f", none later (others at {min(len(e) for e in ends)} to {max(n for n in count if n != longest)})"
    if _foreseen(last, trial.episodes):
        if not others:
            trial.findings.add(
                NOTE,
                "fixed-length",
                f"{seen}; the observation or the reward shows that end",
                "nothing, if the task ends there and is not cut",
            )
        return
    trial.findings.add(
        WARNING,
        "time-limit",
        f"{seen}, and nothing in the observation tells that end: it looks like a time limit",
        _TRUNCATED_FIX,
    )


def _piled_up(count: Counter[int], longest: int, ends: list[Episode]) -> bool:
    """Whether far more episodes end at the greatest length than at those below it, which no chance explains; random
    actions among them, since repeated ones may well take the same number of steps each time."""
    below = [count[length] for length in range(2 * longest // 3, longest)]
    varied = sum(len(e) == longest and e.style in ("random", "sticky") for e in ends)
    return longest >= 8 and varied >= 2 and count[longest] > 2 * max(below) + 1


def _foreseen(last: list[Episode], episodes: list[Episode]) -> bool:
    """Whether the last step differs from those before in what is seen or paid, so that the task may end there."""
    finals = {episode.steps[-1].reward for episode in last}
    before = {step.reward for episode in last for step in episode.steps[:-1]}
    if not finals & before and len(before) <= 3:
        return True  # paid at the end
    rows = [np.stack([vector(obs, 512) for obs in episode.obs]) for episode in last[:8]]
    for end in (-1, -2):  # the final observation, and the one that the last action was taken on
        ends = np.stack([row[end] for row in rows])  # [E, D]
        earlier = np.concatenate([row[:-2] if end == -2 else row[:-1] for row in rows])
        if not len(earlier):
            continue
        if ((ends.min(0) > earlier.max(0)) | (ends.max(0) < earlier.min(0))).any():
            return True
    everything = [obs.tobytes() for e in episodes for obs in map(vector, e.obs[:-1])]
    known = set(everything)
    few = len(known) <= len(everything) // 2
    return few and not any(vector(episode.obs[-1]).tobytes() in known for episode in last)


def truncations(trial: Trial) -> None:
    """A truncation has a limit: the same number of steps each time, unless something else ends the episode."""
    ends = [episode for episode in trial.episodes if episode.ended]
    lengths = [len(e) for e in ends if e.steps[-1].truncated and not e.steps[-1].terminated]
    different = sorted(set(lengths))
    if len(lengths) < 5 or len(different) < 4 or lengths.count(different[-1]) * 2 > len(lengths):
        return
    if any(e.steps[-1].terminated and len(e) < different[-1] for e in ends):
        return
    trial.findings.add(
        WARNING,
        "truncated-anywhere",
        f"{len(lengths)} of {len(ends)} episodes were truncated, at "
        f"different steps ({', '.join(map(str, different[:4]))}, ...), and none terminated before",
        "truncated is for limits outside the task; where the task ended (goal, crash, game over) set terminated",
    )


def autoreset(trial: Trial) -> None:
    """A step that ends an episode sends its final observation; the next episode begins at ``reset``."""
    ends = [
        (episode, inside) for episode, inside in zip(trial.episodes, trial.ends_inside, strict=False) if episode.ended
    ]
    called = [episode for episode, inside in ends if inside]
    first = [vector(episode.obs[0]) for episode in trial.episodes]
    fix = "return the final observation and leave the reset to the caller"
    if called:
        trial.findings.add(
            ERROR,
            "autoreset",
            f"step() called the env's own reset() where {len(called)} of {len(ends)} "
            f"episodes ended (one at step {len(called[0])}): the observation of the last step is that of "
            "a new episode",
            fix,
        )
        return
    if len(ends) < 3 or len(first) < 3 or max(len(episode) for episode, _ in ends) < 2:
        return
    low, high = np.min(first, 0), np.max(first, 0)
    slack = 0.25 * (high - low)

    def new(obs: object) -> bool:
        row = vector(obs)
        return bool(((row >= low - slack) & (row <= high + slack)).all())

    begun = [episode for episode, _ in ends if new(episode.obs[-1])]
    inside = [obs for episode, _ in ends for obs in episode.obs[1:-1]][-400:]
    share = sum(map(new, inside)) / max(len(inside), 1)
    if len(begun) == len(ends) and share < 0.35 and share ** len(ends) < 1e-3 and _goes_on(trial):
        trial.findings.add(
            ERROR,
            "autoreset",
            f"the last observation of each of {len(ends)} episodes looks like a first "
            f"one (of the others {share:.0%} do), and steps go on after the end",
            fix,
        )


def _goes_on(trial: Trial) -> bool:
    """Whether a step after an episode's end is one of a running episode."""
    shortest = min((episode for episode in trial.episodes if episode.ended), key=len)
    number = trial.episodes.index(shortest)
    try:
        with trial.fresh() as subject:
            subject.findings = Findings()  # such a step is nobody's right
            if not play(subject, shortest.seed, number, shortest.style, len(shortest)).ended:
                return False
            rng = np.random.default_rng(5)
            step = subject.step(draw(subject.action_spec, rng, "random"))
            return not (step.terminated or step.truncated)
    except Broken:
        return False


def final_obs(trial: Trial) -> None:
    """The last observation is one of the env, not a placeholder."""
    ends = [episode for episode in trial.episodes if episode.ended and len(episode) > 1]
    if len(ends) < 3 or not vector(ends[0].obs[-1]).size:
        return
    truncated = any(episode.steps[-1].truncated for episode in ends)
    level = WARNING if truncated else NOTE
    last = [vector(episode.obs[-1]) for episode in ends]
    others = {vector(obs).tobytes() for episode in ends for obs in episode.obs[:-1]}
    blank = all(row.size > 1 and (row == row[0]).all() and (row == last[0]).all() for row in last)
    if blank and last[0].tobytes() not in others:
        trial.findings.add(
            level,
            "final-obs",
            f"the last observation of all {len(ends)} episodes is {last[0][0]:g} throughout: a placeholder",
            "return the observation in which the episode ended",
        )
        return
    repeated = all(equal(episode.obs[-1], episode.obs[-2]) for episode in ends)
    if repeated and not any(equal(a, b) for e in ends for a, b in zip(e.obs[:-2], e.obs[1:-1], strict=True)):
        trial.findings.add(
            level,
            "final-obs",
            f"the last observation of all {len(ends)} episodes is the one before again, which no other step does",
            "return the observation after the last step",
        )


def score(trial: Trial) -> None:
    """``final_eval_reward`` is in the last info of an episode of a ``BaseEnv``, and is of that episode."""
    ends = [episode for episode in trial.episodes if episode.ended]
    if not ends or trial.subject is None or trial.subject.is_gymnasium:
        return
    missing = [episode for episode in ends if "final_eval_reward" not in episode.steps[-1].info]
    if missing:
        trial.findings.add(
            NOTE,
            "score",
            f"the last info of {len(missing)} of {len(ends)} episodes has no 'final_eval_reward'",
            "nothing, if the sum of the rewards is the score",
        )
        return
    scores = []
    for episode in ends:
        value = episode.steps[-1].info["final_eval_reward"]
        if np.size(value) != 1 or np.asarray(value).dtype.kind not in "biuf" or not np.isfinite(value).all():
            trial.findings.add(ERROR, "score", f"info['final_eval_reward'] is {value!r}", "make it one finite number")
            return
        scores.append(float(np.asarray(value).reshape(-1)[0]))
    sums = [sum(step.reward for step in episode.steps) for episode in ends]
    total = np.cumsum(sums)
    if len(ends) > 1 and np.allclose(scores, total) and not np.allclose(scores, sums):
        trial.findings.add(
            ERROR,
            "score",
            f"info['final_eval_reward'] adds up over episodes ({scores[0]:g}, {scores[1]:g}, ...)",
            "set the sum to 0 in reset()",
        )
