"""Turns consecutive rows into training items: n-step windows, advantages, unrolls; vectorized over time and lanes."""

import math
from collections import deque
from typing import Any

import torch
from torch import Tensor

from nervex.rl_utils.advantage import gae, gae_data
from nervex.rl_utils.checks import check_shape
from nervex.rl_utils.trajectory import Columns, Trajectory
from nervex.utils.errors import ConfigError, SpecError, did_you_mean
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

    def get_gae(self, data: Any, last_value: Any, gamma: float, gae_lambda: float) -> Any:
        """Adds generalized advantage estimates ``adv`` and ``return_`` = adv + value, targets of the value.

        Every row gets one, the last of each lane with ``last_value``; a row that ``get_traj`` hands back gets it when
        it comes again. A truncated row inside the block bootstraps from the value of the dummy row after it. See
        :func:`nervex.rl_utils.advantage.gae`.

        Args:
            data: rows with ``value``, ``reward`` and the reserved columns (in a list, ``done`` or none: a lane that
                has not ended).
            last_value: value of the observation after each lane's last row (``last_obs``; for a list, the last
                ``timestep.obs``), float [b] or a number; not used where the last row terminated.
            gamma: discount factor γ.
            gae_lambda: λ.

        Raises:
            SpecError: ``value`` or ``last_value`` is missing or of a wrong shape, or a time limit ended an episode
                inside the block and the row of its final observation is not there.
        """
        if isinstance(data, Trajectory):
            return _with_gae(data, last_value, gamma, gae_lambda)
        return _with_gae(_lane(data), last_value, gamma, gae_lambda).to_rows() if data else []

    def get_gae_with_default_last_value(self, data: Any, done: Any, gamma: float, gae_lambda: float) -> Any:
        """:meth:`get_gae` for when the value after the last row is not at hand.

        Where the last row terminated, nothing follows and 0 is that value. Elsewhere the last row gives its value to
        the row before it and waits for its successor: it comes again with ``get_traj(..., return_num=1)``, and no row
        is lost; without, it is dropped (``valid`` False) and counted, as a window that has no end.

        Args:
            data: as for :meth:`get_gae`.
            done: whether the last row ended its episode, bool [b] or one for all; a row whose column ``truncated`` is
                true has not terminated.
            gamma: discount factor γ.
            gae_lambda: λ.

        Raises:
            SpecError: see :meth:`get_gae`.
        """
        if isinstance(data, Trajectory):
            return _with_gae(*_default_last_value(data, done), gamma, gae_lambda)
        return _with_gae(*_default_last_value(_lane(data), done), gamma, gae_lambda).to_rows() if data else []

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


def _lane(rows: Any) -> Trajectory:
    """Returns transitions of one lane as a trajectory; without ``done`` they are one that has not ended."""
    ends = [bool(row.get("terminated", False)) or bool(row.get("truncated", False)) for row in rows]
    traj = Trajectory.from_rows([{"done": end, "truncated": False, **row} for row, end in zip(rows, ends, strict=True)])
    traj.return_num = getattr(rows, "return_num", 0)
    return traj


def _with_gae(data: Trajectory, last_value: Any, gamma: float, gae_lambda: float) -> Trajectory:
    columns, total = data.columns, len(data)
    if "value" not in columns:
        raise SpecError("Adder.get_gae: the rows have no 'value'; return it from _process_transition")
    value = _one_number("value", columns["value"], (total, data.lane_num))  # [T, b]
    reward = _one_number("reward", columns["reward"], (total, data.lane_num))  # [T, b]
    last_value = torch.as_tensor(last_value, dtype=value.dtype, device=value.device)
    last_value = _one_number("last_value", last_value.expand(data.lane_num) if last_value.dim() == 0 else last_value,
                             (data.lane_num,))  # fmt: skip
    _check_final_rows(columns)
    values = torch.cat([value, torch.zeros_like(value[:1])])  # [T+1, b]
    after = data.length if data.length is not None else total  # row after each lane's last one
    values[after, torch.arange(data.lane_num, device=value.device)] = last_value
    adv = gae(gae_data(values, reward, *(columns[k] for k in ("terminated", "truncated", "valid"))), gamma, gae_lambda)
    out = {**columns, "value": value, "adv": adv, "return_": adv + value}
    emitted = max(total - data.return_num, 0)
    if emitted == total:
        return Trajectory(out, data.last_obs, data.return_num, data.unroll_len, data.dropped, data.length)
    short: Any = tree_map(lambda x: x[:emitted], out)
    return Trajectory(short, None, data.return_num, data.unroll_len, data.dropped)


def _default_last_value(data: Trajectory, done: Any) -> tuple[Trajectory, Tensor]:
    """Returns the rows with their last ones as terminated, or as not valid where the value after them is unknown, and
    values of 0 after them."""
    _check_final_rows(data.columns)
    columns, lane_num = dict(data.columns), data.lane_num
    lane = torch.arange(lane_num)
    last = (data.length if data.length is not None else torch.full((lane_num,), len(data))) - 1  # [b]
    done = torch.as_tensor(done).bool().reshape(-1).expand(lane_num)  # [b]
    terminated, valid = columns["terminated"].clone(), columns["valid"].clone()
    terminated[last, lane] |= done & ~columns["truncated"][last, lane] & valid[last, lane]
    unknown = valid[last, lane] & ~terminated[last, lane]  # [b]
    valid[last, lane] &= ~unknown
    dropped = 0 if data.return_num else int(unknown.sum())
    columns |= {"terminated": terminated, "valid": valid}
    out = Trajectory(columns, data.last_obs, data.return_num, data.unroll_len, data.dropped + dropped, data.length)
    return out, torch.zeros(lane_num)


def _check_final_rows(columns: Columns) -> None:
    """Raises SpecError if a truncated row is followed by a transition: the row of the final observation is missing."""
    if (columns["truncated"][:-1] & ~columns["terminated"][:-1] & columns["valid"][1:]).any():
        raise SpecError(
            "Adder.get_gae: a truncated row is followed by one of the next episode, so the value of its final "
            "observation is missing; keep the dummy row between them ('valid' False), or cut the rows there"
        )


def _one_number(name: str, x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Returns ``x`` of ``shape``, without a last dimension of size 1."""
    x = x.squeeze(-1) if x.dim() == len(shape) + 1 and x.shape[-1] == 1 else x
    check_shape("Adder.get_gae", name, x, shape)
    return x


def _pad_rows(columns: Columns, num: int) -> Columns:
    """Appends ``num`` copies of the last row with reward 0, ``done`` and ``terminated`` True and ``valid`` False."""
    padded: Any = tree_map(lambda x: torch.cat([x, x[-1:].expand(num, *x.shape[1:])]), columns)
    for key, value in (("reward", 0), ("done", True), ("terminated", True), ("valid", False)):
        if key in padded:
            padded[key][-num:] = value
    return padded
