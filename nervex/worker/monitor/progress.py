"""The metric sink that people watch: a panel on a terminal, plain lines elsewhere."""

import atexit
import logging
import math
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any

from rich.console import Console
from rich.live import Live

from nervex.worker.monitor.progress_view import Budgets, Facts, eval_line, panel, progress_line
from nervex.worker.monitor.sink import MetricRow, MetricSink

_REFRESH_S = 0.2  # more often than this nobody can read


class ProgressSink(MetricSink):
    """Shows the newest values: a live panel when the output is a terminal, otherwise a line now and then.

    It reads ``episode_return``, ``eps``, ``buffer_count``, ``buffer_capacity``, ``total_loss``, ``eval_return``,
    ``eval_return_std``, ``best_eval_return`` and ``time/{env_step_per_s, iter_per_s, wall_s, left_s}`` from rows of any
    kind and leaves out what no row has told. Without a terminal there is at most one line per ``interval_s``, and
    always one for each row of kind ``'eval'``. When the output goes away (a closed pipe or terminal) it falls silent
    and the run goes on. It draws when a row comes and has no thread of its own.

    Args:
        title: the run's name.
        budgets: what ends the run, for the bar and the time left.
        stop_value: evaluation return that the run aims at; None or infinity for no such aim.
        interval_s: least seconds between two plain lines.
        console: where to draw; None for one on standard output.
        clock: returns seconds, for the intervals and for the elapsed time when no row tells ``time/wall_s``.
    """

    name = "progress"

    def __init__(
        self,
        title: str,
        budgets: Budgets | None = None,
        stop_value: float | None = None,
        *,
        interval_s: float = 2.0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._title = title
        self._interval_s = interval_s
        self._console = console if console is not None else _console_on_stdout()
        self._clock = clock
        self._start_s = clock()
        self._shown_s = -math.inf
        aim = stop_value if stop_value is not None and math.isfinite(stop_value) else None
        self._facts = Facts(0, 0, {}, 0.0, budgets or Budgets(), aim)
        self._is_stale = False
        self._is_silent = False
        self._live: Live | None = None
        self._moved_handlers: list[tuple[logging.StreamHandler[Any], Any]] = []
        if _can_draw(self._console):
            self._start_live()
        atexit.register(self.close)  # an exception that nobody caught must not leave the cursor hidden

    @property
    def is_live(self) -> bool:
        """Whether a panel is drawn, rather than lines."""
        return self._live is not None

    def write(self, row: MetricRow) -> None:
        """Takes the row's values and shows the whole, when it is time to."""
        told = {key: value for key, value in row.values.items() if math.isfinite(value)}
        values = {**self._facts.values, **told}
        self._facts = self._facts._replace(
            env_step=row.env_step,
            train_iter=row.train_iter,
            values=values,
            elapsed_s=values.get("time/wall_s", self._clock() - self._start_s),
        )
        is_eval = row.kind == "eval"
        if is_eval and self._live is None:
            self._print(eval_line(row, self._facts))
            return
        self._is_stale = True
        if is_eval or self._clock() - self._shown_s >= (self._interval_s if self._live is None else _REFRESH_S):
            self._show()

    def close(self) -> None:
        """Shows the newest values a last time and gives the terminal back; may be called twice."""
        atexit.unregister(self.close)
        if self._is_stale:
            self._show()
        live, self._live = self._live, None
        if live is None:
            return
        for handler, stream in self._moved_handlers:
            handler.setStream(stream)
        with suppress(OSError, ValueError):
            live.stop()

    def _show(self) -> None:
        self._is_stale = False
        self._shown_s = self._clock()
        if self._live is None:
            self._print(progress_line(self._facts))
        elif not self._is_silent:
            try:
                self._live.update(panel(self._facts, self._title, self._console.width), refresh=True)
            except (OSError, ValueError):  # the terminal is gone; ValueError: its file is closed
                self._is_silent = True

    def _print(self, line: str) -> None:
        if self._is_silent:
            return
        file = self._console.file
        try:
            encoding = self._console.encoding
            file.write(line.encode(encoding, "replace").decode(encoding) + "\n")
            file.flush()
        except (OSError, ValueError) as error:
            self._is_silent = True
            if isinstance(error, BrokenPipeError) and file is sys.stdout:
                _point_to_nothing(file)

    def _start_live(self) -> None:
        streams = (sys.stdout, sys.stderr)
        live = Live(
            console=self._console,
            auto_refresh=False,
            redirect_stdout=_is_terminal(sys.stdout),
            redirect_stderr=_is_terminal(sys.stderr),  # `2> errors.txt` keeps its lines
        )
        live.start()
        self._live = live
        # a log handler holds the stream of before; its lines would run through the panel
        for logger in (logging.getLogger(), logging.getLogger("nervex")):
            for handler in logger.handlers:
                if isinstance(handler, logging.StreamHandler) and handler.stream in streams:
                    stream = sys.stdout if handler.stream is streams[0] else sys.stderr
                    self._moved_handlers.append((handler, handler.stream))
                    handler.setStream(stream)


class _StdoutConsole(Console):
    """Rich ends the process when its pipe is closed; a run goes on without its display."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError("the output is closed")


def _console_on_stdout() -> Console:
    # a terminal is what the operating system calls one: a notebook, or FORCE_COLOR in a CI log, gets lines
    return _StdoutConsole(highlight=False, force_jupyter=False, force_terminal=_is_terminal(sys.stdout))


def _can_draw(console: Console) -> bool:
    is_utf = console.encoding.lower().startswith("utf")
    return console.is_terminal and console.is_interactive and is_utf and not console.is_dumb_terminal


def _is_terminal(file: IO[str] | None) -> bool:
    try:
        return file is not None and file.isatty()
    except ValueError:  # the file is closed
        return False


def _point_to_nothing(file: IO[str]) -> None:
    """Lets what is still buffered go, or the interpreter would fail on it at exit."""
    with suppress(OSError, ValueError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, file.fileno())
        os.close(nothing)
