"""Rows of a replay written from columns into a table of records.

A record is ``record_bytes`` bytes; field k takes ``count[k]`` numbers of ``unit[k]`` bytes (1, 2, 4 or 8) from byte
``offset[k]`` on, a multiple of the unit. Its column, at ``address[k]``, holds the same numbers row after row. Table and
columns come as addresses, since an array as argument costs about as much as writing its rows; nothing is checked.
"""

import numpy as np

from nervex.kernels.jit import kernel, memory, part
from nervex.kernels.row_flags import ENDED, VALID, WRITTEN


@kernel
def write_rows(
    table: int,
    record_bytes: int,
    flags: int,
    start: int,
    num: int,
    address: np.ndarray,
    layout: np.ndarray,
) -> tuple[int, int]:
    """Writes ``num`` rows of every column, and their flags, to the rows of the table from ``start`` on.

    Args:
        table: address of the records.
        record_bytes: bytes of one.
        flags: address of the flags of all rows, uint8; see :mod:`nervex.kernels.row_flags`.
        start, num: which rows.
        address: int64 [K]; the first three are ``valid``, ``terminated`` and ``truncated``.
        layout: int64 [3, K]: ``offset``, ``count``, ``unit``.

    Returns:
        Transitions among the new rows, and among those that they replace.
    """
    offset, count, unit = layout[0], layout[1], layout[2]
    for k in range(len(address)):
        step, amount = record_bytes // unit[k], num * count[k]
        first, size = start * step + offset[k] // unit[k], (start + num) * step
        if unit[k] == 8:
            _write(memory(table, size, np.uint64), memory(address[k], amount, np.uint64), first, step, count[k])
        elif unit[k] == 4:
            _write(memory(table, size, np.uint32), memory(address[k], amount, np.uint32), first, step, count[k])
        elif unit[k] == 2:
            _write(memory(table, size, np.uint16), memory(address[k], amount, np.uint16), first, step, count[k])
        else:
            _write(memory(table, size, np.uint8), memory(address[k], amount, np.uint8), first, step, count[k])
    valid, terminated, truncated = (
        memory(address[0], num, np.uint8), memory(address[1], num, np.uint8), memory(address[2], num, np.uint8)
    )  # fmt: skip
    flag, new, old = memory(flags, start + num, np.uint8), 0, 0
    for m in range(num):
        old += (flag[start + m] & VALID) // VALID
        new += valid[m]
        flag[start + m] = WRITTEN + VALID * valid[m] + ENDED * (terminated[m] | truncated[m])
    return new, old


@part
def _write(table: np.ndarray, column: np.ndarray, first: int, step: int, count: int) -> None:
    for m in range(len(column) // count):
        for i in range(count):
            table[first + m * step + i] = column[m * count + i]
