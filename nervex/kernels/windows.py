"""Windows of consecutive rows of a replay, found by the flags of the rows (see :mod:`nervex.kernels.row_flags`)."""

import numpy as np

from nervex.kernels.jit import kernel
from nervex.kernels.row_flags import ENDED, GAP, SEAM, VALID, WRITTEN

_SAMPLE, _BREAK = WRITTEN | VALID, GAP | SEAM


@kernel
def nstep_windows(
    flags: np.ndarray, lane_num: int, nstep: int, slot: np.ndarray, steps: np.ndarray, ok: np.ndarray
) -> None:
    """Finds the n-step windows that begin at some rows.

    Args:
        flags: of all rows, uint8 [capacity]; slot ``s`` belongs to lane ``s mod lane_num``.
        lane_num: number of lanes.
        nstep: n.
        slot: int64 [M], the first rows.
        steps: int64 [M], written: rows of each window, fewer than n where an episode ends.
        ok: bool [M], written: whether the window and the row after it are there without a gap.
    """
    for m in range(len(slot)):
        row, length = slot[m], nstep
        here = flags[row]
        whole = here & _SAMPLE == _SAMPLE
        for i in range(nstep):
            ended = here & ENDED != 0
            row += lane_num
            if row >= len(flags):
                row -= len(flags)
            here = flags[row]
            if here & _BREAK != 0:
                whole = False
            if ended:
                length = i + 1
                break
        steps[m], ok[m] = length, whole
