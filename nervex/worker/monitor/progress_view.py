"""What a run shows of itself, as text: plain lines and the panel of a terminal."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from rich.box import ROUNDED
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nervex.worker.monitor.sink import MetricRow

_WIDE_COLUMNS = 76  # narrower terminals get one fact per line
_MAX_COLUMNS = 100

_BELOW, _REACHED = "yellow", "green"  # an evaluation below the bar, and from the bar on


class Budgets(NamedTuple):
    """What ends a run; None or infinity where there is no limit.

    Attributes:
        max_env_step: env steps.
        max_train_iter: learner iterations.
        max_wall_s: seconds of training.
    """

    max_env_step: float | None = None
    max_train_iter: float | None = None
    max_wall_s: float | None = None


class Facts(NamedTuple):
    """What there is to show.

    Attributes:
        env_step: env steps so far.
        train_iter: learner iterations so far.
        values: newest value of each key.
        elapsed_s: seconds of training so far.
        budgets: what ends the run.
        stop_value: evaluation return that the run aims at.
    """

    env_step: int
    train_iter: int
    values: Mapping[str, float]
    elapsed_s: float
    budgets: Budgets
    stop_value: float | None


class BudgetUse(NamedTuple):
    """How far the run is with one budget.

    Attributes:
        text: used and whole, in words.
        fraction: used share, 0 to 1.
        left_s: seconds until it is used up; None when the rate is not known.
    """

    text: str
    fraction: float
    left_s: float | None


def score(value: float) -> str:
    """Returns a return in as many digits as tell returns apart: ``1,234.5``, ``0.928``."""
    return f"{value:.3f}" if 0 < abs(value) < 1 else f"{value:,.1f}"


def progress_line(facts: Facts) -> str:
    """Returns the plain line: what is known, in a fixed order, joined by bars."""
    values, use = facts.values, budget_use(facts)
    parts = [f"env_step {facts.env_step:,}", f"iter {facts.train_iter:,}"]
    parts += [f"return {score(values['episode_return'])}"] if "episode_return" in values else []
    parts += [f"eps {values['eps']:.2f}"] if "eps" in values else []
    parts += [f"buffer {_buffer(values)}"] if "buffer_count" in values else []
    parts += [f"loss {values['total_loss']:.3g}"] if "total_loss" in values else []
    parts += [f"{values['time/env_step_per_s']:,.0f} env steps/s"] if "time/env_step_per_s" in values else []
    parts += [f"{values['time/iter_per_s']:,.0f} iter/s"] if "time/iter_per_s" in values else []
    parts += [f"left {duration(use.left_s)}"] if use and use.left_s is not None else []
    return " | ".join(parts)


def eval_line(row: MetricRow, facts: Facts) -> str:
    """Returns the plain line of one evaluation."""
    parts = [f"env_step {row.env_step:,}", f"iter {row.train_iter:,}"]
    if "eval_return" in row.values:
        spread = f" ± {score(row.values['eval_return_std'])}" if "eval_return_std" in row.values else ""
        parts.append(f"eval return {score(row.values['eval_return'])}{spread}")
    parts += [f"best {score(facts.values['best_eval_return'])}"] if "best_eval_return" in facts.values else []
    parts += [f"bar {facts.stop_value:,g}"] if facts.stop_value is not None else []
    return " | ".join(parts)


def panel(facts: Facts, title: str, columns: int) -> RenderableType:
    """Returns the panel for a terminal that is ``columns`` wide."""
    width = min(columns, _MAX_COLUMNS)
    per_row = 2 if width >= _WIDE_COLUMNS else 1
    table = Table.grid(padding=(0, 2), expand=True)
    for _ in range(per_row):
        table.add_column(style="dim", no_wrap=True, width=9)
        table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    cells = _cells(facts)
    for start in range(0, len(cells), per_row):
        table.add_row(*(item for cell in cells[start : start + per_row] for item in cell))
    rows: list[RenderableType] = [table]
    use = budget_use(facts)
    if use is not None:
        rows.append(_budget_row(use))
    return Panel(
        Group(*rows),
        title=Text(title, style="bold"),
        title_align="left",
        subtitle=Text(f"elapsed {duration(facts.elapsed_s)}"),
        subtitle_align="right",
        box=ROUNDED,
        border_style="cyan",
        width=width,
    )


def budget_use(facts: Facts) -> BudgetUse | None:
    """Returns the budget that ends the run first at the present rates; None when the run has none."""
    values, budgets = facts.values, facts.budgets
    candidates = [
        (facts.env_step, budgets.max_env_step, values.get("time/env_step_per_s"), "env steps"),
        (facts.train_iter, budgets.max_train_iter, values.get("time/iter_per_s"), "iterations"),
        (facts.elapsed_s, budgets.max_wall_s, 1.0, ""),
    ]
    uses = []
    for used, whole, per_s, unit in candidates:
        if whole is None or not math.isfinite(whole) or whole <= 0:
            continue
        left_s = max(0.0, whole - used) / per_s if per_s else None
        text = f"{used:,.0f} / {whole:,.0f} {unit}" if unit else f"{duration(used)} / {duration(whole)}"
        uses.append(BudgetUse(text, min(1.0, used / whole), left_s))
    if not uses:
        return None
    tightest = min(uses, key=lambda use: (math.inf if use.left_s is None else use.left_s, -use.fraction))
    return tightest._replace(left_s=values.get("time/left_s", tightest.left_s))


def duration(seconds: float) -> str:
    """Returns seconds in words of at most two units: ``12 s``, ``3 min 05 s``, ``2 h 07 min``, ``3 d 04 h``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


def _cells(facts: Facts) -> list[tuple[Text, Text]]:
    """Returns label and value of every fact; a value that no row has told is a dash, so that nothing jumps about."""
    values = facts.values

    def number(key: str, form: str) -> str:
        return format(values[key], form) if key in values else "–"

    def counter(count: int, rate: str) -> Text:
        per_s = f"  {values[rate]:,.0f}/s" if rate in values else ""
        return Text.assemble(f"{count:,}", (per_s, "dim"))

    evaluation = Text()
    if "eval_return" in values:
        reached = facts.stop_value is not None and values["eval_return"] >= facts.stop_value
        evaluation.append(f"{score(values['eval_return'])}", style=f"bold {_REACHED if reached else _BELOW}")
        evaluation.append(f"  best {score(values['best_eval_return'])}" if "best_eval_return" in values else "")
    else:
        evaluation.append("–")
    if facts.stop_value is not None:
        evaluation.append(f"  bar {facts.stop_value:,g}", style="dim")
    cells: list[tuple[str, Text]] = [
        ("env step", counter(facts.env_step, "time/env_step_per_s")),
        ("iteration", counter(facts.train_iter, "time/iter_per_s")),
        ("return", Text(number("episode_return", ",.1f"), style="bold")),
        ("eval", evaluation),
        ("eps", Text(number("eps", ".3f"))),
        ("buffer", Text(_buffer(values))),
        ("loss", Text(number("total_loss", ".3g"))),
    ]
    optional = {"loss": "total_loss", "buffer": "buffer_count", "eps": "eps"}
    shown = [(label, value) for label, value in cells if label not in optional or optional[label] in values]
    return [(Text(label), value) for label, value in shown]


def _buffer(values: Mapping[str, float]) -> str:
    count, capacity = values.get("buffer_count"), values.get("buffer_capacity")
    if count is None:
        return "–"
    return f"{count:,.0f}/{capacity:,.0f}" + f" ({count / capacity:.0%})" if capacity else f"{count:,.0f}"


def _budget_row(use: BudgetUse) -> Table:
    row = Table.grid(padding=(0, 2), expand=True)
    row.add_column(ratio=1)
    row.add_column(no_wrap=True)
    left = f"  {duration(use.left_s)} left" if use.left_s is not None else ""
    text = Text.assemble(f"{use.fraction:.0%}  ", (use.text, "dim"), left)
    row.add_row(ProgressBar(total=1.0, completed=use.fraction, complete_style="cyan", finished_style="green"), text)
    return row
