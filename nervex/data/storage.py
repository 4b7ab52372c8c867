"""A ring of consecutive rows per lane, in columns."""

from typing import Any

import numpy as np

from nervex.data.columns import Columns, flatten, nbytes
from nervex.utils.errors import SpecError


class RowStorage:
    """Columns of ``capacity`` rows, shared by ``lane_num`` rings; the rows of one lane are consecutive in time.

    Row ``r`` of lane ``b`` (counted from the lane's first row) lies in slot ``(r mod S)·lane_num + b`` with
    ``S = capacity // lane_num``, so the row after slot ``s`` is slot ``s + lane_num`` (mod ``S·lane_num``).

    Args:
        capacity: rows in all; rounded up to a multiple of ``lane_num·stride``.
        lane_num: number of lanes that write here.
        max_use: how often a row may be sampled.
        stride: samples begin at every ``stride``-th row of a lane; ``prev_state`` is stored for those rows only.
    """

    def __init__(self, capacity: int, lane_num: int, max_use: float = np.inf, stride: int = 1) -> None:
        self.lane_num = lane_num
        self.stride = stride
        self.max_use = np.floor(max_use)  # a row is used or not
        self.ring_len = -(-capacity // (lane_num * stride)) * stride
        self.capacity = self.ring_len * lane_num
        self.head = np.zeros(lane_num, dtype=np.int64)  # rows ever written, per lane
        self.column: dict[str, np.ndarray] = {}
        self.gap = np.zeros(self.capacity, dtype=bool)  # the row does not follow the one before it
        self.use_count = np.zeros(self.capacity, dtype=np.int32)
        self._gap_next = np.ones(lane_num, dtype=bool)
        self.valid_count = 0  # transitions held
        self.spent_count = 0  # of these, used as often as allowed
        self._cleared = 0  # rows of the longest lane that clear() forgot: their names are not given again

    @property
    def nbytes(self) -> int:
        """Bytes of all columns."""
        return nbytes(self.column) + self.gap.nbytes + self.use_count.nbytes

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
        """
        flat = flatten(columns)
        if "valid" not in flat:
            raise SpecError(f"replay rows need the bool column 'valid' [T, b], got only {sorted(flat)}")
        row_num = len(flat["valid"])
        if not self.column:
            self._allocate(flat)
        self._check(flat)
        if row_num > self.ring_len and length is None:
            length = np.full(len(lane_id), row_num)
        first = self.head[lane_id]
        if length is None and len(lane_id) == self.lane_num and self._in_step(lane_id, first, row_num):
            start = int(first[0]) % self.ring_len * self.lane_num
            where: Any = slice(start, start + row_num * self.lane_num)
            slots = np.arange(where.start, where.stop)
            rows = {k: v.reshape(-1, *v.shape[2:]) for k, v in flat.items()}
        else:
            row = np.arange(row_num)[:, None]
            grid = (first + row) % self.ring_len * self.lane_num + lane_id  # [T, b]
            taken = np.ones_like(grid, dtype=bool)
            if length is not None:  # of more rows than the ring holds, only the newest can stay
                taken = (row < length) & (row >= length - self.ring_len)
            where = slots = grid[taken]
            rows = {k: v[taken] for k, v in flat.items()}
        self.valid_count += int(rows["valid"].sum()) - int(self.column["valid"][where].sum())
        if self.max_use != np.inf:
            self.spent_count -= int((self.use_count[where] >= self.max_use).sum())
        for name, values in rows.items():
            if self._sparse(name):
                begins = self.begins(slots)
                self.column[name][self.sparse_slot(slots[begins])] = values[begins]
            else:
                self.column[name][where] = values
        self.gap[where] = False
        self.use_count[where] = 0
        self._mark_first_rows(lane_id, first, row_num if length is None else length)
        self.head[lane_id] += row_num if length is None else length
        return slots

    def use(self, slot: np.ndarray) -> np.ndarray:
        """Counts one use of the rows in ``slot`` int [M]; returns those that may not be used again."""
        np.add.at(self.use_count, slot, 1)
        if self.max_use == np.inf:
            return slot[:0]
        spent = np.unique(slot)
        uses = np.bincount(np.searchsorted(spent, slot), minlength=len(spent))
        newly = (self.use_count[spent] >= self.max_use) & (self.use_count[spent] - uses < self.max_use)
        self.spent_count += int(newly.sum())
        return spent[self.use_count[spent] >= self.max_use]

    def mark_gap(self, lane_id: np.ndarray) -> None:
        """Says that the next rows of these lanes do not follow the ones before them."""
        self._gap_next[lane_id] = True

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
        return number // self.lane_num * (self.lane_num * self.stride) + number % self.lane_num

    def step(self, slot: np.ndarray, num: int | np.ndarray) -> np.ndarray:
        """Returns the slot ``num`` rows later in the same lane."""
        return (slot + num * self.lane_num) % self.capacity

    def written(self) -> int:
        """Number of slots that hold a row, when all lanes are in step; an upper bound of their range otherwise."""
        return int(min(self.head.max(initial=0), self.ring_len)) * self.lane_num

    def row_id(self, slot: np.ndarray) -> np.ndarray:
        """Returns names of the rows in ``slot`` that later rows in the same slots do not share, int64 [M]."""
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
        self.gap[:] = False
        self.use_count[:] = 0
        self._gap_next[:] = True
        self.valid_count = self.spent_count = 0
        if self.column:
            self.column["valid"][:] = False  # the rest is overwritten before it is read

    def state_dict(self) -> dict[str, Any]:
        """Returns everything needed to go on, as plain data; only written rows are included."""
        used = self.written()
        return {
            "column": {k: v[: self._extent(k, used)].copy() for k, v in self.column.items()},
            "head": self.head.copy(),
            "gap": self.gap[:used].copy(),
            "use_count": self.use_count[:used].copy(),
            "gap_next": self._gap_next.copy(),
            "valid_count": self.valid_count,
            "spent_count": self.spent_count,
            "cleared": self._cleared,
            "layout": [self.ring_len, self.lane_num, self.stride],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` gave.

        Raises:
            SpecError: the state is of a storage with another number of lanes or rows.
        """
        if list(state["layout"]) != [self.ring_len, self.lane_num, self.stride]:
            raise SpecError(
                f"replay state has [rows, lanes, stride] {list(state['layout'])}, this replay [{self.ring_len}, "
                f"{self.lane_num}, {self.stride}]; resume with the capacity and number of envs that it was saved with"
            )
        self.clear()
        if state["column"] and not self.column:
            self._allocate({k: v[None] for k, v in state["column"].items()})
        for name, values in state["column"].items():
            self.column[name][: len(values)] = values
        used = len(state["gap"])
        self.head[:] = state["head"]
        self.gap[:used] = state["gap"]
        self.use_count[:used] = state["use_count"]
        self._gap_next[:] = state["gap_next"]
        self.valid_count = int(state["valid_count"])
        self.spent_count = int(state["spent_count"])
        self._cleared = int(state["cleared"])

    def _in_step(self, lane_id: np.ndarray, first: np.ndarray, row_num: int) -> bool:
        return bool(
            (lane_id == np.arange(self.lane_num)).all()
            and (first == first[0]).all()
            and first[0] % self.ring_len + row_num <= self.ring_len
        )

    def _mark_first_rows(self, lane_id: np.ndarray, first: np.ndarray, added: int | np.ndarray) -> None:
        begins = self._gap_next[lane_id] & (added > 0)
        if begins.any():
            stays = begins & (added <= self.ring_len)
            self.gap[first[stays] % self.ring_len * self.lane_num + lane_id[stays]] = True
            self._gap_next[lane_id[begins]] = False

    def _sparse(self, name: str) -> bool:
        return self.stride > 1 and name.startswith("prev_state")

    def _extent(self, name: str, rows: int) -> int:
        """Entries of a column that the first ``rows`` slots take."""
        return -(-rows // (self.stride * self.lane_num)) * self.lane_num if self._sparse(name) else rows

    def _allocate(self, flat: dict[str, np.ndarray]) -> None:
        self.column = {
            k: np.zeros((self._extent(k, self.capacity), *v.shape[2:]), dtype=v.dtype) for k, v in flat.items()
        }

    def _check(self, flat: dict[str, np.ndarray]) -> None:
        if flat.keys() != self.column.keys():
            raise SpecError(f"replay holds the columns {sorted(self.column)}, the new rows have {sorted(flat)}")
        for name, values in flat.items():
            held = self.column[name]
            if values.shape[:2] != flat["valid"].shape:
                raise SpecError(
                    f"replay column '{name}' has the leading dimensions {list(values.shape[:2])}, column 'valid' "
                    f"{list(flat['valid'].shape)}; all columns of a block share [T, b]"
                )
            if values.shape[2:] != held.shape[1:] or values.dtype != held.dtype:
                raise SpecError(
                    f"replay column '{name}' holds rows {held.dtype} {list(held.shape[1:])}, "
                    f"got {values.dtype} {list(values.shape[2:])}"
                )
