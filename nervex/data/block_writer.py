"""Blocks of all lanes, as actors hand them on, written to a storage in one compiled call."""

from typing import Any

import numpy as np
import torch

from nervex import kernels
from nervex.data.column_table import ColumnTable
from nervex.data.columns import Columns, KeyPlan, key_plan, paths_of, pick
from nervex.data.storage import RowStorage

_ENDS = ("valid", "terminated", "truncated")
# Before, loading the compiler (0.2 s, 100 MiB) costs more than it saves: some 100 microseconds a block.
MIN_BLOCKS = 4_000


class BlockWriter:
    """Does what ``RowStorage.add`` does with most blocks of a run, in a fraction of the time: rows of all lanes in
    tensors on the CPU, with no limit of uses or staleness to keep count of.

    Args:
        storage: where the rows go.
        min_blocks: blocks that ``add`` is left to do first.
    """

    def __init__(self, storage: RowStorage, min_blocks: int = MIN_BLOCKS) -> None:
        self._storage = storage
        self._left = min_blocks
        self._table: ColumnTable | None = None
        self._plan: KeyPlan = []
        self._held: list[tuple[str, torch.Tensor]] = []  # columns of the block before, if each is a tensor that was
        self._leaves: list[Any] = []  # written as it lay
        self._everyone = np.arange(storage.lane_num).tobytes()

    def write(self, columns: Columns, lane_id: Any) -> tuple[np.ndarray, int] | None:
        """Writes a block.

        Args:
            columns: nested tensors [T, b, ...].
            lane_id: lanes, int [b].

        Returns:
            ``(slots, transitions)``: those that were written, int64 [M], and how many rows are valid. None: nothing was
            written, and the block is one for ``RowStorage.add``.
        """
        if self._left > 0:
            self._left -= 1
            return None
        storage = self._storage
        if storage.table is not self._table:
            self._learn_layout(columns)
        if not self._is_held(columns) and not self._hold(columns):
            return None
        row_num = self._row_num
        start = storage.next_start(row_num)
        if start is None or not self._is_everyone(lane_id):
            return None
        num = row_num * storage.lane_num
        slots = np.arange(start, start + num)
        if self._others:
            self._write_others(start, slots)
        new, old = self._write_rows(*self._memory, start, num, self._address, self._layout)
        storage.advance(row_num, new, old)
        return slots, new

    def _learn_layout(self, columns: Columns) -> None:
        """Reads how the table keeps columns like these; leaves ``_plan`` empty if it keeps other ones."""
        storage = self._storage
        self._table, self._plan, self._row_num, self._held = storage.table, [], -1, []
        table = self._table
        if table is None or not set(_ENDS) <= set(table.record.dtype.names or ()):
            return
        if any(table.plan.column[name].row or table.plan.column[name].dtype != np.bool_ for name in _ENDS):
            return  # ends of several agents, or of other kinds
        plan = key_plan(columns)
        paths = paths_of(plan)
        if set(paths) != set(table.names) or any("/" in key for key, part in plan if part is None):
            return
        fields: Any = table.record.dtype.fields
        order = [*_ENDS, *(name for name in fields if name not in _ENDS)]
        self._recorded = [paths.index(name) for name in order]
        self._others = [(k, name) for k, name in enumerate(paths) if name not in fields]
        self._dtypes = [torch.from_numpy(np.empty(0, table.plan.column[name].dtype)).dtype for name in paths]
        self._rows = [table.plan.column[name].row for name in paths]
        bases = [table.plan.column[name].dtype for name in order]
        offset = [fields[name][1] for name in order]
        count = [int(np.prod(table.plan.column[name].row)) for name in order]
        self._layout = np.array([offset, count, [dtype.itemsize for dtype in bases]])
        record = table.record
        self._memory = (record.ctypes.data, record.dtype.itemsize, storage.flags.ctypes.data)
        small = all(dtype.itemsize in (1, 2, 4, 8) and num for dtype, num in zip(bases, count, strict=True))
        self._write_rows = kernels.write_rows
        self._plan = plan if small else []

    def _is_held(self, columns: Columns) -> bool:
        """Returns whether these are the very tensors of the block before: an actor whose blocks have one length fills
        the same ones again and again."""
        held = self._held
        return len(columns) == len(held) > 0 and all(columns.get(key) is tensor for key, tensor in held)

    def _hold(self, columns: Columns) -> bool:
        """Looks at the tensors of a block and remembers where they lie; returns whether they are served here."""
        leaves: list[Any] = []
        self._held = []
        if not self._plan or not pick(columns, self._plan, leaves) or not self._serves(leaves):
            return False
        self._leaves = leaves
        self._address = np.array([leaves[k].data_ptr() for k in self._recorded])
        if len(leaves) == len(columns) and all(
            leaf is columns[key] for leaf, (key, _) in zip(leaves, self._plan, strict=False)
        ):
            self._held = [(key, columns[key]) for key, _ in self._plan]
        return True

    def _serves(self, leaves: list[Any]) -> bool:
        """Returns whether these are tensors of all lanes, of the table's dtypes; makes them contiguous."""
        row_num = len(leaves[0]) if leaves[0].ndim else 0
        if row_num != self._row_num:
            self._row_num = row_num
            self._shapes = [torch.Size((row_num, self._storage.lane_num, *row)) for row in self._rows]
        for k, (x, shape, dtype) in enumerate(zip(leaves, self._shapes, self._dtypes, strict=True)):
            if not (isinstance(x, torch.Tensor) and x.shape == shape and x.dtype is dtype and x.is_cpu):
                return False
            if not x.is_contiguous():
                leaves[k] = x.contiguous()
        return row_num > 0

    def _is_everyone(self, lane_id: Any) -> bool:
        return isinstance(lane_id, np.ndarray) and lane_id.dtype == np.int64 and lane_id.tobytes() == self._everyone

    def _write_others(self, start: int, slots: np.ndarray) -> None:
        """Writes the columns that are not in the record: those of large rows."""
        table, leaves = self._table, self._leaves
        assert table is not None
        rows = {name: leaves[k].detach().numpy().reshape(len(slots), *self._rows[k]) for k, name in self._others}
        table.write(slice(start, start + len(slots)), slots, rows)
