"""Which parts of a long array have changed, told by a number for each."""

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from nervex.torch_utils.segment import Segment

SEGMENT_BYTES = 16 << 20  # about, of the rows of one part
LEAST_BYTES = 64 << 20  # what is smaller is saved in one piece


class Stamps:
    """Counts the changes of parts of ``size`` consecutive rows each.

    Args:
        row_bytes: bytes of one row.
        multiple: parts begin at multiples of so many rows.
    """

    def __init__(self, row_bytes: int, multiple: int = 1) -> None:
        self.size = max(SEGMENT_BYTES // max(row_bytes, 1) // multiple, 1) * multiple
        self._row_bytes = row_bytes
        self._change = np.zeros(1, np.int64)
        self._token = uuid.uuid4().hex  # what another process, or another replay, has counted is no concern of ours

    def touch(self, row: Any) -> None:
        """Counts a change of rows: a slice, or int [M]."""
        if isinstance(row, slice):
            first, last = row.start // self.size, (row.stop - 1) // self.size
            self._grow(last)
            if first == last:
                self._change[first] += 1
            else:
                self._change[first : last + 1] += 1
        elif len(row):
            part = np.unique(row // self.size)
            self._grow(int(part[-1]))
            self._change[part] += 1

    def segments(self, name: str, row_num: int, read: Callable[[int, int], Any]) -> list[tuple[int, int, Any]] | None:
        """Returns the first ``row_num`` rows as ``(begin, end, segment)``; None where they are few.

        Args:
            name: of the segments, to which their number is added.
            row_num: rows.
            read: called with begin and end of rows; returns them as a state tree of copies.
        """
        if row_num * self._row_bytes < LEAST_BYTES:
            return None
        return [
            (begin, end, Segment(f"{name}-{k:05d}", f"{self._token}-{self._of(k)}-{end}", _reader(read, begin, end)))
            for k, (begin, end) in enumerate(self._spans(row_num))
        ]

    def _spans(self, row_num: int) -> Iterator[tuple[int, int]]:
        for begin in range(0, row_num, self.size):
            yield begin, min(begin + self.size, row_num)

    def _of(self, part: int) -> int:
        return int(self._change[part]) if part < len(self._change) else 0

    def _grow(self, part: int) -> None:
        if part >= len(self._change):
            missing = np.zeros(part + 1 - len(self._change), np.int64)
            self._change = np.concatenate([self._change, missing])


def _reader(read: Callable[[int, int], Any], begin: int, end: int) -> Callable[[], Any]:
    return lambda: read(begin, end)
