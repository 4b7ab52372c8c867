"""How much memory a replay takes and where its columns lie, planned before the first byte is taken."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nervex.data.codec import frame_layout
from nervex.data.columns import Columns, flatten
from nervex.utils.errors import ConfigError, did_you_mean

RECORD_BYTES = 256  # columns with rows up to this lie together, one record a row; larger ones may be spilled or packed
ROW_OVERHEAD_BYTES = 1 + 4  # of every row: flags, use count
FRAME_OVERHEAD_BYTES = 4  # of every frame: references counted
BLOB_OVERHEAD_BYTES = 8 + 41  # of every compressed record: its place, and what Python keeps beside the contents
_SMALLEST_FRAME = 8  # pixels a side, of what ``auto`` takes for an image


@dataclass(frozen=True)
class StorageOptions:
    """How the columns of a storage are kept; see ``ReplayConfig``."""

    codec: str | Mapping[str, str] = "raw"
    lz4: bool = False
    spill_dir: str | None = None
    max_bytes: int | None = None
    stacks: frozenset[str] | None = None  #: what ``auto`` takes for stacks of frames; None: columns that look like it


@dataclass(frozen=True)
class ColumnPlan:
    """One column: what it holds, how it is kept, the bytes of its contents (before LZ4, if that is on), and those that
    the codec needs to find them, which are always in memory."""

    name: str
    dtype: np.dtype[Any]
    row: tuple[int, ...]
    entries: int
    codec: str  #: raw or frame_stack
    place: str  #: memory, disk or lz4
    nbytes: int
    index_bytes: int = 0
    explicit: bool = False  #: the codec was asked for by name

    @property
    def row_bytes(self) -> int:
        """Bytes of a row as it comes."""
        return int(np.prod(self.row)) * self.dtype.itemsize

    @property
    def in_record(self) -> bool:
        """Whether the column lies in one record with others."""
        return self.codec == "raw" and self.place == "memory" and self.row_bytes <= RECORD_BYTES


@dataclass(frozen=True)
class MemoryPlan:
    """The columns of a replay and their bytes.

    Attributes:
        capacity: rows.
        column: by name, in the order of a batch.
        max_bytes: the budget, or None.
    """

    capacity: int
    column: Mapping[str, ColumnPlan]
    max_bytes: int | None = None
    overhead_bytes: int = field(default=0)

    @property
    def memory_bytes(self) -> int:
        """Bytes of memory, without what LZ4 will leave of the columns that it compresses."""
        held = sum(c.nbytes for c in self.column.values() if c.place == "memory")
        return held + sum(c.index_bytes for c in self.column.values()) + self.overhead_bytes

    @property
    def disk_bytes(self) -> int:
        """Bytes of mapped files."""
        return sum(c.nbytes for c in self.column.values() if c.place == "disk")

    @property
    def lz4_bytes(self) -> int:
        """Bytes of what will be compressed, before compression."""
        return sum(c.nbytes for c in self.column.values() if c.place == "lz4")

    @property
    def fitting_rows(self) -> int:
        """Rows that fit into the budget."""
        if self.max_bytes is None:
            return self.capacity
        return int(self.max_bytes / max(self.memory_bytes, 1) * self.capacity)

    def text(self) -> str:
        """Returns the plan in lines: the total, then every column."""
        parts = [f"{human_bytes(self.memory_bytes)} of memory"]
        parts += [f"{human_bytes(self.disk_bytes)} on disk"] if self.disk_bytes else []
        parts += [f"what LZ4 leaves of {human_bytes(self.lz4_bytes)}"] if self.lz4_bytes else []
        budget = "" if self.max_bytes is None else f" (budget {human_bytes(self.max_bytes)})"
        lines = [f"replay {self.capacity:,} rows: {' + '.join(parts)}{budget}"]
        for c in self.column.values():
            kept = ", ".join(([] if c.codec == "raw" else [c.codec]) + ([] if c.place == "memory" else [c.place]))
            size = human_bytes(c.nbytes + c.index_bytes)
            lines.append(f"  {c.name:<16} {c.dtype.name} {list(c.row)}: {size}{kept and f' ({kept})'}")
        return "\n".join(lines)

    def check(self) -> None:
        """Raises ConfigError when the rows do not fit into the budget."""
        if self.max_bytes is not None and self.memory_bytes > self.max_bytes:
            raise ConfigError(
                f"replay_buffer.meta_maxlen: {self.capacity:,} rows take {human_bytes(self.memory_bytes)} "
                f"({self.memory_bytes / self.capacity:,.0f} B a row), replay_buffer.max_bytes is "
                f"{human_bytes(self.max_bytes)}; make meta_maxlen at most {self.fitting_rows:,} or max_bytes larger"
                f"{self._savings()}"
            )

    def _savings(self) -> str:
        large = [c for c in self.column.values() if c.place == "memory" and c.row_bytes > RECORD_BYTES]
        stacked = [c for c in large if c.codec == "raw" and frame_layout(c.dtype, c.row)[0] > 1]
        ways = [f"codec: {{{c.name}: frame_stack}} if '{c.name}' is a stack of frames" for c in stacked[:1]]
        ways += ["lz4: true"] if any(c.dtype == np.uint8 for c in large) else []
        ways += ["spill_dir: DIRECTORY"] if large else []
        return f"; or use {', '.join(ways)}" if ways else ""


def plan_memory(options: StorageOptions, columns: Columns, capacity: int, lane_num: int, stride: int = 1) -> MemoryPlan:
    """Plans where the columns of a storage lie.

    Args:
        options: what the configuration asks for.
        columns: a block of rows, nested arrays [T, b, ...]; only dtypes and shapes are read.
        capacity: rows in all.
        lane_num: number of lanes.
        stride: ``prev_state`` is kept for every so many rows (see ``RowStorage``).

    Raises:
        ConfigError: a codec is asked for on a column that is not there or that it cannot serve.
    """
    flat = flatten(columns)
    asked = options.codec if isinstance(options.codec, Mapping) else {}
    for name in asked:
        if name not in flat:
            raise ConfigError(
                f"replay_buffer.codec names the column '{name}', which the rows do not have"
                f"{did_you_mean(name, flat) or f'; they have {sorted(flat)}'}"
            )
    plans = {}
    for name, values in flat.items():
        dtype, row = np.dtype(values.dtype), tuple(values.shape[2:])
        sparse = stride > 1 and name.startswith("prev_state")
        entries = capacity // stride if sparse else capacity
        codec = asked.get(name, "raw")
        if options.codec == "auto" and (
            name in options.stacks if options.stacks is not None else not sparse and _is_image_stack(dtype, row)
        ):
            codec = "frame_stack"
        if codec == "frame_stack" and (sparse or frame_layout(dtype, row)[0] < 2):
            raise ConfigError(
                f"replay_buffer.codec: frame_stack cannot serve the column '{name}' ({dtype.name} {list(row)}"
                f"{', kept for the first rows of samples only' if sparse else ''}); it takes stacks of at least 2 "
                "frames [N, H, W] or [N, D]; use raw for it"
            )
        plans[name] = _column(name, dtype, row, entries, codec, options, lane_num, name in asked)
    padding = -sum(c.row_bytes for c in plans.values() if c.in_record) % 8
    return MemoryPlan(capacity, plans, options.max_bytes, capacity * (ROW_OVERHEAD_BYTES + padding))


def frame_capacity(capacity: int, lane_num: int, frame_num: int) -> int:
    """Returns for how many frames a pool has room at first: one a row, whole stacks where lanes begin and end, and
    one in 128 more for gaps."""
    return capacity + 2 * lane_num * frame_num + capacity // 128 + 1


def human_bytes(number: float) -> str:
    """Returns a number of bytes with its unit: ``12.3 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def _column(
    name: str, dtype: np.dtype[Any], row: tuple[int, ...], entries: int, codec: str,
    options: StorageOptions, lane_num: int, explicit: bool,
) -> ColumnPlan:  # fmt: skip
    row_bytes = int(np.prod(row)) * dtype.itemsize
    place = "memory"
    if row_bytes > RECORD_BYTES:
        place = "lz4" if options.lz4 and dtype == np.uint8 else "disk" if options.spill_dir is not None else "memory"
    total, index_bytes, records = entries * row_bytes, 0, entries
    if codec == "frame_stack":
        num, size = frame_layout(dtype, row)
        records = frame_capacity(entries, lane_num, num)
        total = records * size
        index_bytes = records * FRAME_OVERHEAD_BYTES + (entries * 4 + lane_num * size) * num
    if place == "lz4":
        index_bytes += records * BLOB_OVERHEAD_BYTES
    return ColumnPlan(name, dtype, row, entries, codec, place, total, index_bytes, explicit)


def _is_image_stack(dtype: np.dtype[Any], row: tuple[int, ...]) -> bool:
    return dtype == np.uint8 and len(row) == 3 and row[0] >= 2 and min(row[1:]) >= _SMALLEST_FRAME
