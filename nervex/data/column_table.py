"""The columns of a storage: small ones in one record per row, large ones in arrays, packed ones behind a codec."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from nervex.data.buffers import Buffers
from nervex.data.codec import FramePool, FrameStack, PackedColumn, RowColumn, frame_layout
from nervex.data.lz4_store import Lz4Store
from nervex.data.memory import ColumnPlan, MemoryPlan, frame_capacity, human_bytes
from nervex.data.record_store import ArrayStore, RecordStore, allocate
from nervex.data.stamps import Stamps
from nervex.torch_utils.segment import part_contents
from nervex.utils.errors import ConfigError, SpecError

_CHUNK = 1024
_TRIAL_ROWS = 1024  # after which it is known whether a codec serves a column


class ColumnTable:
    """Columns of equal length, as a memory plan lays them out.

    The columns of small rows lie together, so that reading a row at random costs few cache misses.

    Args:
        plan: the columns.
        lane_num: number of lanes; slot ``s`` belongs to lane ``s mod lane_num``.
        spill_dir: directory of mapped files, for the columns that are planned to lie on disk.
        by_content: rows of one lane do not follow each other; frames are shared by what they hold, also between
            ``X`` and ``next_X``.

    Attributes:
        names: of all columns, in the order of a batch.
        column: those that are arrays [entries, ...]; those in records are views.
        packed: the others.
    """

    def __init__(self, plan: MemoryPlan, lane_num: int, spill_dir: str | None = None, by_content: bool = False) -> None:
        self.plan = plan
        self.names = list(plan.column)
        self.column: dict[str, np.ndarray] = {}
        self.packed: dict[str, PackedColumn] = {}
        self._lane_num = lane_num
        self._spill_dir = spill_dir
        self._by_content = by_content
        self._pool: dict[str, FramePool] = {}
        self._buffers = Buffers()
        self._next_trial = _TRIAL_ROWS
        self._stamps = self._new_stamps()
        fields = [c for c in plan.column.values() if c.in_record and c.entries == plan.capacity]
        self._record = np.zeros(plan.capacity, _record_dtype(fields))
        self._in_record = frozenset(c.name for c in fields)
        for name, c in plan.column.items():
            if name in self._in_record:
                self.column[name] = self._record[name]
            elif c.codec == "frame_stack":
                self.packed[name] = FrameStack(c.dtype, (c.entries, *c.row), lane_num, self._pool_of(c))
            elif c.place == "lz4":
                self.packed[name] = RowColumn(
                    c.dtype, (c.entries, *c.row), Lz4Store, f"packed-{self.names.index(name)}"
                )
            else:
                self.column[name] = allocate((c.entries, *c.row), c.dtype, spill_dir if c.place == "disk" else None)

    @property
    def record(self) -> np.ndarray:
        """The columns of small rows as one structured array [capacity]."""
        return self._record

    @property
    def nbytes(self) -> int:
        """Bytes of all columns."""
        arrays = sum(v.nbytes for k, v in self.column.items() if k not in self._in_record)
        return arrays + self._record.nbytes + sum(p.nbytes for p in self.packed.values()) - self._counted_twice()

    def check(self, flat: Mapping[str, np.ndarray]) -> None:
        """Raises SpecError unless columns [T, b, ...] are those of the table, of their dtypes and shapes."""
        known = self.plan.column
        if flat.keys() != known.keys():
            raise SpecError(f"replay holds the columns {sorted(known)}, the new rows have {sorted(flat)}")
        leading = flat["valid"].shape
        for name, values in flat.items():
            shape = values.shape
            if shape[:2] != leading:
                raise SpecError(
                    f"replay column '{name}' has the leading dimensions {list(shape[:2])}, column 'valid' "
                    f"{list(leading)}; all columns of a block share [T, b]"
                )
            if values.dtype != known[name].dtype or shape[2:] != known[name].row:
                held = f"{known[name].dtype} {list(known[name].row)}"
                raise SpecError(f"replay column '{name}' holds rows {held}, got {values.dtype} {list(shape[2:])}")

    def write(self, where: Any, slot: np.ndarray, rows: dict[str, np.ndarray]) -> None:
        """Stores rows [M, ...].

        Args:
            where: the slots as an index (a slice where they are consecutive).
            slot: int64 [M].
            rows: by name; only columns with an entry for every row.
        """
        for name, values in rows.items():
            if name in self.packed:
                self.packed[name].write(slot, values)
            else:
                self.column[name][where] = values
        self.touch(where)

    def touch(self, where: Any) -> None:
        """Learns that rows, a slice or int [M], were changed in the arrays ``column`` or ``record`` themselves."""
        self._stamps.touch(where)

    def take(
        self, slot: np.ndarray, later: np.ndarray | None = None, later_names: Iterable[str] = ()
    ) -> dict[str, np.ndarray]:
        """Returns the rows of all columns, and of some further rows; see ``RowStorage.take``."""
        inside, num = self._in_record, len(slot)
        names = [] if later is None else list(later_names)
        both = later is not None and not inside.isdisjoint(names)
        record = self._record.take(np.concatenate((slot, later)) if both else slot)  # type: ignore[arg-type]
        rows: dict[str, Any] = {k: record[k][:num].copy() if k in inside else None for k in self.names}
        for name in names:
            if name in self.packed:  # once for both: they share what there is to unpack
                rows[name], rows[f"next_{name}"] = self.packed[name].read(np.stack((slot, later)))  # type: ignore[arg-type]
            elif name in inside:
                rows[f"next_{name}"] = record[name][num:].copy()
            else:
                rows[f"next_{name}"] = self.read(name, later)  # type: ignore[arg-type]
        return {k: self.read(k, slot) if v is None else v for k, v in rows.items()}

    def read(self, name: str, slot: np.ndarray) -> np.ndarray:
        """Returns rows [*slot.shape, ...] of one column; a copy."""
        if name in self.packed:
            return self.packed[name].read(slot)
        column = self.column[name]
        if name in self._in_record:
            return column[slot]
        rows = self._buffers.empty((*slot.shape, *column.shape[1:]), column.dtype)
        return column.take(slot, axis=0, out=rows, mode="clip")  # clip: writes without a buffer of its own

    def clear(self) -> None:
        """Forgets what is packed; arrays are overwritten before they are read."""
        for packed in self.packed.values():
            packed.clear()

    def try_codecs(self, row_num: int, written: np.ndarray) -> None:
        """Looks, ever less often, whether what is packed takes the room that it was planned to take: a column that
        was taken for a stack of frames and is none is kept raw from then on.

        Args:
            row_num: rows that ever came.
            written: nonzero for the slots that hold a row, [capacity].

        Raises:
            ConfigError: a codec that was asked for does not serve its column, or the budget will not suffice.
        """
        if row_num < self._next_trial:
            return
        first = self._next_trial == _TRIAL_ROWS
        while self._next_trial <= row_num:
            self._next_trial *= 2
        for name, packed in list(self.packed.items()):
            c = self.plan.column[name]
            if not isinstance(packed, FrameStack) or not packed.wasted or (c.explicit and not first):
                continue
            if c.explicit:
                raise ConfigError(
                    f"replay_buffer.codec: frame_stack does not serve the column '{name}': after {row_num:,} rows, "
                    "hardly any is the row before it shifted by a frame (oldest frame first); use raw for it"
                )
            self._unpack(name, np.flatnonzero(written))
        self._check_budget(max(int(np.count_nonzero(written)), 1))

    def _unpack(self, name: str, slot: np.ndarray) -> None:
        """Keeps a column raw from now on; ``slot`` int [M] are those that hold a row."""
        c = replace(self.plan.column[name], codec="raw")
        c = replace(c, nbytes=c.entries * c.row_bytes, index_bytes=0)
        plan = replace(self.plan, column={**self.plan.column, name: c})
        plan.check()
        old = self.packed.pop(name)
        if c.place == "lz4":
            self.packed[name] = RowColumn(c.dtype, (c.entries, *c.row), Lz4Store, f"packed-{self.names.index(name)}")
        else:
            spill_dir = self._spill_dir if c.place == "disk" else None
            self.column[name] = allocate((c.entries, *c.row), c.dtype, spill_dir)
        for first in range(0, len(slot), _CHUNK):
            part = slot[first : first + _CHUNK]
            self.write(part, part, {name: old.read(part)})
        users = [v.pool for v in self.packed.values() if isinstance(v, FrameStack)]
        self._pool = {k: pool for k, pool in self._pool.items() if any(pool is user for user in users)}
        self.plan = plan
        self._stamps = self._new_stamps()

    def _new_stamps(self) -> Stamps:
        """Returns marks for the rows of all arrays, as wide as those are now."""
        arrays = [c for c in self.plan.column.values() if c.codec == "raw" and c.place != "lz4"]
        return Stamps(sum(c.row_bytes for c in arrays), self._lane_num)

    def _check_budget(self, held: int) -> None:
        """Raises ConfigError when, at the size to which ``held`` rows were compressed, all rows will not fit."""
        plan = self.plan
        growing = sum(p.growing_bytes for p in self.packed.values())
        expected = self.nbytes + plan.overhead_bytes + growing * (plan.capacity - held) // held
        if plan.max_bytes is not None and growing and expected > plan.max_bytes:
            raise ConfigError(
                f"replay_buffer.max_bytes is {human_bytes(plan.max_bytes)}, but at the size to which LZ4 compressed "
                f"the first {held:,} rows, all {plan.capacity:,} will take {human_bytes(expected)}; make meta_maxlen "
                f"at most {int(plan.capacity * plan.max_bytes / expected):,} or max_bytes larger"
            )

    def state_dict(self, used: int, extent: Callable[[str, int], int]) -> dict[str, Any]:
        """Returns the first ``used`` rows as a state tree; ``extent(name, rows)`` are the entries that they take."""
        slot = np.arange(used)
        dense = [k for k in self.column if self.plan.column[k].entries == self.plan.capacity]

        def read(begin: int, end: int) -> dict[str, np.ndarray]:
            return {k: np.array(self.column[k][begin:end]) for k in dense}

        parts = self._stamps.segments("rows", used, read)
        size = {k: 0 if parts is not None and k in dense else extent(k, used) for k in self.column}
        return {
            "column": {k: np.array(self.column[k][: size[k]]) for k in self.names if k in self.column},
            "rows": parts,
            "packed": {
                k: {"dtype": v.dtype.str, "row": list(v.shape[1:]), **v.state_dict(slot)}
                for k, v in self.packed.items()
            },
            "pool": {k: v.state_dict() for k, v in self._pool.items()},
        }

    def load_state_dict(self, state: dict[str, Any], used: int, newest: np.ndarray) -> None:
        """Restores what :meth:`state_dict` gave; ``newest`` are the slots of the lanes' newest rows."""
        packed = state.get("packed", {})  # absent in checkpoints of before there were codecs
        if packed.keys() != self.packed.keys():
            raise SpecError(
                f"the replay's state has the packed columns {sorted(packed)}, this replay {sorted(self.packed)}; "
                "resume with the replay_buffer.codec and replay_buffer.lz4 that it was saved with"
            )
        for name, values in state["column"].items():
            self.column[name][: len(values)] = values
        for begin, end, part in state.get("rows") or ():
            for name, values in part_contents(part).items():
                self.column[name][begin:end] = values
        self.touch(slice(0, max(used, 1)))
        for name, frames in state.get("pool", {}).items():
            self._pool[name].load_state_dict(frames)
        slot = np.arange(used)
        for name, rows in packed.items():
            self.packed[name].load_state_dict(slot, rows, newest)

    def _pool_of(self, c: ColumnPlan) -> FramePool:
        num, size = frame_layout(c.dtype, c.row)
        key = c.name
        if self._by_content:
            *parents, leaf = c.name.split("/")
            first, *rest = [*parents, leaf]
            key = "/".join([first.removeprefix("next_"), *rest])
        if key not in self._pool or self._pool[key].store.record_bytes != size:
            key = key if key not in self._pool else c.name
            room = frame_capacity(c.entries, self._lane_num, num)
            store: RecordStore = Lz4Store(size, room) if c.place == "lz4" else ArrayStore(
                size, room, self._spill_dir if c.place == "disk" else None
            )  # fmt: skip
            self._pool[key] = FramePool(store, self._by_content, f"frames-{len(self._pool)}")
        return self._pool[key]

    def _counted_twice(self) -> int:
        users = [p.pool for p in self.packed.values() if isinstance(p, FrameStack)]
        return sum(p.nbytes for p in users) - sum(p.nbytes for p in {id(p): p for p in users}.values())


def _layout(packed: PackedColumn) -> dict[str, Any]:
    return {"dtype": packed.dtype.str, "row": list(packed.shape[1:])}


def _record_dtype(fields: list[ColumnPlan]) -> np.dtype[Any]:
    """Largest items first, so that each field lies at a multiple of its item's size."""
    ordered = sorted(fields, key=lambda c: -c.dtype.itemsize)
    offsets = np.cumsum([0, *(c.row_bytes for c in ordered)])
    return np.dtype(
        {
            "names": [c.name for c in ordered],
            "formats": [(c.dtype, c.row) for c in ordered],
            "offsets": offsets[:-1].tolist(),
            "itemsize": max(int(-(-offsets[-1] // 8) * 8), 8),
        }
    )
