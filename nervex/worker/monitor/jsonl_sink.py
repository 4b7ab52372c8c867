"""``metrics.jsonl``: one line of JSON per row, only ever appended to."""

import json
import logging
import math
import os
from pathlib import Path
from typing import Any

from nervex.worker.monitor.sink import MetricRow, MetricSink

_logger = logging.getLogger("nervex")

_BLOCK_BYTES = 65536


class JsonlSink(MetricSink):
    """Appends rows to a file, one line ``{"kind", "env_step", "train_iter", key: value, ...}`` each.

    A line is one ``write`` of the operating system, so a kill loses at most the line being written, and what it left of
    that line is cut off when the file is opened again. JSON has no word for NaN and infinity; both are written as null.

    Args:
        path: the file; made when missing, continued when not.

    Raises:
        OSError: the file cannot be opened.
    """

    name = "metrics.jsonl"

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        self._closed = False
        self._size_bytes = _end_of_last_line(self._file)
        if self._size_bytes != os.fstat(self._file).st_size:
            _logger.info("%s: a line that a kill left unfinished is cut off", self.path)
            os.ftruncate(self._file, self._size_bytes)

    def write(self, row: MetricRow) -> None:
        """Appends one line.

        Raises:
            OSError: the disk is full or the file is gone; no part of the line is left in it.
        """
        line = _to_line(row)
        try:
            written = os.write(self._file, line)
        except OSError as error:
            raise OSError(error.errno, f"cannot append to {self.path}: {error.strerror}") from error
        if written != len(line):
            os.ftruncate(self._file, self._size_bytes)
            raise OSError(f"cannot append to {self.path}: only {written} of {len(line)} bytes fit on the disk")
        self._size_bytes += written

    def flush(self) -> None:
        """Waits until the disk has every line."""
        if not self._closed:
            os.fsync(self._file)

    def close(self) -> None:
        """Flushes and closes the file."""
        if self._closed:
            return
        try:
            self.flush()
        finally:
            self._closed = True
            os.close(self._file)

    def position(self) -> int:
        """Returns the size in bytes, after a flush: a checkpoint never knows of more than the disk has."""
        self.flush()
        return self._size_bytes

    def rewind(self, position: int) -> None:
        """Cuts off the lines after ``position``. One that no line of the file ends at is refused with a warning."""
        at_line_end = position == 0 or os.pread(self._file, 1, position - 1) == b"\n"
        if not at_line_end:
            _logger.warning(
                "%s was changed since the checkpoint (no line ends at byte %d of %d); the new lines are appended to it",
                *(self.path, position, self._size_bytes),
            )
            return
        os.ftruncate(self._file, position)
        self._size_bytes = position


def read_metrics(path: Path | str) -> list[dict[str, Any]]:
    """Returns the rows of a ``metrics.jsonl``, in order; null (NaN, infinity) becomes None.

    A last line that has no end (the run writes it now, or was killed over it) is left out.

    Raises:
        OSError: the file cannot be read.
        ValueError: a line within the file is not JSON; the message has its number.
    """
    rows = []
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise ValueError(f"{path}:{number} is not a line of JSON: {error}") from error
    return rows


def _to_line(row: MetricRow) -> bytes:
    values = {key: value if math.isfinite(value) else None for key, value in row.values.items()}
    whole = {"kind": row.kind, "env_step": row.env_step, "train_iter": row.train_iter, **values}
    return (json.dumps(whole, allow_nan=False) + "\n").encode()


def _end_of_last_line(file: int) -> int:
    """Returns the offset after the last newline."""
    end = os.fstat(file).st_size
    while end > 0:
        start = max(0, end - _BLOCK_BYTES)
        newline = os.pread(file, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
