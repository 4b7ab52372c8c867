"""Replay = storage x sampler x limiter."""

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from nervex.config.schema import complete, option
from nervex.data.block_writer import BlockWriter
from nervex.data.columns import Columns, to_numpy
from nervex.data.draw import Before, Draw, split_rows
from nervex.data.limiter import Limiter, Thruput
from nervex.data.memory import MemoryPlan, StorageOptions, plan_memory
from nervex.data.sampler import PrioritizedSampler, Sampler, UniformSampler, join_plans
from nervex.data.storage import RowStorage
from nervex.data.window import ItemWindow, Window
from nervex.utils.errors import ConfigError, NumericalError, SpecError


@dataclass
class ReplayConfig:
    """Section ``replay_buffer`` of a configuration."""

    meta_maxlen: int = option(100_000, ge=1, unit="rows", doc="capacity; the oldest rows are overwritten")
    max_reuse: float = option(float("inf"), ge=1, doc="how often a row may be sampled")
    max_staleness: float = option(
        float("inf"), ge=0, unit="versions",
        doc="rows collected by weights that are older than the newest ones by more learner iterations are not drawn",
    )  # fmt: skip
    samples_per_insert: float = option(
        float("inf"), gt=0, doc="samples drawn per row stored, at most; updates wait for rows when it is reached"
    )
    min_sample_ratio: float = option(1.0, gt=0, doc="rows needed before learning starts, in batches")
    unroll_len: int = option(
        1, ge=1, unit="rows", doc="rows of one sample; the same value as policy.collect.unroll_len"
    )
    sampler: Literal["uniform", "prioritized"] = option("uniform", doc="how rows are chosen")
    alpha: float = option(0.6, ge=0, le=1, doc="exponent of the priorities (prioritized)")
    beta: float = option(0.4, ge=0, le=1, doc="exponent of the importance weights at the start (prioritized)")
    anneal_step: int = option(100_000, ge=0, unit="batches", doc="over which beta grows to 1 (prioritized)")
    codec: Literal["auto", "raw"] | dict[str, Literal["raw", "frame_stack"]] = option(
        "auto",
        doc="how columns are kept: raw; frame_stack (each frame of stacked observations once), by column, such as "
        "{obs: frame_stack}; auto: frame_stack for uint8 [N, H, W] whose rows share frames, raw for the rest",
    )
    lz4: bool = option(False, doc="compress uint8 rows and frames of more than 256 bytes with LZ4, in memory")
    spill_dir: str | None = option(
        None, doc="directory of a file, mapped into memory, for columns of more than 256 bytes a row; null: memory"
    )
    max_bytes: int | None = option(None, ge=1, unit="bytes", doc="memory that the rows may take; null: no limit")


class Replay:
    """Holds what actors collected, and draws batches from it.

    One thread may push, draw and update while another fetches batches that were drawn ahead. What is drawn ahead is
    taken back by whatever changes the replay or asks for its state, and drawn again afterwards, so that batches are
    those that would come without drawing ahead.

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
        self._options = StorageOptions(**{k: cfg[k] for k in ("codec", "lz4", "spill_dir", "max_bytes")})
        self.storage = RowStorage(
            cfg["meta_maxlen"], rows, cfg["max_reuse"], self.window.stride, self._options, self._rows,
            cfg["max_staleness"],
        )  # fmt: skip
        self._writer = BlockWriter(self.storage)
        self.sampler: Sampler = (
            PrioritizedSampler(self.storage.capacity, cfg["alpha"], cfg["beta"], cfg["anneal_step"])
            if cfg["sampler"] == "prioritized"
            else UniformSampler()
        )
        self.limiter = Limiter(cfg["min_sample_ratio"], cfg["max_reuse"], cfg["samples_per_insert"])
        self._rng = np.random.default_rng(seed)
        self.prioritized = cfg["sampler"] == "prioritized"
        self._lock = threading.RLock()
        self._ahead: deque[Draw] = deque()  # draws that no one has received yet
        self._thruput = (Thruput(), Thruput())
        self._seen = (0, 0)

    @property
    def count(self) -> int:
        """Transitions (or items) that are held and not used up."""
        return self.storage.valid_count - self.storage.spent_count

    @property
    def capacity(self) -> int:
        """Rows that fit."""
        return self.storage.capacity

    def push_data(
        self, columns: Columns, lane_id: Any = None, length: Any = None, gap: Any = None, cut: Any = None
    ) -> None:
        """Stores a block.

        Args:
            columns: nested tensors or arrays [T, b, ...] with ``valid`` [T, b]; finished items may come in any such
                arrangement, or as unrolls [U, items, ...] when ``unroll_len`` is above 1.
            lane_id: lanes of the block, int [b]; needed for rows only.
            length: rows of each lane, int [b]; None: all T.
            gap: lanes whose rows do not follow the ones before them, bool [b]; None: no lane.
            cut: lanes whose episode a fault cut off at the row before these, bool [b]; None: no lane. The first row
                pushed now is then a dummy row with the observation after that one.
        """
        with self._lock:
            self.take_back()
            plain = self._rows and length is None and gap is None and cut is None
            written = self._writer.write(columns, lane_id) if plain else None
            if written is None:
                arrays = to_numpy(columns)
                written = self._store(arrays, lane_id, length, gap, cut), int(np.count_nonzero(arrays["valid"]))
            slot, valid_num = written
            self.limiter.inserted += valid_num
            if len(slot):
                self.sampler.added(self.storage, self.window, slot)

    def plan_memory(self, columns: Columns) -> MemoryPlan:
        """Returns how much memory rows like these take, before any is stored.

        Args:
            columns: nested tensors or arrays [T, b, ...], as for :meth:`push_data`; what they hold does not matter.

        Raises:
            ConfigError: a codec is asked for on a column that is not there or that it cannot serve.
        """
        arrays = to_numpy(columns)
        block = arrays if self._rows else self._items(arrays)
        storage = self.storage
        return plan_memory(self._options, block, storage.capacity, storage.lane_num, storage.stride)

    def _store(self, arrays: Columns, lane_id: Any, length: Any, gap: Any, cut: Any) -> np.ndarray:
        if self._rows:
            if cut is not None:
                self.storage.cut_off(np.asarray(lane_id)[cut])
            if gap is not None:
                self.mark_gap(np.asarray(lane_id)[gap])
            lanes = self._checked_lanes(lane_id, arrays)
            missing = [name for name in self.window.columns if name not in arrays]
            if missing:
                raise SpecError(
                    f"replay: the rows lack {missing}, which a {type(self.window).__name__} reads; _process_transition "
                    f"returned {sorted(arrays)}"
                )
            return self.storage.add(arrays, lanes, None if length is None else np.asarray(length))
        return self.storage.add(self._items(arrays), np.zeros(1, dtype=np.int64))

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
        with self._lock:
            self.take_back()
            if self._rows:
                self.storage.mark_gap(np.asarray(lane_id))

    def sample(self, batch_size: int, policy_version: int | None = None) -> Columns | None:
        """Returns a batch, or None while too few rows are complete (or a limit says to wait for more).

        The batch holds tensors [B, ...] (see the window), with ``weight`` float32 [B] (importance weights) and
        ``index`` int64 [B], which :meth:`update` takes back.

        Args:
            batch_size: B.
            policy_version: learner iteration, from which ``max_staleness`` counts; None: the newest that rows have.
        """
        draw = self.draw(batch_size, policy_version)
        return None if draw is None else self.fetch(draw)

    def draw(self, batch_size: int, policy_version: int | None = None, ahead: bool = False) -> Draw | None:
        """Chooses the rows of a batch, for :meth:`fetch`; arguments and None as for :meth:`sample`.

        Args:
            ahead: the batch is received later, which :meth:`received` tells; until then the draw may be taken back.
        """
        with self._lock:
            if not ahead:
                self.take_back()
            before = self._before() if ahead else None
            if policy_version is not None:
                self.storage.newest_version = max(self.storage.newest_version, policy_version)
            drawn = None
            if self.limiter.may_sample(batch_size):
                drawn = self.sampler.sample(self.storage, self.window, batch_size, self._rng)
            if drawn is None:
                if before is not None:  # it will be tried again when it would have been without
                    self._rng.bit_generator.state = before.rng
                    self.storage.newest_version = before.newest_version
                return None
            draw = Draw(*drawn, before)
            spent = self.storage.use(draw.plan.slot)
            if len(spent):
                self.sampler.exhausted(spent)
            self.limiter.sampled += batch_size
            if ahead:
                self._ahead.append(draw)
            return draw

    def draw_together(self, batch_size: int, num: int, policy_version: int | None = None) -> list[Draw]:
        """Chooses the rows of ``num`` batches in one go: those that as many calls of :meth:`draw` would choose ahead,
        ``policy_version`` being one more from each to the next. Empty: they are to be drawn one by one."""
        with self._lock:
            if self.prioritized or not self.limiter.may_sample(num * batch_size):
                return []
            before = self._before()
            drawn = self.sampler.sample_together(self.storage, self.window, batch_size, num, self._rng)
            if drawn is None:
                self._rng.bit_generator.state = before.rng
                return []
            plans, weight, written, numbers = drawn
            draws = [
                Draw(plan, weight.copy(), before.later(i, batch_size, policy_version, written, i * numbers))
                for i, plan in enumerate(plans)
            ]
            self.storage.newest_version = before.later(num, batch_size, policy_version, 1, 0).newest_version
            self.limiter.sampled += num * batch_size
            self._ahead.extend(draws)
            return draws

    def _before(self) -> Before:
        assert not self.prioritized, "draws by priority depend on what is learned from the ones before"
        return Before(self._rng.bit_generator.state, self.limiter.state_dict(), self.storage.newest_version)

    def fetch(self, draw: Draw) -> Columns:
        """Returns the batch of a draw; of one that was taken back, the batch means nothing."""
        with self._lock:
            batch = self.window.gather(self.storage, draw.plan)
            batch["weight"] = torch.from_numpy(draw.weight)
            batch["index"] = torch.from_numpy(self.storage.row_id(draw.plan.slot))
        return batch

    def fetch_together(self, draws: Sequence[Draw]) -> list[Columns]:
        """Returns the batches of draws of one size, gathered in one go: parts of common memory."""
        if self.window.time_first:
            return [self.fetch(draw) for draw in draws]
        whole = self.fetch(Draw(join_plans([draw.plan for draw in draws]), np.concatenate([d.weight for d in draws])))
        return split_rows(whole, len(draws[0].weight), len(draws))

    def received(self, draw: Draw) -> bool:
        """Learns that the oldest draw made ahead is no longer ahead; returns False if it was taken back before."""
        with self._lock:
            if not draw.taken_back:
                assert self._ahead[0] is draw, "draws made ahead are received in order"
                self._ahead.popleft()
            return not draw.taken_back

    def take_back(self) -> None:
        """Undoes all draws that were made ahead and not received."""
        with self._lock:
            if not self._ahead:
                return
            before = self._ahead[0].before
            assert before is not None
            self._rng.bit_generator.state = before.rng
            self._rng.integers(0, before.written, size=before.drawn)  # those stay
            self.limiter.load_state_dict(before.limiter)
            self.storage.newest_version = before.newest_version
            for draw in self._ahead:
                self.storage.unuse(draw.plan.slot)
                draw.taken_back = True
            self._ahead.clear()

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
        with self._lock:
            self.take_back()
            slot, present = self.storage.slot_of(index)
            self.sampler.update(slot[present], priority[present])

    def clear(self) -> None:
        """Drops all rows."""
        with self._lock:
            self.take_back()
            self.storage.clear()
            self.sampler.clear()

    def metrics(self) -> dict[str, float]:
        """Returns what a run shows of its replay; ``time/insert_per_s`` and ``time/sample_per_s`` are means of about
        the last half minute."""
        counted = (self.limiter.inserted, self.limiter.sampled)
        rates = [
            meter.rate(max(new - old, 0)) for meter, new, old in zip(self._thruput, counted, self._seen, strict=True)
        ]
        self._seen = counted
        return {
            "buffer_count": self.count,
            "buffer_capacity": self.capacity,
            **self.limiter.metrics(),
            "time/insert_per_s": rates[0],
            "time/sample_per_s": rates[1],
        }

    def state_dict(self) -> dict[str, Any]:
        """Returns rows, priorities, counters and the state of the draws, as plain data; what is drawn ahead is taken
        back first."""
        with self._lock:
            self.take_back()
            return {
                "storage": self.storage.state_dict(),
                "sampler": self.sampler.state_dict(),
                "limiter": self.limiter.state_dict(),
                "rng": self._rng.bit_generator.state,
            }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` gave."""
        with self._lock:
            self.take_back()
            self.storage.load_state_dict(state["storage"])
            self.sampler.load_state_dict(state["sampler"])
            self.limiter.load_state_dict(state["limiter"])
            self._rng.bit_generator.state = state["rng"]
            self._seen = (self.limiter.inserted, self.limiter.sampled)

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
