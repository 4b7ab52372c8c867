"""From the figures of runs to medians, spreads, ratios and tables."""

import math
import statistics
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from harness.settings import OURS

_UNSOLVED = math.inf
_UNITS = {"rate": "{unit}s/s", "us": "µs per {unit}", "s": "s"}


class Spread(NamedTuple):
    """Median, least and greatest of some numbers; infinite where a run did not get there."""

    median: float
    least: float
    greatest: float


class Line(NamedTuple):
    """What a peer reached in one metric.

    Attributes:
        runs: number of runs.
        reached: runs that got there.
        wall, cpu: seconds per unit.
        wall_ratio, cpu_ratio: seconds of the peer over those of nerveX, run by run: how many times as fast nerveX is;
            None: there is nothing to compare.
        figure: one of the figures, for versions and the like.
    """

    metric: str
    peer: str
    runs: int
    reached: int
    wall: Spread
    cpu: Spread
    wall_ratio: Spread | None
    cpu_ratio: Spread | None
    figure: Mapping[str, Any]


def spread(values: Iterable[float]) -> Spread:
    """Returns median, minimum and maximum; an infinite value may make the median infinite."""
    values = sorted(values)
    return Spread(statistics.median(values), values[0], values[-1])


def lines(record: Mapping[str, Any]) -> list[Line]:
    """Returns a line for each metric and peer of a job's record, peers in the record's order."""
    figures = record["figures"]
    found = []
    for metric in dict.fromkeys(figure["metric"] for figure in figures):
        ours = _costs(figures, metric, OURS)
        for peer in record["peers"]:
            costs = _costs(figures, metric, peer)
            if not costs:
                continue
            shared = sorted(costs.keys() & ours.keys()) if peer != OURS else []
            wall_ratio, cpu_ratio = (
                spread(_ratio(costs[run][i], ours[run][i]) for run in shared) if shared else None for i in (0, 1)
            )
            wall, cpu = (spread(cost[i] for cost in costs.values()) for i in (0, 1))
            reached = sum(math.isfinite(cost[1]) for cost in costs.values())
            example = next(f for f in figures if (f["metric"], f["peer"]) == (metric, peer))
            found.append(Line(metric, peer, len(costs), reached, wall, cpu, wall_ratio, cpu_ratio, example))
    return found


def tables(record: Mapping[str, Any]) -> str:
    """Returns a job's tables, one for each metric, with what is missing and how peers differ below them."""
    found = lines(record)
    parts = [f"### {record['title']}"]
    for metric in dict.fromkeys(line.metric for line in found):
        rows = [_row(line, record) for line in found if line.metric == metric]
        parts.append(table([metric, *_heads(record)], rows))
    missing = [f"- not measured: {peer} ({reason})" for peer, reason in record["missing"].items()]
    notes = [f"- {peer}: {note}" for peer, note in record["note"].items()]
    if missing or notes:
        parts.append("\n".join([*missing, *notes]))
    parts.append(_foot(record, found))
    return "\n\n".join(part for part in parts if part)


def table(head: list[str], rows: list[list[str]]) -> str:
    """Returns a table in Markdown."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *rows])


def _costs(figures: Iterable[Mapping[str, Any]], metric: str, peer: str) -> dict[int, tuple[float, float]]:
    """Returns run -> (wall, CPU) seconds per unit; infinite where nothing was reached."""
    return {
        f["run"]: (f["wall_s"] / f["amount"], f["cpu_s"] / f["amount"]) if f["amount"] else (_UNSOLVED, _UNSOLVED)
        for f in figures
        if f["metric"] == metric and f["peer"] == peer
    }


def _ratio(theirs: float, ours: float) -> float:
    return theirs / ours if math.isfinite(ours) else (1.0 if math.isinf(theirs) else 0.0)


def _heads(record: Mapping[str, Any]) -> list[str]:
    unit = _UNITS[record["shown"]].format(unit=record["unit"])
    cpu = f"CPU ms per {record['unit']}" if record["shown"] == "rate" else f"CPU {unit}"
    return [f"{unit} [min, max]", f"{cpu} [min, max]", "nerveX is × as fast: wall", "in CPU time", "runs"]


def _row(line: Line, record: Mapping[str, Any]) -> list[str]:
    if record["shown"] == "rate":
        wall = _range(Spread(*(1 / value for value in (line.wall.median, line.wall.greatest, line.wall.least))))
        cpu = _range(Spread(*(1e3 * value for value in line.cpu)))
    else:
        scale = 1e6 if record["shown"] == "us" else 1.0
        wall, cpu = (_range(Spread(*(scale * value for value in cost))) for cost in (line.wall, line.cpu))
    ratios = ["" if ratio is None else _range(ratio) for ratio in (line.wall_ratio, line.cpu_ratio)]
    runs = str(line.runs) if line.reached == line.runs else f"{line.reached} of {line.runs} got there"
    return [line.peer, wall, cpu, *ratios, runs]


def _range(values: Spread) -> str:
    median, least, greatest = (number(value) for value in values)
    return median if least == greatest else f"{median} [{least}, {greatest}]"


def number(value: float) -> str:
    """Returns three digits of a number, as people write it: ``12,300``, ``1.23``, ``0.00123``, ``∞``."""
    if math.isinf(value):
        return "∞"
    if value == 0:
        return "0"
    value = float(f"{value:.2e}")  # rounded first, since that may make it longer
    return f"{value:,.{max(2 - math.floor(math.log10(abs(value))), 0)}f}"


def _foot(record: Mapping[str, Any], found: list[Line]) -> str:
    """Returns versions and threads of the peers, and the machine."""
    machine = record["machine"]
    parts = [f"Measured {record['date']} on {machine['cores']} cores, {machine['cpu']}."]
    peers: dict[str, list[str]] = {}
    for peer in dict.fromkeys(line.peer for line in found):
        figure = next(line.figure for line in found if line.peer == peer)
        named = ", ".join(f"{name} {version}" for name, version in figure["versions"].items())
        threads = f"{figure['threads']} thread{'s' if figure['threads'] != 1 else ''}"
        peers.setdefault(f"{named}; {threads}", []).append(peer)
    return " ".join([*parts, *(f"{', '.join(names)}: {packages}." for packages, names in peers.items())])
