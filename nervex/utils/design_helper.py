"""Tools for classes and functions: singletons, checked overrides, guarded calls, limited space."""

import functools
import logging
import threading
from abc import ABCMeta
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

from nervex.utils.errors import ConfigError, did_you_mean

F = TypeVar("F", bound=Callable[..., Any])

_logger = logging.getLogger("nervex")


class SingletonMetaclass(ABCMeta):
    """Metaclass of classes that have one instance in a process; each subclass has one of its own.

    ``Class(...)`` makes the instance the first time and returns it every further time. Arguments that differ from the
    first ones are an error: they could have no effect.

    Raises:
        ConfigError: the instance is there, and was made with other arguments.
    """

    _instances: ClassVar[dict[type, tuple[Any, tuple[Any, dict[str, Any]]]]] = {}
    _lock = threading.RLock()

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        with SingletonMetaclass._lock:
            if cls not in cls._instances:
                cls._instances[cls] = (super().__call__(*args, **kwargs), (args, kwargs))
            instance, first = cls._instances[cls]
        if (args or kwargs) and first != (args, kwargs):
            raise ConfigError(
                f"{cls.__name__} is a singleton, made with {_show_call(*first)}; it cannot be had with "
                f"{_show_call(args, kwargs)} too, call it without arguments"
            )
        return instance


def override(cls: type) -> Callable[[F], F]:
    """Returns a decorator that marks a method as one that overrides a method of ``cls``, and checks that it does.

    Raises:
        ConfigError: ``cls`` has no such method.
    """

    def check(method: F) -> F:
        if not hasattr(cls, method.__name__):
            near = did_you_mean(method.__name__, dir(cls))
            raise ConfigError(f"{method.__qualname__} overrides nothing of {cls.__name__}{near}")
        return method

    return check


def error_wrapper(fn: Callable[..., Any], default_ret: Any, warning_msg: str = "") -> Callable[..., Any]:
    """Returns ``fn`` that answers ``default_ret`` where it would raise an ``Exception``, and logs a warning that says
    so; for what a run can do without.

    Args:
        fn: the function.
        default_ret: returned in place of an error.
        warning_msg: begins the warning.
    """

    @functools.wraps(fn)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return fn(*args, **kwargs)
        except Exception as e:  # the caller asked for just this
            what = getattr(fn, "__qualname__", repr(fn))
            said = f"{warning_msg}: " if warning_msg else ""
            _logger.warning("%s%s raised %s: %s; %r stands in", said, what, type(e).__name__, e, default_ret)
            return default_ret

    return guarded


class LimitedSpaceContainer:
    """Counts places that are taken, between bounds; any thread may ask.

    Args:
        min_val: least number taken.
        max_val: number of places; ``increase_space`` and ``decrease_space`` change it.

    Raises:
        ConfigError: not ``0 ≤ min_val ≤ max_val``.
    """

    def __init__(self, min_val: int, max_val: int) -> None:
        if not 0 <= min_val <= max_val:
            raise ConfigError(
                f"LimitedSpaceContainer got min_val={min_val}, max_val={max_val}; expected 0 <= min_val <= max_val"
            )
        self._min, self._max, self._taken = min_val, max_val, min_val
        self._lock = threading.Lock()

    def acquire_space(self) -> bool:
        """Takes a place; returns whether there was one."""
        with self._lock:
            is_free = self._taken < self._max
            self._taken += is_free
            return is_free

    def release_space(self) -> bool:
        """Gives a place back; returns whether one beyond ``min_val`` was taken."""
        with self._lock:
            is_taken = self._taken > self._min
            self._taken -= is_taken
            return is_taken

    def get_residual_space(self) -> int:
        """Takes all places that are left and returns how many they were."""
        with self._lock:
            residual, self._taken = max(self._max - self._taken, 0), max(self._max, self._taken)
            return residual

    def increase_space(self) -> None:
        """Adds a place."""
        with self._lock:
            self._max += 1

    def decrease_space(self) -> None:
        """Removes a place, be it taken: until enough are given back none can be had."""
        with self._lock:
            self._max = max(self._max - 1, self._min)


def _show_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    return "(" + ", ".join([*map(repr, args), *(f"{k}={v!r}" for k, v in kwargs.items())]) + ")"
