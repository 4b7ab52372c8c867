"""Monitors: values with the times at which they held, and figures over the window of time that has not expired.

class Monitor(LoggedModel):
    loss = LoggedValue(float)

    def __init__(self, time_, expire):
        super().__init__(time_, expire)
        self.register_attribute_value("mean", "loss", lambda: fmean(v for _, v in self.range_values["loss"]()))

monitor = Monitor(TickTime(), expire=10)
monitor.loss = 0.5
monitor.time.step()
monitor.mean["loss"]()
"""

import bisect
import math
import numbers
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, TypeAlias

from nervex.utils.errors import ConfigError, SpecError, did_you_mean

Span: TypeAlias = tuple[float, float]


class BaseTime(ABC):
    """A clock."""

    @abstractmethod
    def time(self) -> float:
        """Returns the time, which never goes back."""


class NaturalTime(BaseTime):
    """Seconds of a clock that no one can set back; only differences mean something."""

    def time(self) -> float:
        """Returns the seconds."""
        return time.monotonic()


class TickTime(BaseTime):
    """A clock that is moved on by hand: by iterations, steps, episodes.

    Args:
        init: the first time.
    """

    def __init__(self, init: int = 0) -> None:
        self._time = init

    def step(self, delta: int = 1) -> int:
        """Moves the clock on by ``delta`` and returns the new time.

        Raises:
            ConfigError: ``delta`` is less than 1.
        """
        if delta < 1:
            raise ConfigError(f"TickTime.step got delta={delta}; time goes on by at least 1")
        self._time += delta
        return self._time

    def time(self) -> int:
        """Returns the ticks."""
        return self._time


class TimeProxy(BaseTime):
    """A clock that can be stopped: several values are then read at one moment.

    Args:
        time_: the clock behind it, which goes on meanwhile.
        frozen: stopped from the beginning.
    """

    def __init__(self, time_: BaseTime, frozen: bool = False) -> None:
        self._clock = time_
        self._held = time_.time() if frozen else None

    @property
    def is_frozen(self) -> bool:
        """Whether the clock is stopped."""
        return self._held is not None

    def freeze(self) -> None:
        """Stops the clock at the time that it shows; a stopped one stays as it is."""
        self._held = self.time()

    def unfreeze(self) -> None:
        """Lets the clock show the time of the one behind it again."""
        self._held = None

    def time(self) -> float:
        """Returns the time at which it was stopped, or that of the clock behind it."""
        return self._clock.time() if self._held is None else self._held


class LoggedValue:
    """A value of a ``LoggedModel``: setting it records when.

    Args:
        type_: what may be set; an int is a float too. None: anything.
    """

    def __init__(self, type_: type | None = None) -> None:
        self._type = type_
        self._name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, model: "LoggedModel | None", owner: type) -> Any:
        if model is None:
            return self
        values = model._logs[self._name].values
        if not values:
            raise SpecError(f"{type(model).__name__}.{self._name} has no value yet; set it before it is read")
        return values[-1]

    def __set__(self, model: "LoggedModel", value: Any) -> None:
        accepted: Any = numbers.Real if self._type is float else self._type
        if self._type is not None and not isinstance(value, accepted):
            raise SpecError(
                f"{type(model).__name__}.{self._name} got {value!r} of type {type(value).__name__}; expected a "
                f"{self._type.__name__}"
            )
        model._set(self._name, value)


class _Log:
    """Times at which a value was set, in order, and what was set."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.values: list[Any] = []

    def add(self, now: float, value: Any) -> None:
        if self.times and self.times[-1] == now:
            self.values[-1] = value  # it never held for any time
        else:
            self.times.append(now)
            self.values.append(value)

    def forget(self, since: float) -> None:
        """Drops what was replaced before ``since``."""
        first = max(bisect.bisect_right(self.times, since) - 1, 0)
        del self.times[:first], self.values[:first]

    def within(self, since: float, now: float) -> list[tuple[Span, Any]]:
        ends = [*self.times, now][1:]
        return [
            ((max(begin, since), end), value)
            for begin, end, value in zip(self.times, ends, self.values, strict=True)
            if end > since or begin == end >= since
        ]


class LoggedModel:
    """A set of ``LoggedValue`` over one clock. Any thread may set and read them.

    A value holds from the moment at which it is set until it is set again. ``range_values[name]()`` returns those of
    the last ``expire`` units of time, oldest first, as ``((begin, end), value)`` with the spans cut to that window; the
    present value ends now. Older ones are forgotten.

    Args:
        time_: the clock.
        expire: length of the window in units of the clock; infinite to forget nothing.

    Raises:
        ConfigError: ``expire`` is not positive.
    """

    def __init__(self, time_: BaseTime, expire: float = math.inf) -> None:
        if not expire > 0:
            raise ConfigError(f"{type(self).__name__} got expire={expire}; expected a positive length of time")
        self._proxy = TimeProxy(time_)
        self._time = time_
        self._expire = expire
        self._lock = threading.RLock()
        names = [n for c in reversed(type(self).__mro__) for n, v in vars(c).items() if isinstance(v, LoggedValue)]
        self._logs = {name: _Log() for name in names}
        self._attributes: dict[str, dict[str, Callable[[], Any]]] = {}
        for name in names:
            self._register("range_values", name, partial(self._range, name))

    @property
    def time(self) -> Any:
        """The clock that the model was given."""
        return self._time

    @property
    def expire(self) -> float:
        """Length of the window."""
        return self._expire

    def fixed_time(self) -> float:
        """Returns the time that values get now: that of the clock, or that of ``freeze``."""
        return self._proxy.time()

    def current_time(self) -> float:
        """Returns the time of the clock, frozen or not."""
        return self._time.time()

    def freeze(self) -> None:
        """Stops the model's time, so that all that is read after it is of one moment."""
        self._proxy.freeze()

    def unfreeze(self) -> None:
        """Lets the model's time follow the clock again."""
        self._proxy.unfreeze()

    def register_attribute_value(self, attribute_name: str, property_name: str, value: Callable[[], Any]) -> None:
        """Adds a figure: ``model.<attribute_name>[<property_name>]()`` calls ``value``.

        Args:
            attribute_name: kind of figure (``'mean'``).
            property_name: what it is of, mostly the name of a value.
            value: computes it.

        Raises:
            ConfigError: the attribute would hide something of the model, or the figure is there already.
        """
        if attribute_name not in self._attributes and hasattr(self, attribute_name):
            raise ConfigError(f"{type(self).__name__} has a '{attribute_name}' already; choose another attribute name")
        if property_name in self._attributes.get(attribute_name, {}):
            raise ConfigError(f"{type(self).__name__}.{attribute_name}['{property_name}'] is registered already")
        self._register(attribute_name, property_name, value)

    def __getattr__(self, name: str) -> Mapping[str, Callable[[], Any]]:
        attributes = self.__dict__.get("_attributes", {})
        if name not in attributes:
            known = [*attributes, *self.__dict__.get("_logs", ())]
            raise AttributeError(f"{type(self).__name__} has no '{name}'{did_you_mean(name, known)}")
        return MappingProxyType(attributes[name])

    def _register(self, attribute: str, name: str, value: Callable[[], Any]) -> None:
        self._attributes.setdefault(attribute, {})[name] = value

    def _set(self, name: str, value: Any) -> None:
        with self._lock:
            now = self.fixed_time()
            self._logs[name].add(now, value)
            self._logs[name].forget(now - self._expire)

    def _range(self, name: str) -> list[tuple[Span, Any]]:
        with self._lock:
            now = self.fixed_time()
            return self._logs[name].within(now - self._expire, now)
