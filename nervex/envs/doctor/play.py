"""Plays episodes with actions drawn from a generator, records them, and compares records."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from nervex.envs.base_env import LeafSpec
from nervex.envs.doctor.spaces import copied, draw, value_leaves
from nervex.envs.doctor.subject import Step, Subject

STYLES = ("random", "hold", "sticky", "low", "high", "random")


class Episode:
    """The record of an episode, or of its beginning.

    Attributes:
        seed, style: how it was played.
        obs: T + 1 observations, copied as they came.
        sent: the same, as the env's own objects.
        steps: T steps.
        actions: T actions, as they were given.
    """

    def __init__(self, seed: int | None, style: str) -> None:
        self.seed, self.style = seed, style
        self.obs: list[Any] = []
        self.sent: list[Any] = []
        self.steps: list[Step] = []
        self.actions: list[Any] = []

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def ended(self) -> bool:
        """Whether the env ended it."""
        return bool(self.steps) and (self.steps[-1].terminated or self.steps[-1].truncated)


def mask_of(obs: Any, spec: Any) -> Any:
    """Returns the action mask in an observation, or None."""
    simple = isinstance(spec, LeafSpec) and spec.kind in ("discrete", "multi_discrete")
    return obs.get("action_mask") if simple and isinstance(obs, dict) else None


def playing(
    subject: Subject, seed: int | None, draw_seed: int, style: str, limit: int, scribble: str = "", keep: bool = True
) -> Iterator[Episode]:
    """Plays one episode, yielding its record after the reset and after each step.

    Args:
        subject: the env.
        seed: of the reset; None: without.
        draw_seed: of the actions: where the env does the same, so do the actions.
        style: one of ``STYLES``.
        limit: steps after which it is broken off.
        scribble: ``'obs'`` or ``'action'``: overwrite it after each step, as its owner may.
        keep: record observations and steps; without, only the last of each.

    Raises:
        Broken: the env cannot be played.
    """
    rng = np.random.default_rng(draw_seed)
    record = Episode(seed, style)
    obs = subject.reset(seed)
    action: Any = None
    record.obs.append(copied(obs))
    record.sent.append(obs)
    yield record
    for _ in range(limit):
        fresh = style not in ("hold", "sticky") or action is None or (style == "sticky" and rng.random() < 0.2)
        mask = mask_of(record.obs[-1], subject.action_spec)
        if fresh or mask is not None:
            action = draw(subject.action_spec, rng, style, mask)
        if scribble == "obs":
            _scribble(obs)
        given = copied(action)
        step = subject.step(given)
        obs = step.obs
        if scribble == "action":
            _scribble(given)
        if not keep:
            for kept in (record.obs, record.sent, record.steps):
                kept.clear()
        record.obs.append(copied(obs))
        record.sent.append(obs)
        record.steps.append(step)
        record.actions.append((copied(action), given) if keep else None)
        yield record
        if step.terminated or step.truncated:
            return


def play(subject: Subject, seed: int | None, draw_seed: int, style: str, limit: int, scribble: str = "") -> Episode:
    """Returns the record of an episode; see ``playing``."""
    record = None
    for record in playing(subject, seed, draw_seed, style, limit, scribble):  # noqa: B007
        pass
    assert record is not None
    return record


def _scribble(value: Any) -> None:
    for leaf in value_leaves(value):
        if leaf.flags.writeable:
            leaf[...] = 1 if leaf.dtype.kind == "b" else 77


def equal(a: Any, b: Any) -> bool:
    """Whether two observations are the same, NaN included."""
    left, right = value_leaves(a), value_leaves(b)
    return len(left) == len(right) and all(
        x.shape == y.shape and np.array_equal(x, y, equal_nan=x.dtype.kind == y.dtype.kind == "f")
        for x, y in zip(left, right, strict=True)
    )


def difference(a: Episode, b: Episode, obs_only: bool = False) -> str | None:
    """Returns where two records differ first, in words, or None: observations, rewards and ends are compared."""
    for t in range(min(len(a.obs), len(b.obs))):
        if not equal(a.obs[t], b.obs[t]):
            return f"observation of step {t}: {_numbers(a.obs[t], b.obs[t])}"
        if t and not obs_only:
            x, y = a.steps[t - 1], b.steps[t - 1]
            if x.reward != y.reward and not (np.isnan(x.reward) and np.isnan(y.reward)):
                return f"reward of step {t}: {x.reward:.6g} and {y.reward:.6g}"
            if x[2:4] != y[2:4]:
                return f"end at step {t}: {x.terminated}, {x.truncated} and {y.terminated}, {y.truncated}"
    return None


def _numbers(a: Any, b: Any) -> str:
    for x, y in zip(value_leaves(a), value_leaves(b), strict=False):
        if x.shape != y.shape:
            return f"shape {list(x.shape)} and {list(y.shape)}"
        if not np.array_equal(x, y):
            wrong = np.flatnonzero(x.ravel() != y.ravel())
            if wrong.size:
                return f"{x.ravel()[wrong[0]]:.6g} and {y.ravel()[wrong[0]]:.6g}"
    return "other numbers"


def vector(obs: Any, most: int = 4096) -> np.ndarray:
    """Returns an observation as one float64 vector, thinned out to at most ``most`` numbers."""
    flat = np.concatenate([leaf.ravel().astype(np.float64) for leaf in value_leaves(obs)] or [np.zeros(0)])
    return flat[:: -(-max(flat.size, 1) // most)]
