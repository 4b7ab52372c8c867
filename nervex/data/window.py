"""What a training sample is, in terms of stored rows: gathered at sample time from row indices."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from nervex import kernels
from nervex.data.columns import Columns, nest
from nervex.data.storage import RowStorage
from nervex.kernels.patience import kernels_are_worth_it
from nervex.kernels.row_flags import ENDED, GAP, SEAM, VALID, WRITTEN

_SAMPLE = WRITTEN | VALID
_BREAK = GAP | SEAM


@dataclass
class Plan:
    """Candidate samples: first slots int64 [M], window lengths int64 [M], and which of them can be gathered [M]."""

    slot: np.ndarray
    steps: np.ndarray
    ok: np.ndarray

    def take(self, index: np.ndarray) -> "Plan":
        """Returns the candidates ``index``."""
        return Plan(self.slot[index], self.steps[index], self.ok[index])


class Window(Protocol):
    """The rows that belong to one sample."""

    columns: tuple[str, ...]  #: columns that it reads, so that rows must have them
    lookahead: int  #: rows after the first one that decide whether a row can be sampled
    stride: int  #: samples begin at every so many rows of a lane
    unroll_len: int  #: rows of a sample that are trained together
    time_first: bool  #: columns of a batch are [U, B, ...], else [B, ...]

    def plan(self, storage: RowStorage, slot: np.ndarray) -> Plan:
        """Finds the windows that begin at ``slot`` int [M]."""

    def gather(self, storage: RowStorage, plan: Plan) -> Columns:
        """Returns the batch of a plan whose windows are all complete, as tensors [B, ...]."""


class ItemWindow:
    """Finished items: a row is a sample.

    Args:
        time_first: an item is an unroll [U, ...], and the batch is wanted as [U, B, ...].
    """

    columns: tuple[str, ...] = ()
    lookahead = 0
    stride = 1
    unroll_len = 1

    def __init__(self, time_first: bool = False) -> None:
        self.time_first = time_first

    def plan(self, storage: RowStorage, slot: np.ndarray) -> Plan:
        return Plan(slot, np.ones_like(slot), storage.flags.take(slot) & _SAMPLE == _SAMPLE)

    def gather(self, storage: RowStorage, plan: Plan) -> Columns:
        batch = {k: torch.from_numpy(v) for k, v in storage.take(plan.slot).items()}
        if self.time_first:
            batch = {k: v.transpose(0, 1) if v.dim() > 1 else v for k, v in batch.items()}
        return nest(batch)


class NStepWindow:
    """n-step transitions gathered from consecutive rows.

    A batch holds every stored column of the window's first row, and

    - ``next_obs``: the observation after the window, k rows later (k = n, or fewer where the episode ended),
    - ``reward`` float [B, n]: rewards of the window, zero after its end,
    - ``done`` bool [B]: the task terminated in the window,
    - ``value_gamma`` float [B]: γ^k, the factor of the value that bootstraps.

    A row can be sampled when it is valid and its whole window, with the row after it, has been stored without a gap.

    Args:
        nstep: n, at least 1.
        discount_factor: γ.
    """

    columns: tuple[str, ...] = ("obs", "reward")
    stride = 1
    unroll_len = 1
    time_first = False

    def __init__(self, nstep: int = 1, discount_factor: float = 0.99) -> None:
        self.nstep = nstep
        self.discount_factor = discount_factor
        self.lookahead = nstep
        self._plans = 0
        self._power = (discount_factor ** np.arange(nstep + 1)).astype(np.float32)

    def plan(self, storage: RowStorage, slot: np.ndarray) -> Plan:
        flags = storage.flags
        self._plans += 1
        if kernels_are_worth_it(self._plans):
            found = Plan(slot, np.empty(len(slot), np.int64), np.empty(len(slot), np.bool_))
            kernels.nstep_windows(flags, storage.lane_num, self.nstep, slot, found.steps, found.ok)
            return found
        first = flags.take(slot)
        ok = first & _SAMPLE == _SAMPLE
        if self.nstep == 1:
            ok &= flags.take(storage.step(slot, 1)) & _BREAK == 0
            return Plan(slot, np.ones_like(slot), ok)
        steps = np.full(len(slot), self.nstep)
        alive = np.ones(len(slot), dtype=bool)
        row, here = slot, first
        for i in range(self.nstep):
            ended = alive & (here & ENDED > 0)
            steps[ended] = i + 1
            row = storage.step(row, 1)
            here = flags.take(row)
            ok &= ~alive | (here & _BREAK == 0)  # the row after this one must follow it, up to the bootstrapping row
            alive &= ~ended
        return Plan(slot, steps, ok)

    def gather(self, storage: RowStorage, plan: Plan) -> Columns:
        slot, steps = plan.slot, plan.steps
        after = storage.step(slot, steps)
        obs = [k for k in storage.names if k == "obs" or k[:4] == "obs/"]
        batch: dict[str, Any] = storage.take(slot, after, obs)
        if self.nstep == 1:
            batch["reward"] = batch["reward"][:, None].astype(np.float32, copy=False)
        else:
            batch |= self._later(storage, plan)
        batch["done"] = batch["terminated"]
        batch["value_gamma"] = self._power[steps]
        return nest({k: torch.from_numpy(v) for k, v in batch.items()})

    def _later(self, storage: RowStorage, plan: Plan) -> dict[str, np.ndarray]:
        """Returns the rewards [B, n] of the windows and the flags of their last rows."""
        slot, steps = plan.slot, plan.steps
        step = np.arange(self.nstep)
        rewards = storage.read("reward", storage.step(slot[:, None], step))  # [B, n, ...]
        inside = (step < steps[:, None]).reshape(len(slot), self.nstep, *[1] * (rewards.ndim - 2))
        last = storage.step(slot, steps - 1)
        ends = {k: storage.read(k, last) for k in ("terminated", "truncated")}
        return {"reward": np.where(inside, rewards, 0).astype(np.float32, copy=False), **ends}


class SequenceWindow:
    """Unrolls of consecutive rows, which may hold the ends and beginnings of episodes.

    A batch holds every stored column as [unroll_len, B, ...], with ``prev_state`` [B, ...] (recurrent state before the
    first row) and ``begin`` bool [unroll_len, B] (an episode begins at the row: the state is reset before it).

    Kapturowski et al. 2019, https://openreview.net/forum?id=r1lyTjAqYX, section 2.3: stored state, overlapping unrolls.

    Args:
        unroll_len: rows of an unroll.
        stride: rows from the beginning of one unroll to that of the next.
    """

    columns: tuple[str, ...] = ("obs", "reward", "episode_step")
    time_first = True

    def __init__(self, unroll_len: int, stride: int) -> None:
        self.unroll_len = unroll_len
        self.stride = stride
        self.lookahead = unroll_len - 1

    def plan(self, storage: RowStorage, slot: np.ndarray) -> Plan:
        later = storage.flags.take(storage.step(slot, np.arange(1, self.unroll_len)[:, None]))  # [L − 1, M]
        ok = (storage.flags.take(slot) & WRITTEN > 0) & (later & _BREAK == 0).all(axis=0)
        return Plan(slot, np.full(len(slot), self.unroll_len), ok)

    def gather(self, storage: RowStorage, plan: Plan) -> Columns:
        rows = storage.step(plan.slot, np.arange(self.unroll_len)[:, None])  # [L, B]
        first = storage.sparse_slot(plan.slot)
        batch = {k: storage.read(k, first if k.startswith("prev_state") else rows) for k in storage.names}
        batch["begin"] = batch["valid"] & (batch["episode_step"] == 0)
        return nest({k: torch.from_numpy(v) for k, v in batch.items()})
