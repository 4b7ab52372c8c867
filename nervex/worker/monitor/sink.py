"""Where metrics go: the one interface of metric sinks, and the log that fans out to them.

A sink for another service is a class with a ``write``; ``close``, ``flush``, ``position`` and ``rewind`` are there when
it needs them::

    class WandbSink(MetricSink):
        name = "wandb"

        def __init__(self, project: str, config: dict) -> None:
            self._run = wandb.init(project=project, config=config)

        def write(self, row: MetricRow) -> None:
            values = {f"{row.kind}/{key}": value for key, value in row.values.items()}
            self._run.log({"env_step": row.env_step, "train_iter": row.train_iter, **values})

        def close(self) -> None:
            self._run.finish()
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, NamedTuple, SupportsFloat

import numpy as np

from nervex.utils.errors import ConfigError, SpecError

TIME_PREFIX = "time/"
"""Keys that measure time begin so; all others must be equal in two runs of one seed and resolved configuration."""

RESERVED_KEYS = ("kind", "env_step", "train_iter")

_logger = logging.getLogger("nervex")


class MetricRow(NamedTuple):
    """What one part of a run has to tell at one moment.

    Attributes:
        kind: who tells it (``'train'``, ``'collect'``, ``'eval'``, ``'info'``, or a word of a user's hook).
        env_step: env steps collected so far.
        train_iter: learner iterations done so far.
        values: key -> number, in the order in which they are to be written.
    """

    kind: str
    env_step: int
    train_iter: int
    values: Mapping[str, float]


class MetricSink(ABC):
    """A place that metric rows are written to. Only ``write`` has to be there.

    Attributes:
        name: tells the sinks of one log apart, in messages and in the checkpoint.
    """

    name: str = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            cls.name = cls.__name__

    @abstractmethod
    def write(self, row: MetricRow) -> None:
        """Takes one row; its values are plain Python numbers, which may be NaN or infinite."""

    def flush(self) -> None:  # noqa: B027
        """Brings what was written to where it survives the end of this process."""

    def close(self) -> None:  # noqa: B027
        """Flushes and gives everything back; may be called twice."""

    def position(self) -> int | None:
        """Returns how far the sink has written, for the checkpoint; None when it cannot go back."""
        return None

    def rewind(self, position: int) -> None:  # noqa: B027
        """Forgets what was written after ``position``, so that a resumed run repeats no row."""


class MetricLog:
    """Writes each row to every sink. A sink that raises is reported in one line and dropped; the run goes on.

    Args:
        sinks: where the rows go, in this order.

    Raises:
        ConfigError: two sinks have one name.
    """

    def __init__(self, sinks: Iterable[MetricSink] = ()) -> None:
        self._sinks: list[MetricSink] = []
        for sink in sinks:
            self.add(sink)

    @property
    def sinks(self) -> tuple[MetricSink, ...]:
        """The sinks that still take rows."""
        return tuple(self._sinks)

    def add(self, sink: MetricSink) -> None:
        """Adds a sink, which takes the rows from now on.

        Raises:
            ConfigError: a sink of this name is there already.
        """
        if any(sink.name == other.name for other in self._sinks):
            raise ConfigError(f"two metric sinks are named '{sink.name}'; give one of them another `name`")
        self._sinks.append(sink)

    def write(self, row: MetricRow) -> None:
        """Writes a row; values may be NumPy or 0-d tensor numbers, the sinks get Python ones.

        Raises:
            SpecError: a value is not a number, or a key is one of ``kind``, ``env_step``, ``train_iter``.
        """
        values = {key: _plain_number(row, key, value) for key, value in row.values.items()}
        plain = MetricRow(row.kind, int(row.env_step), int(row.train_iter), values)
        self._each("write", lambda sink: sink.write(plain))

    def flush(self) -> None:
        """Flushes every sink."""
        self._each("flush", lambda sink: sink.flush())

    def close(self) -> None:
        """Closes every sink; may be called twice."""
        self._each("close", lambda sink: sink.close())

    def state_dict(self) -> dict[str, int]:
        """Returns sink name -> position, for the checkpoint, of every sink that can go back to it."""
        positions: dict[str, int] = {}

        def ask(sink: MetricSink) -> None:
            position = sink.position()
            if position is not None:
                positions[sink.name] = position

        self._each("position", ask)
        return positions

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Takes every sink back to where it was at the checkpoint; sinks that the state does not know stay."""
        self._each("rewind", lambda sink: sink.rewind(state[sink.name]) if sink.name in state else None)

    def __enter__(self) -> "MetricLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _each(self, what: str, call: Callable[[MetricSink], object]) -> None:
        for sink in self.sinks:
            try:
                call(sink)
            except Exception as error:  # a sink is a border of the process: a full disk or a lost service ends no run
                self._drop(sink, what, error)

    def _drop(self, sink: MetricSink, what: str, error: Exception) -> None:
        self._sinks.remove(sink)
        try:
            sink.close()
        except Exception:  # the first error is the one worth a line
            _logger.debug("metric sink '%s' also failed at close", sink.name, exc_info=True)
        _logger.warning(
            "metric sink '%s' failed at %s and is dropped, the run goes on without it: %s: %s",
            *(sink.name, what, type(error).__name__, error),
        )


def without_time(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns the rows less their keys that measure time: what two runs of one seed and config have in common."""
    return [{key: value for key, value in row.items() if not key.startswith(TIME_PREFIX)} for row in rows]


def _plain_number(row: MetricRow, key: str, value: Any) -> float:
    where = f"metric '{key}' of the '{row.kind}' row at env step {row.env_step}"
    if key in RESERVED_KEYS:
        raise SpecError(f"{where}: this key is the row's own; give the metric another name")
    if isinstance(value, int | np.integer):  # bool is an int
        return int(value)
    if isinstance(value, float):
        return float(value)
    try:
        if isinstance(value, str | bytes) or not isinstance(value, SupportsFloat):
            raise TypeError("no number")
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise SpecError(f"{where} is {value!r} ({type(value).__name__}), expected one number") from error
