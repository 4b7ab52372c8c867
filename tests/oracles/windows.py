"""n-step windows of episodes, one transition at a time, and streams of rows as an actor sees them."""

from collections.abc import Sequence
from typing import NamedTuple


class Step(NamedTuple):
    """One row of a lane: a transition, or the dummy after an episode's end (``valid`` False)."""

    obs: float
    next_obs: float
    reward: float
    terminated: bool
    truncated: bool
    valid: bool


class WindowOf(NamedTuple):
    """The n-step window that begins at a transition."""

    reward: tuple[float, ...]
    next_obs: float
    done: bool
    length: int
    cut_short: bool  # by a time limit, before it had n steps


def lane_rows(episodes: Sequence[tuple[int, str]], first_obs: int) -> list[Step]:
    """Returns the rows of a lane with next-step autoreset: after each episode ``(length, end)`` one dummy row.

    Every observation is another number, counted from ``first_obs``, and a transition's reward is its observation plus
    a half, so that any misalignment is a wrong number. ``end`` is 'terminated', 'truncated' or 'both'.
    """
    rows, obs = [], float(first_obs)
    for length, end in episodes:
        for t in range(length):
            last = t == length - 1
            rows.append(
                Step(
                    obs,
                    obs + 1,
                    obs + 0.5,
                    last and end in ("terminated", "both"),
                    last and end in ("truncated", "both"),
                    True,
                )
            )
            obs += 1
        rows.append(Step(obs, obs + 1, 0.0, False, False, False))  # from the final observation to the reset one
        obs += 1
    return rows


def windows(rows: Sequence[Step], nstep: int) -> dict[float, WindowOf]:
    """Returns the window of every transition of a lane, by its observation."""
    found = {}
    for start, first in enumerate(rows):
        if not first.valid:
            continue
        reward, last = [], first
        for row in rows[start : start + nstep]:
            reward.append(row.reward)
            last = row
            if row.terminated or row.truncated:
                break
        length = len(reward)
        found[first.obs] = WindowOf(
            tuple(reward) + (0.0,) * (nstep - length),
            last.next_obs,
            last.terminated,
            length,
            length < nstep and last.truncated and not last.terminated,
        )
    return found
