"""Columns that are not kept as they come: stacks of frames whose frames are stored once, and compressed rows."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

from nervex.data.record_store import RecordStore
from nervex.data.stamps import Stamps
from nervex.torch_utils.segment import part_contents

StoreMaker = Callable[[int, int], RecordStore]

_GROWTH = 64  # a store that is full grows by this part of its first size
_SMALLEST_GROWTH = 256
_RECENT = 4096  # frames that may be found again by their contents


class PackedColumn(Protocol):
    """A column of the storage that has a code of its own; what is read is what was written, bit for bit."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]  #: [slots, ...], as of an array

    @property
    def nbytes(self) -> int:
        """Bytes held."""

    @property
    def growing_bytes(self) -> int:
        """Those of them that came with the rows."""

    def write(self, slot: np.ndarray, rows: np.ndarray) -> None:
        """Stores rows [M, ...] in ``slot`` int [M], no slot twice; rows of one lane stand in the order of time."""

    def read(self, slot: np.ndarray) -> np.ndarray:
        """Returns the rows [..., *row] at ``slot`` int [...]; a copy."""

    def clear(self) -> None:
        """Forgets all rows."""

    def state_dict(self, slot: np.ndarray) -> dict[str, Any]:
        """Returns the rows at ``slot`` int [M] as plain data."""

    def load_state_dict(self, slot: np.ndarray, state: dict[str, Any], newest: np.ndarray) -> None:
        """Restores what :meth:`state_dict` gave; ``newest`` int [K] are the slots of the lanes' newest rows."""


class RowColumn:
    """Whole rows in a record store.

    Args:
        dtype: of the column.
        shape: [slots, ...].
        make: ``(record_bytes, capacity)`` to a record store.
        label: of its parts in a state.
    """

    def __init__(self, dtype: Any, shape: tuple[int, ...], make: StoreMaker, label: str = "packed") -> None:
        self.dtype = np.dtype(dtype)
        self.shape = shape
        self._store = make(int(np.prod(shape[1:])) * self.dtype.itemsize, shape[0])
        self._label = label
        self._stamps = Stamps(self._store.record_bytes)

    @property
    def nbytes(self) -> int:
        return self._store.nbytes

    @property
    def growing_bytes(self) -> int:
        return self._store.growing_bytes

    def write(self, slot: np.ndarray, rows: np.ndarray) -> None:
        self._store.put(slot, _as_bytes(rows, (len(rows), self._store.record_bytes)))
        self._stamps.touch(slot)

    def read(self, slot: np.ndarray) -> np.ndarray:
        return self._store.get(slot.ravel()).view(self.dtype).reshape(*slot.shape, *self.shape[1:])

    def clear(self) -> None:
        self._store.drop(np.arange(self.shape[0]))

    def state_dict(self, slot: np.ndarray) -> dict[str, Any]:
        parts = self._stamps.segments(self._label, len(slot), lambda a, b: self._store.state_dict(slot[a:b]))
        return self._store.state_dict(slot) if parts is None else {"rows": parts}

    def load_state_dict(self, slot: np.ndarray, state: dict[str, Any], newest: np.ndarray) -> None:
        for begin, end, part in state["rows"] if "rows" in state else [(0, len(slot), state)]:
            self._store.load_state_dict(slot[begin:end], part_contents(part))
        self._stamps.touch(slot)


class FramePool:
    """Frames that rows share: each is stored once and kept until no row refers to it. Frame 0 is all zeros.

    Args:
        store: where the frames lie.
        by_content: frames are looked for among the last ones stored, whoever stored them.
        label: of its parts in a state.
    """

    def __init__(self, store: RecordStore, by_content: bool = False, label: str = "frames") -> None:
        self.store = store
        self.by_content = by_content
        self._label = label
        self._stamps = Stamps(store.record_bytes)
        self.added = 0  # frames ever stored
        self._growth = max(store.capacity // _GROWTH, _SMALLEST_GROWTH)
        self._count = np.zeros(store.capacity, np.int32)  # references
        self._free: list[int] = []
        self._next = 1  # frames from here on were never used
        self._recent: dict[int, int] = {}  # hash of the contents -> frame that may have them
        store.put(np.zeros(1, np.int64), np.zeros((1, store.record_bytes), np.uint8))

    @property
    def nbytes(self) -> int:
        """Bytes of frames and counts."""
        return self.store.nbytes + self._count.nbytes

    @property
    def used(self) -> int:
        """Frames that are kept now, beside the one of zeros."""
        return self._next - 1 - len(self._free)

    def add(self, frame: np.ndarray) -> np.ndarray:
        """Stores frames uint8 [M, F] and returns their numbers int32 [M]; they must be held before others are
        released."""
        num = len(frame)
        number = [self._free.pop() for _ in range(min(num, len(self._free)))]
        missing = num - len(number)
        if self._next + missing > self.store.capacity:
            self._grow(self._next + missing - self.store.capacity)
        number += range(self._next, self._next + missing)
        self._next += missing
        self.added += num
        index = np.array(number, np.int32)
        self.store.put(index, frame)
        self._stamps.touch(index)
        return index

    def hold(self, ref: np.ndarray) -> None:
        """Counts references int32 [...]."""
        np.add.at(self._count, ref.ravel(), 1)
        self._count[0] = 0  # always there

    def release(self, ref: np.ndarray) -> None:
        """Takes references int32 [...] back; frames without any are given up."""
        flat = ref.ravel()
        np.subtract.at(self._count, flat, 1)
        self._count[0] = 0
        gone = np.unique(flat[self._count[flat] == 0])
        gone = gone[gone > 0]
        if len(gone):
            self.store.drop(gone)
            self._stamps.touch(gone)
            self._free += gone.tolist()

    def find(self, frame: np.ndarray, known: dict[bytes, int]) -> int:
        """Returns the number of a frame uint8 [F]: one of ``known``, a recent one of equal contents, or a new one."""
        contents = frame.tobytes()
        number = known.get(contents)
        if number is None and self.by_content:
            number = self._recent.get(hash(contents))
            if number is not None and not (self._count[number] > 0 and self._same(number, frame)):
                number = None
        if number is None:
            number = int(self.add(frame[None])[0])
            if self.by_content:
                if len(self._recent) >= _RECENT:
                    self._recent.clear()
                self._recent[hash(contents)] = number
        known[contents] = number
        return number

    def clear(self) -> None:
        """Gives up all frames."""
        if self._next > 1:
            self.store.drop(np.arange(1, self._next))
        self._count[:] = 0
        self._free.clear()
        self._recent.clear()
        self._next = 1

    def state_dict(self) -> dict[str, Any]:
        """Returns the frames that are kept, under their numbers, as a state tree."""
        number = np.setdiff1d(np.arange(1, self._next), self._free)
        parts = self._stamps.segments(self._label, self._next, self._kept)
        frames = {"frame": self.store.state_dict(number)} if parts is None else {"parts": parts}
        return {"number": number, **frames, "free": np.array(self._free, np.int64), "added": self.added}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` gave; the columns that refer to the frames then hold them again."""
        self.clear()
        number: np.ndarray = state["number"]
        self._free = state["free"].tolist()
        self._next = len(number) + len(self._free) + 1
        self.added = int(state["added"])
        if self._next > self.store.capacity:
            self._grow(self._next - self.store.capacity)
        if "frame" in state:
            self.store.load_state_dict(number, state["frame"])
        for begin, end, part in state.get("parts", ()):
            inside = np.searchsorted(number, (begin, end))
            self.store.load_state_dict(number[slice(*inside)], part_contents(part))
        self._stamps.touch(number)

    def _kept(self, begin: int, end: int) -> dict[str, Any]:
        """Returns those of the frames from ``begin`` to ``end`` that are kept."""
        number = np.arange(max(begin, 1), end)
        return self.store.state_dict(number[self._count[number] > 0])

    def _grow(self, missing: int) -> None:
        num = -(-missing // self._growth) * self._growth
        self.store.grow(num)
        self._count = np.concatenate([self._count, np.zeros(num, np.int32)])

    def _same(self, number: int, frame: np.ndarray) -> bool:
        return bool((self.store.get(np.array([number]))[0] == frame).all())


class FrameStack:
    """Rows that are stacks of frames [..., H, W] (or [N, D]), kept as references to frames that are stored once.

    Beside the references of the row before it in its lane, a row that is a shift of that one brings only its newest
    frames. Any other row (the first of an episode, the one after a gap) is compared frame by frame and brings what is
    not there yet. Equality is that of all bits, so that rows read are rows written whatever they hold. A frame lives
    until the last row that refers to it is overwritten; so the oldest rows of a ring keep the frames of rows that are
    gone.

    Args:
        dtype: of the column.
        shape: [slots, ...]; frames are the last two dimensions of a row, or the last one of two.
        lane_num: number of lanes; slot ``s`` belongs to lane ``s mod lane_num``.
        pool: holds the frames, of ``frame_bytes`` each; it may be shared by several columns when it finds frames by
            content.
    """

    def __init__(self, dtype: Any, shape: tuple[int, ...], lane_num: int, pool: FramePool) -> None:
        self.dtype = np.dtype(dtype)
        self.shape = shape
        self.pool = pool
        self.row_num = 0  # rows ever written
        self._num, self._bytes = frame_layout(self.dtype, shape[1:])
        self._lane_num = lane_num
        self._shift = 1  # frames that a row has more than the row before it
        self._ref = np.zeros((shape[0], self._num), np.int32)
        self._tail = np.zeros((0 if pool.by_content else lane_num, self._num, self._bytes), np.uint8)  # newest rows
        self._last = np.full(lane_num, -1, np.int64)  # its slot

    @property
    def nbytes(self) -> int:
        """Bytes of references and of the pool."""
        return self._ref.nbytes + self._tail.nbytes + self.pool.nbytes

    @property
    def growing_bytes(self) -> int:
        return self.pool.store.growing_bytes

    @property
    def wasted(self) -> bool:
        """Whether rows hardly share frames."""
        return self.pool.added > 0.75 * self._num * self.row_num

    def write(self, slot: np.ndarray, rows: np.ndarray) -> None:
        stack = _as_bytes(rows, (len(rows), self._num, self._bytes))
        if self.pool.by_content:
            self._write_items(slot, stack)
        else:
            lane = slot % self._lane_num
            for index in _waves(lane):
                self._write_step(slot[index], lane[index], stack[index])
        self.row_num += len(rows)

    def read(self, slot: np.ndarray) -> np.ndarray:
        frame = self.pool.store.get(self._ref[slot].ravel())
        return frame.view(self.dtype).reshape(*slot.shape, *self.shape[1:])

    def clear(self) -> None:
        self._ref[:] = 0
        self._last[:] = -1
        self.pool.clear()

    def state_dict(self, slot: np.ndarray) -> dict[str, Any]:
        """Returns the references of the rows at ``slot``; the pool gives the frames."""
        return {"ref": self._ref[slot], "row_num": self.row_num}

    def load_state_dict(self, slot: np.ndarray, state: dict[str, Any], newest: np.ndarray) -> None:
        """Restores what :meth:`state_dict` gave, after the pool was restored."""
        self._ref[:] = 0
        self._ref[slot] = state["ref"]
        self.pool.hold(state["ref"])
        self.row_num = int(state["row_num"])
        if self.pool.by_content:
            return
        lane = newest % self._lane_num
        self._last[:] = -1
        self._last[lane] = newest
        self._tail[lane] = _as_bytes(self.read(newest), (len(newest), self._num, self._bytes))

    def _write_items(self, slot: np.ndarray, stack: np.ndarray) -> None:
        """Stores rows [M, N, F] that need not follow each other."""
        ref = np.empty((len(slot), self._num), np.int32)
        for i, frames in enumerate(stack):
            known = {bytes(self._bytes): 0}
            ref[i] = [self.pool.find(frame, known) for frame in frames]
            self.pool.hold(ref[i])
        self.pool.release(self._ref[slot])
        self._ref[slot] = ref

    def _write_step(self, slot: np.ndarray, lane: np.ndarray, stack: np.ndarray) -> None:
        """Stores at most one row [b, N, F] of each lane."""
        kept = self._num - self._shift
        last = self._last[lane]
        before = self._ref[last]  # of a lane without rows: unused
        follows = (last >= 0) & (stack[:, :kept] == self._tail[lane, self._shift :]).all(axis=(1, 2))
        ref = np.empty((len(slot), self._num), np.int32)
        fresh = stack[:, kept:] if follows.all() else stack[follows, kept:]
        ref[follows, :kept] = before[follows, self._shift :]
        ref[follows, kept:] = self.pool.add(fresh.reshape(-1, self._bytes)).reshape(-1, self._shift)
        for i in np.flatnonzero(~follows).tolist():
            ref[i] = self._found(stack[i], int(lane[i]), before[i])
        self.pool.hold(ref)
        self.pool.release(self._ref[slot])
        self._ref[slot] = ref
        self._last[lane] = slot
        self._tail[lane] = stack

    def _found(self, stack: np.ndarray, lane: int, before: np.ndarray) -> list[int]:
        """Returns the references of a row that is no shift of the one before it."""
        known = {bytes(self._bytes): 0}
        if self._last[lane] >= 0:
            known |= {frame.tobytes(): int(ref) for frame, ref in zip(self._tail[lane], before, strict=True)}
        ref = [self.pool.find(frame, known) for frame in stack]
        if self._last[lane] >= 0 and len(set(ref)) == self._num:  # a stack of several channels a frame: learn its shift
            shifts = [k for k in range(1, self._num) if ref[: self._num - k] == before[k:].tolist()]
            self._shift = shifts[0] if shifts else self._shift
        return ref


def frame_layout(dtype: np.dtype[Any], row: tuple[int, ...]) -> tuple[int, int]:
    """Returns how many frames a row of shape ``row`` holds, and the bytes of one; 1 frame when it is no stack."""
    inner = row[-2:] if len(row) > 2 else row[1:]
    frame = int(np.prod(inner)) if len(row) > 1 else int(np.prod(row))
    return max(int(np.prod(row)) // max(frame, 1), 1), frame * dtype.itemsize


def _as_bytes(rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.ascontiguousarray(rows).reshape(-1).view(np.uint8).reshape(shape)


def _waves(lane: np.ndarray) -> Iterator[Any]:
    """Yields indices of ``lane`` int [M]: the first row of every lane, the second, and so on; slices where possible."""
    if (lane[1:] > lane[:-1]).all():
        yield slice(0, len(lane))
        return
    order = np.argsort(lane, kind="stable")
    sorted_lane = lane[order]
    rank = np.empty(len(lane), np.int64)
    rank[order] = np.arange(len(lane)) - np.searchsorted(sorted_lane, sorted_lane)
    for wave in range(int(rank.max(initial=-1)) + 1):
        index = np.flatnonzero(rank == wave)
        yield slice(index[0], index[-1] + 1) if index[-1] - index[0] + 1 == len(index) else index
