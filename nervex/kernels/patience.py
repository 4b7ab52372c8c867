"""When a kernel is worth loading Numba for (apart from the kernels, so that asking loads no compiler)."""

import sys

#: calls of something after which the time that a kernel saves, tens of microseconds, is more than loading Numba takes
MANY_CALLS = 5_000


def kernels_are_worth_it(calls: int) -> bool:
    """Whether something that was called so many times should call a kernel from now on, which gives the same result."""
    return calls >= MANY_CALLS or "nervex.kernels.jit" in sys.modules
