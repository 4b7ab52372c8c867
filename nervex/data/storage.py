"""A ring of consecutive rows per lane, in columns."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from nervex.data.column_table import ColumnTable
from nervex.data.columns import Columns, flatten
from nervex.data.memory import StorageOptions, plan_memory
from nervex.kernels.row_flags import ENDED, GAP, SEAM, VALID, WRITTEN
from nervex.utils.errors import SpecError

_WRITTEN, _VALID, _ENDED = np.uint8(WRITTEN), np.uint8(VALID), np.uint8(ENDED)


class RowStorage:
    """Columns of ``capacity`` rows, shared by ``lane_num`` rings; the rows of one lane are consecutive in time.

    Row ``r`` of lane ``b`` (counted from the lane's first row) lies in slot ``(r mod S)·lane_num + b`` with
    ``S = capacity // lane_num``, so the row after slot ``s`` is slot ``s + lane_num`` (mod ``S·lane_num``).

    Args:
        capacity: rows in all; rounded up to a multiple of ``lane_num·stride``.
        lane_num: number of lanes that write here.
        max_use: how often a row may be sampled.
        stride: samples begin at every ``stride``-th row of a lane; ``prev_state`` is stored for those rows only.
        options: how columns are kept.
        in_time: the rows of a lane follow each other; False: they are items in any order.
        max_staleness: rows collected by weights that are older than the newest ones by more versions than this are
            not sampled.

    Attributes:
        flags: uint8 [capacity]; see :mod:`nervex.kernels.row_flags`.
        newest_version: the newest version of the weights that is known here.
    """

    def __init__(
        self, capacity: int, lane_num: int, max_use: float = np.inf, stride: int = 1,
        options: StorageOptions | None = None, in_time: bool = True, max_staleness: float = np.inf,
    ) -> None:  # fmt: skip
        self.lane_num = lane_num
        self.stride = stride
        self.max_use = np.floor(max_use)  # a row is used or not
        self.max_staleness = max_staleness
        self.ring_len = -(-capacity // (lane_num * stride)) * stride
        self.capacity = self.ring_len * lane_num
        self.head = np.zeros(lane_num, dtype=np.int64)  # rows ever written, per lane
        self.flags = np.zeros(self.capacity, dtype=np.uint8)
        self.use_count = np.zeros(self.capacity, dtype=np.int32)
        self.newest_version = 0
        self.table: ColumnTable | None = None
        self._options = options if options is not None else StorageOptions()
        self._in_time = in_time
        self._everyone = np.arange(lane_num)
        self._level: int | None = 0  # rows ever written by every lane; None: not the same number
        self._gap_next = np.ones(lane_num, dtype=bool)
        self.valid_count = 0  # transitions held
        self.spent_count = 0  # of these, used as often as allowed
        self._cleared = 0  # rows of the longest lane that clear() forgot: their names are not given again

    @property
    def column(self) -> dict[str, np.ndarray]:
        """Columns that are plain arrays [capacity, ...]; those behind a codec are not among them."""
        return {} if self.table is None else self.table.column

    @property
    def gap(self) -> np.ndarray:
        """Rows that do not follow the ones before them in time, bool [capacity]; a copy."""
        return (self.flags & GAP) > 0

    @property
    def nbytes(self) -> int:
        """Bytes of all columns."""
        return (0 if self.table is None else self.table.nbytes) + self.flags.nbytes + self.use_count.nbytes

    @property
    def limited(self) -> bool:
        """Whether rows that are complete may yet not be sampled: used up, or stale."""
        return self.max_use != np.inf or self.max_staleness != np.inf

    def add(self, columns: Columns, lane_id: np.ndarray, length: np.ndarray | None = None) -> np.ndarray:
        """Appends rows to lanes.

        Args:
            columns: nested arrays [T, b, ...] with the bool column ``valid`` [T, b].
            lane_id: int [b], no lane twice.
            length: rows to take of each lane, int [b]; None: T of all.

        Returns:
            Slots that were written, int64 [M].

        Raises:
            SpecError: a column is missing, new, or of another shape or dtype than before.
            ConfigError: the rows do not fit into the budget, or a codec does not serve them.
        """
        flat = flatten(columns)
        if "valid" not in flat:
            raise SpecError(f"replay rows need the bool column 'valid' [T, b], got only {sorted(flat)}")
        row_num = len(flat["valid"])
        table = self.table or self._allocate(flat, self._options)
        table.check(flat)
        if row_num > self.ring_len and length is None:
            length = np.full(len(lane_id), row_num)
        first = self.head[lane_id]
        everyone = length is None and len(lane_id) == self.lane_num and bool((lane_id == self._everyone).all())
        if everyone and self._level is not None and self._level % self.ring_len + row_num <= self.ring_len:
            start = self._level % self.ring_len * self.lane_num
            where: Any = slice(start, start + row_num * self.lane_num)
            slots = np.arange(where.start, where.stop)
            rows = {k: v[0] if row_num == 1 else v.reshape(-1, *v.shape[2:]) for k, v in flat.items()}
        else:
            row = np.arange(row_num)[:, None]
            grid = (first + row) % self.ring_len * self.lane_num + lane_id  # [T, b]
            taken = np.ones_like(grid, dtype=bool)
            if length is not None:  # of more rows than the ring holds, only the newest can stay
                taken = (row < length) & (row >= length - self.ring_len)
            where = slots = grid[taken]
            rows = {k: v[taken] for k, v in flat.items()}
        self._count_rows(rows, where)
        for name in [k for k in rows if self._sparse(k)] if self.stride > 1 else ():
            begins = self.begins(slots)
            table.column[name][self.sparse_slot(slots[begins])] = rows.pop(name)[begins]
        table.write(where, slots, rows)
        if self._gap_next.any():
            self._mark_first_rows(lane_id, first, row_num if length is None else length)
        self.head[lane_id] += row_num if length is None else length
        self._level = self._level + row_num if everyone and self._level is not None else self._common_head()
        self._mark_seams(lane_id)
        self._try_codecs()
        return slots

    def next_start(self, row_num: int) -> int | None:
        """Returns the slot from which ``row_num`` further rows of all lanes would lie one after the other; None: they
        would not, or more than flags and columns belongs to them."""
        plain = self.stride == 1 and not self.limited and self._level is not None
        plain = plain and not np.count_nonzero(self._gap_next)  # a quarter of what any() costs
        row = (self._level or 0) % self.ring_len
        return row * self.lane_num if plain and row + row_num <= self.ring_len else None

    def advance(self, row_num: int, new_valid: int, old_valid: int) -> None:
        """Learns that ``row_num`` rows of all lanes were written, with their flags, from :meth:`next_start` on: so
        many transitions in the place of so many."""
        assert self._level is not None and self.table is not None
        start = self._level % self.ring_len * self.lane_num
        self.table.touch(slice(start, start + row_num * self.lane_num))
        self.valid_count += new_valid - old_valid
        self.head += row_num
        self._level += row_num
        self._mark_seams(self._everyone)
        self._try_codecs()

    def take(
        self, slot: np.ndarray, later: np.ndarray | None = None, later_names: Iterable[str] = ()
    ) -> dict[str, np.ndarray]:
        """Returns the rows [B, ...] of all columns in ``slot`` int [B]; copies.

        Args:
            slot: of the rows.
            later: of further rows, int [B], of which the columns ``later_names`` come as ``next_{name}``.
            later_names: such as the observations.
        """
        assert self.table is not None
        return self.table.take(slot, later, later_names)

    def read(self, name: str, slot: np.ndarray) -> np.ndarray:
        """Returns the rows [*slot.shape, ...] of one column in ``slot`` int [...]; a copy."""
        assert self.table is not None
        return self.table.read(name, slot)

    @property
    def names(self) -> list[str]:
        """Names of all columns."""
        return [] if self.table is None else self.table.names

    def not_stale(self, slot: np.ndarray) -> np.ndarray:
        """Returns which of the rows in ``slot`` int [M] are fresh enough to be sampled, bool [M]."""
        if self.max_staleness == np.inf or "policy_version" not in self.column:
            return np.ones(len(slot), dtype=bool)
        version = self.column["policy_version"][slot].reshape(len(slot), -1).min(axis=1)
        fresh: np.ndarray = version >= self.newest_version - self.max_staleness
        return fresh

    def use(self, slot: np.ndarray) -> np.ndarray:
        """Counts one use of the rows in ``slot`` int [M]; returns those that may not be used again."""
        if self.max_use == np.inf:
            return slot[:0]
        np.add.at(self.use_count, slot, 1)
        spent = np.unique(slot)
        uses = np.bincount(np.searchsorted(spent, slot), minlength=len(spent))
        newly = (self.use_count[spent] >= self.max_use) & (self.use_count[spent] - uses < self.max_use)
        self.spent_count += int(newly.sum())
        return spent[self.use_count[spent] >= self.max_use]

    def unuse(self, slot: np.ndarray) -> None:
        """Takes back :meth:`use` of the rows in ``slot`` int [M]."""
        if self.max_use == np.inf:
            return
        rows = np.unique(slot)
        spent_before = self.use_count[rows] >= self.max_use
        np.subtract.at(self.use_count, slot, 1)
        self.spent_count -= int((spent_before & (self.use_count[rows] < self.max_use)).sum())

    def mark_gap(self, lane_id: np.ndarray) -> None:
        """Says that the next rows of these lanes do not follow the ones before them."""
        self._gap_next[lane_id] = True

    def cut_off(self, lane_id: np.ndarray) -> None:
        """Says that the newest rows of these lanes are the last of their episodes, as at a time limit.

        What comes next must be a row that is no transition, with the observation after them. Rows that are no
        transitions, or ended their episodes, stay as they are.
        """
        lane = lane_id[self.head[lane_id] > 0]
        slot = (self.head[lane] - 1) % self.ring_len * self.lane_num + lane
        slot = slot[self.flags[slot] & (VALID | ENDED) == VALID]
        column = self.column.get("truncated")
        if self.table is not None and column is not None and column.ndim == 1:
            column[slot] = True
            self.table.touch(slot)
            self.flags[slot] |= ENDED

    def newer(self, slot: np.ndarray) -> np.ndarray:
        """Returns how many rows of the same lane are newer than the row in ``slot`` int [M], int64 [M]; −1 where the
        slot was never written."""
        lane = slot % self.lane_num
        head = self.head[lane]
        newer = (head - 1 - slot // self.lane_num) % self.ring_len
        return np.where(newer < head, newer, -1)

    def begins(self, slot: np.ndarray) -> np.ndarray:
        """Returns which of the rows in ``slot`` int [M] a sample may begin at, bool [M]."""
        return slot // self.lane_num % self.stride == 0

    def sparse_slot(self, slot: np.ndarray) -> np.ndarray:
        """Returns where the columns that are kept for the first rows of samples hold the rows in ``slot`` int [M]."""
        return slot // (self.lane_num * self.stride) * self.lane_num + slot % self.lane_num

    def start_slot(self, number: np.ndarray) -> np.ndarray:
        """Returns the slots of the rows that samples begin at, by their number int [M] from 0; the inverse of
        :meth:`sparse_slot`."""
        if self.stride == 1:
            return number
        return number // self.lane_num * (self.lane_num * self.stride) + number % self.lane_num

    def step(self, slot: np.ndarray, num: int | np.ndarray) -> np.ndarray:
        """Returns the slot ``num`` rows later in the same lane."""
        return (slot + num * self.lane_num) % self.capacity

    def written(self) -> int:
        """Number of slots that hold a row, when all lanes are in step; an upper bound of their range otherwise."""
        longest = int(self.head.max(initial=0)) if self._level is None else self._level
        return min(longest, self.ring_len) * self.lane_num

    @property
    def start_num(self) -> int:
        """Number of rows that samples may begin at, by :meth:`start_slot`."""
        written = self.written()
        return written if self.stride == 1 or not written else int(self.sparse_slot(np.array([written - 1]))[0]) + 1

    def row_id(self, slot: np.ndarray) -> np.ndarray:
        """Returns names of the rows in ``slot`` that later rows in the same slots do not share, int64 [M]."""
        if self._level is not None and self._level > 0:
            oldest = max(self._level - self.ring_len, 0)
            start = oldest % self.ring_len * self.lane_num
            name: np.ndarray = (slot - start) % self.capacity + (self._cleared + oldest) * self.lane_num
            return name
        lane = slot % self.lane_num
        return (self._cleared + self.head[lane] - 1 - self.newer(slot)) * self.lane_num + lane

    def slot_of(self, row_id: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns ``(slot, present)`` for names that :meth:`row_id` gave: int64 [M], bool [M]."""
        lane, row = row_id % self.lane_num, row_id // self.lane_num - self._cleared
        present = (row < self.head[lane]) & (row >= np.maximum(self.head[lane] - self.ring_len, 0))
        return row % self.ring_len * self.lane_num + lane, present

    def clear(self) -> None:
        """Forgets all rows; the memory stays allocated."""
        self._cleared += int(self.head.max(initial=0))
        self.head[:] = 0
        self._level = 0
        self.flags[:] = 0
        self.use_count[:] = 0
        self._gap_next[:] = True
        self.valid_count = self.spent_count = 0
        if self.table is not None:
            self.table.column["valid"][:] = False  # the rest is overwritten before it is read
            self.table.clear()

    def state_dict(self) -> dict[str, Any]:
        """Returns everything needed to go on, as plain data; only written rows are included."""
        used = self.written()
        columns = {"column": {}} if self.table is None else self.table.state_dict(used, self._extent)
        return columns | {
            "head": self.head.copy(),
            "gap": self.gap[:used],
            "use_count": self.use_count[:used].copy(),
            "gap_next": self._gap_next.copy(),
            "valid_count": self.valid_count,
            "spent_count": self.spent_count,
            "cleared": self._cleared,
            "newest_version": self.newest_version,
            "layout": [self.ring_len, self.lane_num, self.stride],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` gave.

        Raises:
            SpecError: the state is of a storage with another number of lanes or rows, or with other codecs.
        """
        if list(state["layout"]) != [self.ring_len, self.lane_num, self.stride]:
            raise SpecError(
                f"replay state has [rows, lanes, stride] {list(state['layout'])}, this replay [{self.ring_len}, "
                f"{self.lane_num}, {self.stride}]; resume with the capacity and number of envs that it was saved with"
            )
        self.clear()
        used = len(state["gap"])
        self.head[:] = state["head"]
        self._level = self._common_head()
        if state["column"]:
            self._load_columns(state, used)
        self.use_count[:used] = state["use_count"]
        self._gap_next[:] = state["gap_next"]
        self.valid_count = int(state["valid_count"])
        self.spent_count = int(state["spent_count"])
        self._cleared = int(state["cleared"])
        self.newest_version = int(state.get("newest_version", 0))

    def _load_columns(self, state: dict[str, Any], used: int) -> None:
        saved = state.get("packed", {})
        if self.table is None or self.table.packed.keys() != saved.keys():
            self.table = None  # before the new one takes its memory
            blocks = {k: np.empty((1, 1, *v.shape[1:]), v.dtype) for k, v in state["column"].items()}
            blocks |= {k: np.empty((1, 1, *v["row"]), v["dtype"]) for k, v in saved.items()}
            stacks = frozenset(k for k, v in saved.items() if "ref" in v)
            self._allocate(dict(sorted(blocks.items())), replace(self._options, stacks=stacks))
        assert self.table is not None
        lane = np.flatnonzero(self.head)
        self.table.load_state_dict(state, used, (self.head[lane] - 1) % self.ring_len * self.lane_num + lane)
        slot = np.arange(used)
        written = self.newer(slot) >= 0
        self.flags[:used] = self._row_flags({k: v[:used] for k, v in self.column.items() if not self._sparse(k)})
        self.flags[:used][state["gap"]] |= GAP
        self.flags[:used][~written] = 0
        self._mark_seams(lane)

    def _common_head(self) -> int | None:
        return int(self.head[0]) if (self.head == self.head[0]).all() else None

    def _count_rows(self, rows: dict[str, np.ndarray], where: Any) -> None:
        """Takes the rows that will be written to ``where`` into the counters and flags."""
        new, old = self._row_flags(rows), self.flags[where]
        self.valid_count += int(np.count_nonzero(rows["valid"])) - int(np.count_nonzero(old & _VALID))
        if self.max_use != np.inf:
            self.spent_count -= int(np.count_nonzero(self.use_count[where] >= self.max_use))
            self.use_count[where] = 0
        self.flags[where] = new
        if self.max_staleness != np.inf and "policy_version" in rows and len(new):
            self.newest_version = max(self.newest_version, int(rows["policy_version"].max()))

    def _row_flags(self, rows: dict[str, np.ndarray]) -> np.ndarray:
        flags = rows["valid"].view(np.uint8) * _VALID + _WRITTEN
        for name in ("terminated", "truncated"):
            if name in rows and rows[name].ndim == 1:  # items may be unrolls: their ends are within
                flags |= rows[name].view(np.uint8) * _ENDED
        return flags

    def _mark_first_rows(self, lane_id: np.ndarray, first: np.ndarray, added: int | np.ndarray) -> None:
        begins = self._gap_next[lane_id] & (added > 0)
        if begins.any():
            stays = begins & (added <= self.ring_len)
            self.flags[first[stays] % self.ring_len * self.lane_num + lane_id[stays]] |= GAP
            self._gap_next[lane_id[begins]] = False

    def _mark_seams(self, lane_id: np.ndarray) -> None:
        if self._level is not None:
            start = self._level % self.ring_len * self.lane_num
            self.flags[start : start + self.lane_num] |= SEAM
        else:
            self.flags[self.head[lane_id] % self.ring_len * self.lane_num + lane_id] |= SEAM

    def _try_codecs(self) -> None:
        if self.table is not None and self.table.packed:
            self.table.try_codecs(int(self.head.sum()), self.flags & WRITTEN)

    def _sparse(self, name: str) -> bool:
        return self.stride > 1 and name.startswith("prev_state")

    def _extent(self, name: str, rows: int) -> int:
        """Entries of a column that the first ``rows`` slots take."""
        return -(-rows // (self.stride * self.lane_num)) * self.lane_num if self._sparse(name) else rows

    def _allocate(self, flat: dict[str, np.ndarray], options: StorageOptions) -> ColumnTable:
        plan = plan_memory(options, flat, self.capacity, self.lane_num, self.stride)
        plan.check()
        self.table = ColumnTable(plan, self.lane_num, options.spill_dir, by_content=not self._in_time)
        return self.table
