"""Turns consecutive rows into training items: n-step windows and unrolls, vectorized over time and lanes."""

import math
from collections import deque
from typing import Any

import torch
from torch import Tensor

from nervex.rl_utils.trajectory import Columns, Trajectory
from nervex.utils.errors import ConfigError, did_you_mean
from nervex.utils.tree import tree_map

_TAILS = ("last", "drop", "null_padding")


class TransitionList(list):
    """Transitions of one lane as a list of dicts, with the overlap that :meth:`Adder.get_traj` was asked for."""

    return_num: int = 0


class Adder:
    """Builds training items from what an actor collected.

    Every method takes a :class:`Trajectory` of columns [T, b, ...] or a list of transitions of one lane, and returns
    the same kind.

    Args:
        use_cuda: kept for the tutorial's call; data stay on the device where they are.
        unroll_len: rows of one training item; 1: single transitions.
        last_fn_type: what happens to the rows that do not fill the last unroll: ``'last'`` (the unroll begins
            earlier and overlaps the one before), ``'drop'``, or ``'null_padding'`` (rows with ``valid`` False).
        null_transition: kept for the tutorial's call; padding repeats the last row with reward 0 and ``done`` True.
    """

    def __init__(
        self, use_cuda: bool = False, unroll_len: int = 1, last_fn_type: str = "last", null_transition: Any = None
    ) -> None:
        if last_fn_type not in _TAILS:
            raise ConfigError(
                f"Adder: unknown last_fn_type '{last_fn_type}'{did_you_mean(last_fn_type, _TAILS)} "
                f"(known: {', '.join(_TAILS)})"
            )
        if unroll_len < 1:
            raise ConfigError(f"Adder: unroll_len is {unroll_len}, expected at least 1")
        self._unroll_len = unroll_len
        self._tail = last_fn_type

    def get_traj(self, data: Any, traj_len: float, return_num: int = 0) -> Any:
        """Takes the collected rows, and asks for the last ``return_num`` of them again.

        Args:
            data: a :class:`Trajectory`, or a deque of transitions of one lane (emptied but for the returned rows).
            traj_len: rows of a cut; ``inf``: whole episodes, which need no overlap.
            return_num: rows to be handed back before the lane's next rows, so that windows which cross the cut are
                built from both sides, each exactly once.
        """
        return_num = 0 if math.isinf(traj_len) else return_num
        if isinstance(data, Trajectory):
            data.return_num = return_num
            return data
        rows = TransitionList(data)
        rows.return_num = return_num
        if isinstance(data, deque):
            data.clear()
            data.extend(rows[max(len(rows) - return_num, 0) :] if return_num else [])
        return rows

    def get_nstep_return_data(
        self, data: Any, nstep: int, traj_len: float = math.inf, gamma: float | None = None
    ) -> Any:
        """Replaces every transition by its n-step window.

        ``reward`` becomes [.., n] (zeros after the episode's end), ``next_obs`` the observation after the window,
        ``done`` whether the task *terminated* in it. A window that a time limit cut after k < n steps needs the
        factor γ^k: with ``gamma`` it carries ``value_gamma`` [..]; without, it is dropped and counted. Windows that
        reach into the rows handed back by ``get_traj`` are left for the next call.

        Args:
            data: rows with ``reward``, ``next_obs``, ``done`` and the reserved columns.
            nstep: n, at least 1.
            traj_len: kept for the tutorial's call.
            gamma: discount factor, if the loss takes ``value_gamma``.
        """
        if nstep < 1:
            raise ConfigError(f"Adder.get_nstep_return_data: nstep is {nstep}, expected at least 1")
        if isinstance(data, Trajectory):
            return _nstep_windows(data, nstep, gamma)
        if not data:
            return []
        traj = Trajectory.from_rows(data)
        traj.return_num = getattr(data, "return_num", 0)
        return _nstep_windows(traj, nstep, gamma).to_rows()

    def get_train_sample(self, data: Any) -> Any:
        """Cuts rows into unrolls of ``unroll_len``: columns [unroll_len, items, ...]; unchanged for a length of 1."""
        if self._unroll_len == 1:
            return data
        if isinstance(data, Trajectory):
            return self._unroll(data)
        if not data:
            return []
        unrolled = self._unroll(Trajectory.from_rows(data)).columns
        item_num = unrolled["valid"].shape[1]
        return [tree_map(lambda x, i=i: x[:, i], unrolled) for i in range(item_num)]

    def _unroll(self, data: Trajectory) -> Trajectory:
        size, total = self._unroll_len, len(data)
        starts = list(range(0, total - size + 1, size))
        columns = data.columns
        rest = total - len(starts) * size
        if rest and self._tail != "drop":
            if self._tail == "last" and starts:
                starts.append(total - size)
            else:
                columns = _pad_rows(columns, size - rest)
                starts.append(len(starts) * size)
        if not starts:
            empty: Any = tree_map(lambda x: x[:0].reshape(size, 0, *x.shape[2:]), columns)
            return Trajectory(empty, unroll_len=size, dropped=data.dropped)
        blocks: Any = tree_map(lambda x: torch.cat([x[s : s + size] for s in starts], dim=1), columns)
        return Trajectory(blocks, unroll_len=size, dropped=data.dropped)


def _nstep_windows(data: Trajectory, nstep: int, gamma: float | None) -> Trajectory:
    columns: Columns = data.columns
    terminated, truncated, valid = columns["terminated"], columns["truncated"], columns["valid"]
    total = len(data)
    emitted = max(total - data.return_num, 0)
    out: Any = tree_map(lambda x: x[:emitted], columns)
    if nstep == 1:
        out["done"] = out["terminated"]
        if gamma is not None:
            out["value_gamma"] = torch.full_like(out["reward"], gamma)
        return Trajectory(out, data.last_obs if emitted == total else None, data.return_num)
    if emitted == 0:
        out["reward"] = columns["reward"].new_zeros(0, data.lane_num, nstep)
        return Trajectory(out, return_num=data.return_num)
    rewards, steps, complete = _window_rows(columns["reward"], terminated | truncated, valid, nstep, emitted)
    last = torch.arange(emitted).unsqueeze(1) + steps - 1  # [M, b] last row of each window
    last = last.clamp(max=total - 1)
    lane = torch.arange(data.lane_num).expand_as(last)
    out["reward"] = rewards  # [M, b, n]
    if "next_obs" in columns:
        out["next_obs"] = tree_map(lambda x: x[last, lane], columns["next_obs"])
    out["terminated"] = out["done"] = terminated[last, lane]
    out["truncated"] = truncated[last, lane]
    cut_short = (steps < nstep) & truncated[last, lane] & ~terminated[last, lane]
    keep = valid[:emitted] & complete
    dropped = int((valid[:emitted] & ~complete).sum())
    if gamma is None:
        dropped += int((keep & cut_short).sum())
        keep = keep & ~cut_short
    else:
        out["value_gamma"] = gamma ** steps.to(rewards.dtype)
    out["valid"] = keep
    return Trajectory(out, return_num=data.return_num, dropped=dropped)


def _window_rows(reward: Tensor, end: Tensor, valid: Tensor, nstep: int, emitted: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns rewards [M, b, n], lengths [M, b] and whether each window is complete [M, b]."""
    total, lane_num = reward.shape
    rewards = reward.new_zeros(emitted, lane_num, nstep)
    steps = torch.zeros(emitted, lane_num, dtype=torch.long)
    alive = torch.ones(emitted, lane_num, dtype=torch.bool)
    ended = torch.zeros(emitted, lane_num, dtype=torch.bool)
    for i in range(nstep):
        rows = max(min(emitted, total - i), 0)  # windows whose row i lies inside the block
        inside = alive[:rows] & valid[i : i + rows]
        rewards[:rows, :, i] = torch.where(inside, reward[i : i + rows], rewards[:rows, :, i])
        steps[:rows] += inside
        ended[:rows] |= inside & end[i : i + rows]
        alive[:rows] = inside & ~end[i : i + rows]
        alive[rows:] = False
    return rewards, steps, ended | (steps == nstep)


def _pad_rows(columns: Columns, num: int) -> Columns:
    """Appends ``num`` copies of the last row with reward 0, ``done`` and ``terminated`` True and ``valid`` False."""
    padded: Any = tree_map(lambda x: torch.cat([x, x[-1:].expand(num, *x.shape[1:])]), columns)
    for key, value in (("reward", 0), ("done", True), ("terminated", True), ("valid", False)):
        if key in padded:
            padded[key][-num:] = value
    return padded
