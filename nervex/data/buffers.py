"""Memory of large batches, taken again when no one holds the batch any more."""

import sys

import numpy as np

_SMALLEST_BYTES = 64 << 10  # below, the allocator is as fast
_LARGEST_BYTES = 64 << 20  # above, it is no batch
_MOST = 8  # buffers kept
_OWN_REFERENCES = 3  # of a buffer that only its list holds: the list, the loop variable, the argument of getrefcount


class Buffers:
    """Gives out arrays whose memory comes from arrays that were given out before and are no longer referred to.

    A fresh array of a megabyte costs more for its page faults than for what is copied into it. A buffer is taken
    again only when no array (or tensor) refers to its memory, so a batch is never written while someone holds it.
    """

    def __init__(self) -> None:
        self._buffer: list[np.ndarray] = []

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers that are kept."""
        return sum(buffer.nbytes for buffer in self._buffer)

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> np.ndarray:
        """Returns an array of undefined contents."""
        size = dtype.itemsize
        for length in shape:
            size *= length
        if not _SMALLEST_BYTES <= size <= _LARGEST_BYTES:
            return np.empty(shape, dtype)
        for buffer in self._buffer:
            if buffer.nbytes >= size and sys.getrefcount(buffer) == _OWN_REFERENCES:
                return buffer[:size].view(dtype).reshape(shape)
        if len(self._buffer) >= _MOST:
            self._buffer = [b for b in self._buffer if sys.getrefcount(b) > _OWN_REFERENCES][-_MOST + 1 :]
        self._buffer.append(np.empty(size, np.uint8))
        return self._buffer[-1][:size].view(dtype).reshape(shape)
