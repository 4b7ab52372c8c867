"""How kernels are compiled. The only module that imports Numba.

Arithmetic is that of NumPy, operation by operation: nothing is reordered or contracted, so that results do not depend
on the processor. Threads may run while a kernel does (it holds no global interpreter lock).
"""

import functools
import logging
import os
from collections.abc import Callable
from typing import Any, TypeVar

import numba
from numba.core import cgutils, types
from numba.extending import intrinsic

Function = TypeVar("Function", bound=Callable[..., Any])

_logger = logging.getLogger("nervex")
_compile: Any = numba.njit(nogil=True, error_model="numpy")  # its result has more than a function has


def kernel(function: Function) -> Function:
    """Compiles a function at its first call with a signature, and keeps the machine code on disk.

    It lies in the folder of the environment variable ``NUMBA_CACHE_DIR``; else beside the source, where that can be
    written; else in the user's cache folder. Where none can be, every process compiles anew, and the log says so once.
    """
    compiled = _compile(function)
    try:
        compiled.enable_caching()
    except RuntimeError:
        _say_that_nothing_is_kept(os.path.dirname(function.__code__.co_filename))
    return compiled


def part(function: Function) -> Function:
    """Compiles a function that only kernels call, into each of them.

    A loop over arrays that are its arguments becomes vector instructions; one over rows cut from a table does not.
    """
    return _compile(function)


@intrinsic
def _pointer(_: Any, address: Any) -> Any:
    """Makes a pointer of an integer, in compiled code."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(address), code


@part
def memory(address: int, num: int, dtype: Any) -> Any:
    """Returns the ``num`` numbers of ``dtype`` that lie at an address, as an array; in compiled code only.

    Nothing is checked: whoever gives the address keeps the memory alive, of that size, and aligned.
    """
    return numba.carray(_pointer(address), (num,), dtype)  # type: ignore[call-arg]


@functools.cache
def _say_that_nothing_is_kept(folder: str) -> None:
    _logger.warning(
        "compiled kernels cannot be kept: neither %s nor the user's cache folder can be written, so that every process "
        "compiles them anew (about 0.5 s each); set NUMBA_CACHE_DIR to a folder that can be written",
        folder,
    )
