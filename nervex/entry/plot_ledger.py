"""The learning curves of a recipe's records, ours over those of its peers."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from nervex.entry.ledger import Record, by_peer
from nervex.entry.plot import Curve, RunCurves, draw_runs
from nervex.utils.errors import RunFolderError
from nervex.utils.files import atomic_write_bytes, write_failure
from nervex.utils.statistics import bootstrap_band

_DPI = 150


def plot_records(records: Sequence[Record], path: Path) -> Path:
    """Draws the records of one recipe into the PNG ``path`` and returns it.

    Raises:
        RunFolderError: it cannot be written.
    """
    image = io.BytesIO()
    draw_records(records).savefig(image, format="png", dpi=_DPI, facecolor="white")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_bytes(path, image.getvalue())
    except OSError as error:
        raise RunFolderError(write_failure(path, len(image.getvalue()), error)) from error
    return path


def draw_records(records: Sequence[Record]) -> Figure:
    """Returns the figure: for each group the interquartile mean over its seeds, the 95 % bootstrap interval of it at
    every point as a band, and the seeds as thin lines."""
    groups = list(by_peer(records).values())
    shown = [_group_curve(group) for group in groups]
    figure = draw_runs([run for run, _, _ in shown])
    axes = figure.axes[0]
    middles = {str(line.get_label()): line for line in axes.get_lines()}
    for group, (run, low, high) in zip(groups, shown, strict=True):
        line = middles[run.name]
        color = line.get_color()
        if len(group) > 1:
            axes.fill_between(run.evaluation.env_step, low, high, color=color, alpha=0.15, linewidth=0)
            for curve in map(seed_curve, group):
                axes.plot(curve.env_step, curve.value, color=color, linewidth=0.7, alpha=0.35)
    return figure


def seed_curve(record: Record) -> Curve:
    """Returns the evaluations of a seed; the final one stands for another at the same env step."""
    points = [point for point in record.curve if point.env_step < record.final.env_step] + [record.final]
    return Curve(np.array([p.env_step for p in points]), np.array([p.return_mean for p in points], dtype=np.float64))


def common_grid(curves: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray]:
    """Returns env steps [P] that all curves cover, the ends of the shortest included, and their values there [R, P].

    The steps are those of the curve with the most points; between its points a curve is a straight line.
    """
    first, last = max(c.env_step[0] for c in curves), min(c.env_step[-1] for c in curves)
    densest = max(curves, key=len).env_step
    step = np.unique([first, *densest[(densest > first) & (densest < last)], last])
    return step, np.stack([np.interp(step, c.env_step, c.value) for c in curves])


def _group_curve(group: Sequence[Record]) -> tuple[RunCurves, np.ndarray, np.ndarray]:
    step, value = common_grid([seed_curve(record) for record in group])
    middle, low, high = bootstrap_band(value)
    first = group[0]
    who = first.peer or first.name
    run = RunCurves(
        name=f"{who} (IQM of {len(group)} seeds)" if len(group) > 1 else f"{who} · seed {first.seed}",
        seed="", policy="", env=first.env, stop_value=first.bar, train=Curve(np.array([]), np.array([])),
        evaluation=Curve(step, middle), evaluation_std=np.zeros_like(middle), config_key=first.peer,
        unit="learner iterations" if first.offline else "env steps",
    )  # fmt: skip
    return run, low, high
