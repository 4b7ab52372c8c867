"""How the C library of the process keeps memory that was freed."""

import ctypes
import functools
import os
import platform
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_KEPT_BYTES = 1 << 30
_LARGEST_BYTES = 32 << 20  # the most that the GNU C library accepts
_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")


@functools.cache
def keep_freed_memory() -> bool:
    """Makes the GNU C library keep freed memory, in place of giving it back to the system after each update and having
    every page of it cleared in the next one: up to a sixth of an update of a convolutional network. More than 1 GiB at
    the top of the heap is given back still, and blocks above 32 MiB.

    What the user has set by environment variables stays, as does another allocator.

    Returns:
        Whether it was done.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc" or any(os.environ.get(k) for k in _SETTINGS):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(
        mallopt(_MMAP_THRESHOLD, _LARGEST_BYTES) and mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
    )
