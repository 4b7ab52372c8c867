"""Where the time of a thread goes: timers around calls of objects that know nothing of them."""

import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

REST = "rest"


class Totals(NamedTuple):
    """What a meter has counted so far.

    Attributes:
        wall_s, cpu_s: part -> seconds; CPU seconds are those of the whole process while the thread was in the part.
        calls: (part, function) -> number of calls.
        beside_s: part -> wall seconds of calls in other threads, while this one did something else.
    """

    wall_s: dict[str, float]
    cpu_s: dict[str, float]
    calls: dict[tuple[str, str], int]
    beside_s: dict[str, float]

    def since(self, before: "Totals") -> "Totals":
        """Returns what has come after ``before``."""
        return Totals(
            {part: value - before.wall_s.get(part, 0.0) for part, value in self.wall_s.items()},
            {part: value - before.cpu_s.get(part, 0.0) for part, value in self.cpu_s.items()},
            {name: value - before.calls.get(name, 0) for name, value in self.calls.items()},
            {part: value - before.beside_s.get(part, 0.0) for part, value in self.beside_s.items()},
        )


class Meter:
    """Wall and CPU seconds of the thread that made it, by part.

    A part's time leaves out that of the parts called within it, and what belongs to no part is ``rest``: all parts sum
    up to the time that has passed.
    """

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._wall: defaultdict[str, float] = defaultdict(float)
        self._cpu: defaultdict[str, float] = defaultdict(float)
        self._calls: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._beside: defaultdict[str, float] = defaultdict(float)
        self._inside = [REST]
        self._last = time.perf_counter(), time.process_time()

    def wrap(self, owner: Any, name: str, part: str) -> None:
        """Puts a timer around the method ``name`` of an object; a method that the object lacks is left out."""
        if hasattr(owner, name):
            setattr(owner, name, self.timed(getattr(owner, name), part, name))

    def timed(self, function: Callable[..., Any], part: str, name: str) -> Callable[..., Any]:
        """Returns ``function`` with its calls, and the steps of an iterator that it returns, counted as ``part``."""

        def call(*args: Any, **kwargs: Any) -> Any:
            result = self._run(part, function, args, kwargs)
            self._calls[part, name] += 1
            return self._steps(part, result) if isinstance(result, Iterator) else result

        return call

    def read(self) -> Totals:
        """Returns the totals up to now."""
        self._mark()
        return Totals(dict(self._wall), dict(self._cpu), dict(self._calls), dict(self._beside))

    def _run(self, part: str, function: Callable[..., Any], args: Any = (), kwargs: Any = None) -> Any:
        if threading.get_ident() != self._thread:
            start = time.perf_counter()
            try:
                return function(*args, **(kwargs or {}))
            finally:
                self._beside[part] += time.perf_counter() - start
        self._mark()
        self._inside.append(part)
        try:
            return function(*args, **(kwargs or {}))
        finally:
            self._mark()
            self._inside.pop()

    def _steps(self, part: str, iterator: Iterator[Any]) -> Iterator[Any]:
        end = object()
        while (item := self._run(part, next, (iterator, end))) is not end:
            yield item

    def _mark(self) -> None:
        """Adds what has passed since the last mark to the innermost part."""
        now = time.perf_counter(), time.process_time()
        part = self._inside[-1]
        self._wall[part] += now[0] - self._last[0]
        self._cpu[part] += now[1] - self._last[1]
        self._last = now


def descendants_cpu_s(pid: int, proc: Path = Path("/proc")) -> float:
    """Returns the CPU seconds of the living descendants of a process, as Linux tells them; 0 on other systems."""
    parent: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for stat in proc.glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        number = int(stat.parent.name)
        parent[number], ticks[number] = int(fields[1]), int(fields[11]) + int(fields[12])
    return sum(count for number, count in ticks.items() if _descends(number, pid, parent)) / os.sysconf("SC_CLK_TCK")


def _descends(number: int, root: int, parent: dict[int, int]) -> bool:
    while number in parent and number != root:
        number = parent[number]
        if number == root:
            return True
    return False
