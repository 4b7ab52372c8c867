"""Probes of what observations, rewards and actions are like: whether they change, how large they are, what masks do."""

from typing import Any

import numpy as np

from nervex.envs.base_env import LeafSpec
from nervex.envs.doctor.finding import ERROR, NOTE, WARNING
from nervex.envs.doctor.play import difference, equal, mask_of, play
from nervex.envs.doctor.spaces import spec_leaves, value_leaves
from nervex.envs.doctor.trial import SEEDS, Trial

_LARGE_REWARD, _HUGE_REWARD = 1e2, 1e4
_LARGE_OBS = 1e3


def rewards(trial: Trial) -> None:
    """Rewards are of a size that networks learn."""
    values = [step.reward for episode in trial.episodes for step in episode.steps if np.isfinite(step.reward)]
    if not values:
        return
    largest = max(values, key=abs)
    if abs(largest) >= _LARGE_REWARD:
        level = WARNING if abs(largest) >= _HUGE_REWARD else NOTE
        trial.findings.add(
            level,
            "reward-scale",
            f"rewards reach {largest:.4g}",
            "divide them in a wrapper "
            "(TransformReward), or set policy.normalize.reward, so that returns are about 1 to 100",
        )
    if not any(values):
        trial.findings.add(
            NOTE,
            "reward-zero",
            f"all {len(values)} rewards were 0",
            "nothing, if random play is not expected to find one",
        )
    elif (
        len(values) >= 50
        and all(
            [step.reward for step in e.steps] == list(np.cumsum([e.steps[0].reward] * len(e)))
            for e in trial.episodes
            if len(e)
        )
        and any(len(e) > 3 for e in trial.episodes)
    ):
        trial.findings.add(
            WARNING,
            "reward-sum",
            f"the reward of step t is t times that of step 1 in all "
            f"{len(trial.episodes)} episodes: it looks like the return so far",
            "return the reward of the step alone",
        )


def changes(trial: Trial) -> None:
    """Observations change from step to step."""
    long = [episode for episode in trial.episodes if len(episode) > 1]
    if not long:
        return
    steps = sum(map(len, long))
    size = sum(leaf.size for leaf in value_leaves(long[0].obs[0]))
    still = all(equal(episode.obs[0], obs) for episode in long for obs in episode.obs[1:])
    if still:
        level = WARNING if size > 1 and steps >= 20 else NOTE
        trial.findings.add(
            level,
            "obs-constant",
            f"the observation never changed within an episode ({steps} steps of {len(long)} episodes)",
            "return what the env is like after the step",
        )
        return
    if len(long) < 3 or steps < 30:
        return
    late = all(equal(episode.obs[0], episode.obs[1]) for episode in long)
    if late and not any(equal(a, b) for e in long for a, b in zip(e.obs[1:], e.obs[2:], strict=False)):
        trial.findings.add(
            WARNING,
            "obs-late",
            f"the observation of step 1 is that of the reset in all {len(long)} "
            "episodes, and every later one differs from the one before: it seems to be one step old",
            "make the observation after the state has changed",
        )


def action_effect(trial: Trial) -> None:
    """Something depends on the action."""
    if "same-seed" in trial.findings:
        return
    whole, seen, step_num = True, False, 0
    with trial.fresh() as subject:
        for seed in SEEDS[:2]:
            records = [
                play(subject, seed, draw_seed, style, 2 * trial.prefix)
                for draw_seed, style in ((1, "low"), (2, "high"), (3, "random"))
            ]
            whole = whole and all(record.ended for record in records)
            step_num += sum(map(len, records))
            pairs = [(records[0], other) for other in records[1:]]
            seen = seen or any(difference(a, b) is not None or len(a) != len(b) for a, b in pairs)
            if seen or not trial.affords(1, 3, 6 * trial.prefix):
                break
    if not seen and "carried-over" not in trial.findings:
        level = WARNING if whole or step_num >= 300 else NOTE
        trial.findings.add(
            level,
            "action-effect",
            f"actions made no difference to observations, rewards or ends in "
            f"{step_num} steps (all at their least, all at their most, and random ones)",
            "use the action in step()",
        )


def masks(trial: Trial) -> None:
    """An action mask has an entry per action, allows one, and forbids none forever."""
    subject = trial.subject
    if subject is None or not isinstance(subject.action_spec, LeafSpec):
        return
    spec = subject.action_spec
    rows: list[np.ndarray] = []
    for number, episode in enumerate(trial.episodes):
        for t, obs in enumerate(episode.obs):
            mask = mask_of(obs, spec)
            if mask is None:
                _elsewhere(trial, episode.steps)
                return
            row = np.asarray(mask).ravel()
            where = f"the action mask of episode {number}, step {t}"
            total = sum(spec.n) if isinstance(spec.n, tuple) else spec.n
            if row.size != total:
                trial.findings.add(
                    ERROR,
                    "mask-shape",
                    f"{where} has {row.size} entries for {total} actions",
                    "give one entry per action (of every head, in a row)",
                )
                return
            if not np.isin(row, (0, 1)).all():
                trial.findings.add(ERROR, "mask-values", f"{where} is {row.tolist()[:8]}", "let 1 be allowed, 0 not")
            last = t == len(episode) and episode.ended
            parts = np.split(row, np.cumsum(spec.n)[:-1]) if isinstance(spec.n, tuple) else [row]
            if not last and not all(part.any() for part in parts):
                trial.findings.add(
                    ERROR,
                    "mask-empty",
                    f"{where} allows no action",
                    "allow at least one, or end the episode on the step before",
                )
            if not last:
                rows.append(row != 0)
    never = np.flatnonzero(~np.any(rows, 0)) if rows else np.zeros(0)
    if never.size and len(rows) >= 50:
        trial.findings.add(
            NOTE,
            "mask-never",
            f"action(s) {never.tolist()[:8]} were never allowed in {len(rows)} observations",
            "drop them from the space, if they never are",
        )


def _elsewhere(trial: Trial, steps: list[Any]) -> None:
    if steps and "action_mask" in steps[0].info:
        trial.findings.add(
            NOTE,
            "mask-in-info",
            "info holds an 'action_mask', which policies do not see",
            "put it into a dict observation, under the key 'action_mask'",
        )


def spaces(trial: Trial) -> None:
    """Declared spaces are usable: bounds in order, dtypes that need no more memory than they should."""
    subject = trial.subject
    if subject is None:
        return
    for side, spec in (("obs", subject.obs_spec), ("action", subject.action_spec)):
        for name, leaf in spec_leaves(spec, side):
            low, high = np.asarray(leaf.low, np.float64), np.asarray(leaf.high, np.float64)
            if leaf.kind == "box" and (low > high).any():
                trial.findings.add(
                    ERROR,
                    f"{side}-space",
                    f"{name} declares min {low.max():g} above max {high.min():g}",
                    "exchange them",
                )
            if leaf.kind == "box" and side == "action" and (low == high).all() and low.size:
                trial.findings.add(
                    ERROR,
                    "action-space",
                    f"{name} declares min = max = {low.flat[0]:g}: there is one action only",
                    "correct the bounds",
                )
            if side == "action" and leaf.kind == "box" and not (np.isfinite(low).all() and np.isfinite(high).all()):
                trial.findings.add(
                    NOTE,
                    "action-unbounded",
                    f"{name} is unbounded, so that it is not scaled to [-1, 1]; "
                    "random actions were tried between -1 and 1",
                    "declare the bounds that it has",
                )
            if side == "obs":
                _memory(trial, name, leaf)


def _memory(trial: Trial, name: str, leaf: LeafSpec) -> None:
    shape, dtype = tuple(leaf.shape), np.dtype(leaf.dtype)
    image = len(shape) == 3 and sum(n >= 16 for n in shape) >= 2
    if dtype == np.float64 and trial.subject is not None and not trial.subject.is_gymnasium:
        trial.findings.add(
            NOTE,
            "obs-float64",
            f"{name} is declared as float64, which takes twice the memory of float32",
            "cast to float32 unless it is needed",
        )
    if image and dtype.kind == "f":
        trial.findings.add(
            NOTE,
            "image-float",
            f"{name} {list(shape)} looks like an image in {dtype}, which takes 4 times the memory of uint8",
            "send uint8, 0 to 255; networks divide it by 255",
        )
    if image and shape[-1] in (1, 3, 4) and shape[0] >= 16:
        trial.findings.add(
            NOTE,
            "image-layout",
            f"{name} {list(shape)} has its channels last; convolutions take [C, H, W]",
            "transpose it in the env or in a wrapper",
        )
    if image and dtype == np.uint8 and np.max(leaf.high) == 255 and not isinstance(trial.episodes[0].obs[0], dict):
        most = max(int(np.max(obs)) for episode in trial.episodes for obs in episode.obs[:50])
        if most <= 1:
            trial.findings.add(
                WARNING,
                "image-range",
                f"{name} is uint8 up to 255, and no pixel was above {most}: it was scaled to [0, 1] before the cast",
                "send 0 to 255",
            )


def obs_scale(trial: Trial) -> None:
    """Float observations are of a size that networks take."""
    largest = 0.0
    for episode in trial.episodes:
        for obs in episode.obs[:: max(1, len(episode.obs) // 50)]:
            for leaf in value_leaves(obs):
                if leaf.dtype.kind == "f" and leaf.size:
                    largest = max(
                        largest, float(np.nanmax(np.abs(leaf, where=np.isfinite(leaf), out=np.zeros_like(leaf))))
                    )
    if largest >= _LARGE_OBS:
        trial.findings.add(
            NOTE,
            "obs-scale",
            f"observations reach {largest:.3g}",
            "set policy.normalize.obs: true, or scale them in the env",
        )
