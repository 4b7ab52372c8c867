"""Records compressed one by one with LZ4, so that any of them can be read alone."""

from typing import Any

import numpy as np

from nervex.data.buffers import Buffers
from nervex.utils.errors import MissingExtraError

try:
    import lz4.block as lz4_block
except ImportError:  # the extra is not installed: told when a store is made
    lz4_block = None

_BYTE = np.dtype(np.uint8)
_OBJECT_BYTES = 33 + 8  # of a bytes object without its contents, and of the reference to it
_ALIGNED = 16  # what the allocator rounds up to


class Lz4Store:
    """A record store (see ``nervex.data.record_store``) that keeps each record compressed.

    Args:
        record_bytes: bytes of one record before compression.
        capacity: records that fit at first.

    Raises:
        MissingExtraError: the package ``lz4`` is not installed.
    """

    def __init__(self, record_bytes: int, capacity: int) -> None:
        if lz4_block is None:
            raise MissingExtraError(
                "replay_buffer.lz4 is true, but the package lz4 is not installed; install it with "
                "pip install 'nervex[lz4]', or set replay_buffer.lz4 to false"
            )
        self.record_bytes = record_bytes
        self.capacity = capacity
        self._blob: list[bytes | None] = [None] * capacity
        self._held_bytes = 0
        self._buffers = Buffers()

    @property
    def nbytes(self) -> int:
        """Bytes held now, with what Python needs to hold them."""
        return self._held_bytes + 8 * self.capacity

    @property
    def growing_bytes(self) -> int:
        return self._held_bytes

    def grow(self, num: int) -> None:
        self._blob += [None] * num
        self.capacity += num

    def put(self, index: np.ndarray, record: np.ndarray) -> None:
        self._put_blobs(index, [lz4_block.compress(row, store_size=False) for row in np.ascontiguousarray(record)])

    def get(self, index: np.ndarray) -> np.ndarray:
        record = self._buffers.empty((len(index), self.record_bytes), _BYTE)
        first: dict[int, int] = {}
        again: list[tuple[int, int]] = []
        for row, i in enumerate(index.tolist()):
            if i in first:
                again.append((row, first[i]))
            else:
                first[i] = row
                whole = lz4_block.decompress(self._blob[i], uncompressed_size=self.record_bytes)
                record[row] = np.frombuffer(whole, _BYTE)
        if again:
            rows, sources = np.array(again).T
            record[rows] = record[sources]
        return record

    def drop(self, index: np.ndarray) -> None:
        self._put_blobs(index, [None] * len(index))

    def state_dict(self, index: np.ndarray) -> dict[str, Any]:
        blobs = [self._blob[i] or b"" for i in index.tolist()]
        return {
            "blob": np.frombuffer(b"".join(blobs), np.uint8),
            "blob_bytes": np.array([len(blob) for blob in blobs], np.int64),
        }

    def load_state_dict(self, index: np.ndarray, state: dict[str, Any]) -> None:
        if "record" in state:
            self.put(index, state["record"])
            return
        whole = state["blob"].tobytes()
        end = np.cumsum(state["blob_bytes"])
        begin = end - state["blob_bytes"]
        self._put_blobs(index, [whole[a:b] or None for a, b in zip(begin.tolist(), end.tolist(), strict=True)])

    def _put_blobs(self, index: np.ndarray, blobs: list[Any]) -> None:
        held = self._blob
        for i, blob in zip(index.tolist(), blobs, strict=True):
            self._held_bytes += _size(blob) - _size(held[i])
            held[i] = blob


def _size(blob: bytes | None) -> int:
    return 0 if blob is None else -(-(len(blob) + _OBJECT_BYTES - 8) // _ALIGNED) * _ALIGNED
