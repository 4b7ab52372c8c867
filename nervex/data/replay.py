"""Replay = storage x sampler x limiter."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from nervex.config.schema import complete, option
from nervex.data.columns import Columns, to_numpy
from nervex.data.limiter import Limiter
from nervex.data.sampler import PrioritizedSampler, Sampler, UniformSampler
from nervex.data.storage import RowStorage
from nervex.data.window import ItemWindow, Window
from nervex.utils.errors import ConfigError, NumericalError, SpecError


@dataclass
class ReplayConfig:
    """Section ``replay_buffer`` of a configuration."""

    meta_maxlen: int = option(100_000, ge=1, unit="rows", doc="capacity; the oldest rows are overwritten")
    max_reuse: float = option(float("inf"), ge=1, doc="how often a row may be sampled")
    min_sample_ratio: float = option(1.0, gt=0, doc="rows needed before learning starts, in batches")
    unroll_len: int = option(
        1, ge=1, unit="rows", doc="rows of one sample; the same value as policy.collect.unroll_len"
    )
    sampler: Literal["uniform", "prioritized"] = option("uniform", doc="how rows are chosen")
    alpha: float = option(0.6, ge=0, le=1, doc="exponent of the priorities (prioritized)")
    beta: float = option(0.4, ge=0, le=1, doc="exponent of the importance weights at the start (prioritized)")
    anneal_step: int = option(100_000, ge=0, unit="batches", doc="over which beta grows to 1 (prioritized)")


class Replay:
    """Holds what actors collected, and draws batches from it.

    Args:
        cfg: a ``ReplayConfig`` as mapping (missing keys take their defaults).
        lane_num: number of lanes that push rows.
        window: what one sample is; None: pushed rows are finished items.
        seed: of the draws.
    """

    def __init__(self, cfg: Any, lane_num: int, window: Window | None = None, seed: int = 0) -> None:
        self._cfg = cfg = complete(ReplayConfig, cfg)
        self._rows = window is not None
        self.window: Window = window if window is not None else ItemWindow(time_first=cfg["unroll_len"] > 1)
        rows = lane_num if self._rows else 1
        if cfg["meta_maxlen"] < rows * (self.window.lookahead + 1):
            raise ConfigError(
                f"replay_buffer.meta_maxlen is {cfg['meta_maxlen']}, too small for {rows} lanes and windows of "
                f"{self.window.lookahead + 1} rows; expected at least {rows * (self.window.lookahead + 1)}"
            )
        self.storage = RowStorage(cfg["meta_maxlen"], rows, cfg["max_reuse"], self.window.stride)
        self.sampler: Sampler = (
            PrioritizedSampler(self.storage.capacity, cfg["alpha"], cfg["beta"], cfg["anneal_step"])
            if cfg["sampler"] == "prioritized"
            else UniformSampler()
        )
        self.limiter = Limiter(cfg["min_sample_ratio"], cfg["max_reuse"])
        self._rng = np.random.default_rng(seed)
        self.prioritized = cfg["sampler"] == "prioritized"

    @property
    def count(self) -> int:
        """Transitions (or items) that are held and not used up."""
        return self.storage.valid_count - self.storage.spent_count

    @property
    def capacity(self) -> int:
        """Rows that fit."""
        return self.storage.capacity

    def push_data(self, columns: Columns, lane_id: Any = None, length: Any = None, gap: Any = None) -> None:
        """Stores a block.

        Args:
            columns: nested tensors or arrays [T, b, ...] with ``valid`` [T, b]; finished items may come in any such
                arrangement, or as unrolls [U, items, ...] when ``unroll_len`` is above 1.
            lane_id: lanes of the block, int [b]; needed for rows only.
            length: rows of each lane, int [b]; None: all T.
            gap: lanes whose rows do not follow the ones before them, bool [b]; None: no lane.
        """
        arrays = to_numpy(columns)
        if self._rows:
            if gap is not None:
                self.mark_gap(np.asarray(lane_id)[gap])
            lanes = self._checked_lanes(lane_id, arrays)
            missing = [name for name in self.window.columns if name not in arrays]
            if missing:
                raise SpecError(
                    f"replay: the rows lack {missing}, which a {type(self.window).__name__} reads; _process_transition "
                    f"returned {sorted(arrays)}"
                )
            slot = self.storage.add(arrays, lanes, None if length is None else np.asarray(length))
        else:
            arrays = self._items(arrays)
            slot = self.storage.add(arrays, np.zeros(1, dtype=np.int64))
        self.limiter.inserted += int(arrays["valid"].sum())
        if len(slot):
            self.sampler.added(self.storage, self.window, slot)

    def needed(self, batch_size: int, train_step: int) -> int:
        """Returns how many transitions must be held before ``train_step`` batches of ``batch_size`` are drawn."""
        return self.limiter.min_count(batch_size, train_step) * self.window.stride

    def check_room(self, needed: int) -> None:
        """Raises ConfigError when the replay is full and yet holds fewer than ``needed`` transitions: rows between
        episodes take their part, and short episodes have many."""
        usable = self.storage.valid_count  # those used up too: new ones take their place
        if usable < needed and self.storage.head.min() >= self.storage.ring_len:
            raise ConfigError(
                f"the replay is full with {self.capacity} rows, of which {usable} are usable transitions, and "
                f"{needed} are needed before learning; make replay_buffer.meta_maxlen larger"
            )

    def mark_gap(self, lane_id: Any) -> None:
        """Says that the next rows of these lanes do not follow the ones before them (an actor was restarted)."""
        if self._rows:
            self.storage.mark_gap(np.asarray(lane_id))

    def sample(self, batch_size: int) -> Columns | None:
        """Returns a batch, or None while too few rows are complete.

        The batch holds tensors [B, ...] (see the window), with ``weight`` float32 [B] (importance weights) and
        ``index`` int64 [B], which :meth:`update` takes back.
        """
        drawn = self.sampler.sample(self.storage, self.window, batch_size, self._rng)
        if drawn is None:
            return None
        plan, weight = drawn
        batch = self.window.gather(self.storage, plan)
        batch["weight"] = torch.from_numpy(weight)
        batch["index"] = torch.from_numpy(self.storage.row_id(plan.slot))
        spent = self.storage.use(plan.slot)
        if len(spent):
            self.sampler.exhausted(spent)
        self.limiter.sampled += batch_size
        return batch

    def update(self, info: dict[str, Any]) -> None:
        """Takes back priorities: ``{'index': int64 [B], 'priority': float [B]}``; rows overwritten meanwhile are
        passed over.

        Raises:
            NumericalError: a priority is not finite.
        """
        index, priority = to_numpy((info["index"], info["priority"]))
        if not np.isfinite(priority).all():
            bad = int(np.flatnonzero(~np.isfinite(priority))[0])
            raise NumericalError(
                f"the priority of the row {index[bad]} is {priority[bad]}, expected finite numbers; look at the "
                "'priority' that the policy's _forward_learn returns"
            )
        slot, present = self.storage.slot_of(index)
        self.sampler.update(slot[present], priority[present])

    def clear(self) -> None:
        """Drops all rows."""
        self.storage.clear()
        self.sampler.clear()

    def metrics(self) -> dict[str, float]:
        """Returns what a run shows of its replay."""
        return {"buffer_count": self.count, "buffer_capacity": self.capacity, **self.limiter.metrics()}

    def state_dict(self) -> dict[str, Any]:
        """Returns rows, priorities, counters and the state of the draws, as plain data."""
        return {
            "storage": self.storage.state_dict(),
            "sampler": self.sampler.state_dict(),
            "limiter": self.limiter.state_dict(),
            "rng": self._rng.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` gave."""
        self.storage.load_state_dict(state["storage"])
        self.sampler.load_state_dict(state["sampler"])
        self.limiter.load_state_dict(state["limiter"])
        self._rng.bit_generator.state = state["rng"]

    def _checked_lanes(self, lane_id: Any, arrays: Columns) -> np.ndarray:
        if lane_id is None:
            raise SpecError("push_data of rows needs lane_id, the lanes [b] of the block")
        lanes = np.asarray(lane_id)
        listed, width = lanes.tolist(), arrays["valid"].shape[1]
        if len(listed) != width or len(set(listed)) != width or min(listed) < 0 or max(listed) >= self.storage.lane_num:
            raise SpecError(
                f"got the lanes {listed} for {width} columns of lanes, expected each once, from 0 to "
                f"{self.storage.lane_num - 1}"
            )
        return lanes

    def _items(self, arrays: Columns) -> Columns:
        """Arranges finished items as rows of the only lane: [items, 1, ...]."""
        valid: np.ndarray = arrays["valid"]
        if self._cfg["unroll_len"] > 1:
            items = _map(arrays, lambda x: np.moveaxis(x, 0, 1)[:, None])  # [items, 1, U, ...]
            return items | {"row_valid": items["valid"], "valid": np.ones((valid.shape[1], 1), dtype=bool)}
        return _map(arrays, lambda x: x[valid][:, None])


def _map(tree: Columns, fn: Any) -> Columns:
    return {k: _map(v, fn) if isinstance(v, dict) else fn(v) for k, v in tree.items()}
