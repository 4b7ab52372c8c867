"""Wall clocks around a piece of code, which wait for the GPU where that is asked for."""

import functools
import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from nervex.utils.errors import ConfigError, did_you_mean

WRAPPER_TYPES = ("time", "cuda")


class EasyTimer:
    """Measures the wall time of a ``with`` block.

    Args:
        cuda: wait, at both ends, until the GPU has done what it was given. Where the process uses no GPU there is
            nothing to wait for.

    Attributes:
        value: seconds of the last block, 0.0 before the first.
    """

    def __init__(self, cuda: bool = True) -> None:
        self._cuda = cuda
        self._began = 0.0
        self.value = 0.0

    def __enter__(self) -> "EasyTimer":
        self._began = self._now()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.value = self._now() - self._began

    def _now(self) -> float:
        torch = sys.modules.get("torch")  # a process that never imported it has nothing on a GPU
        if self._cuda and torch is not None and torch.cuda.is_initialized():
            torch.cuda.synchronize()
        return time.perf_counter()


class TimeWrapper:
    """Measures calls of a function, or what happens between two calls of its own.

    Args:
        cuda: see :class:`EasyTimer`.
    """

    def __init__(self, cuda: bool) -> None:
        self._cuda = cuda
        self._timer: EasyTimer | None = None

    def wrapper(self, fn: Callable[..., Any]) -> Callable[..., tuple[Any, float]]:
        """Returns a function that returns ``(result of fn, seconds that it took)``."""

        @functools.wraps(fn)
        def timed(*args: Any, **kwargs: Any) -> tuple[Any, float]:
            with EasyTimer(self._cuda) as timer:
                result = fn(*args, **kwargs)
            return result, timer.value

        return timed

    def start_time(self) -> None:
        """Begins a measurement."""
        self._timer = EasyTimer(self._cuda).__enter__()

    def end_time(self) -> float:
        """Returns the seconds since ``start_time``.

        Raises:
            RuntimeError: there was none since the last ``end_time``.
        """
        if self._timer is None:
            raise RuntimeError("end_time was called without start_time; call start_time where the measurement begins")
        timer, self._timer = self._timer, None
        timer.__exit__(None, None, None)
        return timer.value


def build_time_helper(cfg: Mapping[str, Any] | None = None, wrapper_type: str | None = None) -> TimeWrapper:
    """Returns the timer that a configuration names.

    Args:
        cfg: a configuration with ``common.time_wrapper_type``; asked where no type is given.
        wrapper_type: ``'time'`` for wall time, ``'cuda'`` for wall time that waits for the GPU.

    Raises:
        ConfigError: neither is given, or the type is another one.
    """
    if wrapper_type is None:
        common = (cfg or {}).get("common", {})
        if "time_wrapper_type" not in common:
            raise ConfigError("there is no common.time_wrapper_type; add it, or give wrapper_type 'time' or 'cuda'")
        wrapper_type = common["time_wrapper_type"]
    if wrapper_type not in WRAPPER_TYPES:
        near = did_you_mean(str(wrapper_type), WRAPPER_TYPES)
        raise ConfigError(f"unknown time wrapper {wrapper_type!r}{near} (known: {', '.join(WRAPPER_TYPES)})")
    return TimeWrapper(cuda=wrapper_type == "cuda")
