"""Where records of one size lie: in memory, in a file that is mapped into memory, or compressed."""

import os
import tempfile
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from nervex.data.buffers import Buffers
from nervex.data.lz4_store import Lz4Store
from nervex.utils.errors import ConfigError

_CHUNK = 4096


class RecordStore(Protocol):
    """Byte records of one size, by number."""

    record_bytes: int
    capacity: int

    @property
    def nbytes(self) -> int:
        """Bytes of memory (or of the mapped file)."""

    @property
    def growing_bytes(self) -> int:
        """Those of them that came with the records."""

    def put(self, index: np.ndarray, record: np.ndarray) -> None:
        """Writes records uint8 [M, record_bytes] to ``index`` int [M]."""

    def get(self, index: np.ndarray) -> np.ndarray:
        """Returns the records at ``index`` int [M], one of those written, uint8 [M, record_bytes]; a copy."""

    def drop(self, index: np.ndarray) -> None:
        """Learns that the records at ``index`` int [M] will not be read again."""

    def grow(self, num: int) -> None:
        """Makes room for ``num`` more records."""

    def state_dict(self, index: np.ndarray) -> dict[str, Any]:
        """Returns the records at ``index`` as plain data."""

    def load_state_dict(self, index: np.ndarray, state: dict[str, Any]) -> None:
        """Writes what :meth:`state_dict` of any store of compressed (or plain) records gave to ``index``."""


def allocate(shape: tuple[int, ...], dtype: Any, spill_dir: str | None = None) -> np.ndarray:
    """Returns an array of zeros, in memory or in a file without name of the directory ``spill_dir``.

    The file's bytes are reserved at once, so that a full disk is an error now and not a crash later; they are given
    back when the process ends, however it ends.

    Raises:
        ConfigError: the directory is missing, or the disk has too little room.
    """
    if spill_dir is None:
        return np.zeros(shape, dtype)
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    try:
        with tempfile.TemporaryFile(dir=Path(spill_dir).expanduser()) as file:
            if size == 0:
                return np.zeros(shape, dtype)
            os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, dtype, "r+", shape=shape)
    except OSError as e:
        raise ConfigError(
            f"replay_buffer.spill_dir '{spill_dir}' cannot take {size:,} bytes ({e.strerror}); give a directory that "
            "exists, on a disk with as much room, or make replay_buffer.meta_maxlen smaller"
        ) from e


class ArrayStore:
    """Records as rows of arrays.

    Args:
        record_bytes: bytes of one record.
        capacity: records that fit at first.
        spill_dir: directory of the mapped file; None: memory.
    """

    def __init__(self, record_bytes: int, capacity: int, spill_dir: str | None = None) -> None:
        self.record_bytes = record_bytes
        self.capacity = 0
        self._spill_dir = spill_dir
        self._part: list[np.ndarray] = []
        self._first: list[int] = []
        self._buffers = Buffers()
        self.grow(capacity)

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self._part)

    @property
    def growing_bytes(self) -> int:
        return 0

    def grow(self, num: int) -> None:
        self._part.append(allocate((num, self.record_bytes), np.uint8, self._spill_dir))
        self._first.append(self.capacity)
        self.capacity += num

    def put(self, index: np.ndarray, record: np.ndarray) -> None:
        if len(self._part) == 1:
            self._part[0][index] = record
            return
        for inside, part, first in self._split(index):
            part[index[inside] - first] = record[inside]

    def get(self, index: np.ndarray) -> np.ndarray:
        first_part = self._part[0]
        record = self._buffers.empty((len(index), self.record_bytes), first_part.dtype)
        if len(self._part) == 1 or int(index.max(initial=0)) < len(first_part):
            return first_part.take(index, axis=0, out=record, mode="clip")  # clip: writes without a buffer of its own
        for inside, part, first in self._split(index):
            record[inside] = part[index[inside] - first]
        return record

    def drop(self, index: np.ndarray) -> None:
        """Nothing to do: the place is written again."""

    def state_dict(self, index: np.ndarray) -> dict[str, Any]:
        return {"record": self.get(index)}

    def load_state_dict(self, index: np.ndarray, state: dict[str, Any]) -> None:
        if "record" in state:
            self.put(index, state["record"])
            return
        packed = Lz4Store(self.record_bytes, len(index))
        packed.load_state_dict(np.arange(len(index)), state)
        for first in range(0, len(index), _CHUNK):
            self.put(index[first : first + _CHUNK], packed.get(np.arange(first, min(first + _CHUNK, len(index)))))

    def _split(self, index: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, int]]:
        place = np.searchsorted(self._first, index, side="right") - 1
        parts = zip(self._part, self._first, strict=True)
        return [(place == i, part, first) for i, (part, first) in enumerate(parts) if (place == i).any()]
