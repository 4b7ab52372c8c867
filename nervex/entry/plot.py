"""Learning curves of runs, as pictures."""

import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from nervex.utils.errors import RunFolderError
from nervex.worker.monitor.jsonl_sink import read_metrics
from nervex.worker.monitor.run_folder import RunFolder

_SIZE_INCHES = (8.0, 4.6)
_DPI = 150
_TRAIN, _EVAL, _BAR, _TEXT = "#9aa5b1", "#0b6fb8", "#c2410c", "#333f4b"
_GROUP_COLORS = ("#0b6fb8", "#2e8540", "#8e44ad", "#d99a0d", "#16807c", "#d1478c", "#6b4f2a", "#5a52c7")
_RUN_NAME = re.compile(r"(?P<name>.+)_seed(?P<seed>\d+)(_\d{8}-\d{6}(_\d+)?)?")


@dataclass(frozen=True)
class Curve:
    """Values over env steps, or over learner iterations of a run that makes no env steps.

    Attributes:
        env_step: ``[N]`` int64.
        value: ``[N]`` float64.
    """

    env_step: np.ndarray
    value: np.ndarray

    def __len__(self) -> int:
        return len(self.env_step)


@dataclass(frozen=True)
class RunCurves:
    """What a picture needs of one run.

    Attributes:
        name: name of its configuration.
        seed: its seed, as text; empty when unknown.
        policy: its policy; empty when unknown.
        env: its env; empty when unknown.
        stop_value: evaluation return that it aims at; None when there is no such aim.
        train: return of training episodes.
        evaluation: mean return of evaluations.
        evaluation_std: ``[N]`` their standard deviation, NaN where unknown.
    """

    name: str
    seed: str
    policy: str
    env: str
    stop_value: float | None
    train: Curve
    evaluation: Curve
    evaluation_std: np.ndarray
    config_key: str = ""  # equal for runs of one configuration, whatever their seeds
    folder: str = ""
    unit: str = "env steps"  # or "learner iterations", of the steps of its curves


def plot_run(run_dir: Path | str) -> Path:
    """Draws the learning curve of a run, which may still go on, and returns the path of its ``curve.png``.

    Raises:
        RunFolderError: no run is there, or the picture cannot be written.
    """
    return _save(draw_run(read_run(run_dir)), RunFolder.open(run_dir).curve_path)


def plot_runs(run_dirs: Sequence[Path | str], out: Path | str) -> Path:
    """Draws several runs into the picture ``out`` (png, pdf or svg) and returns its path.

    Raises:
        RunFolderError: a run is not there, there is none at all, or the picture cannot be written.
    """
    if not run_dirs:
        raise RunFolderError("no run to plot; give at least one run folder")
    return _save(draw_runs([read_run(run_dir) for run_dir in run_dirs]), Path(out))


def read_run(run_dir: Path | str) -> RunCurves:
    """Reads what a picture needs from a run folder.

    Raises:
        RunFolderError: no run is there, or one of its files is damaged.
    """
    folder = RunFolder.open(run_dir)
    try:
        rows = read_metrics(folder.metrics_path) if folder.metrics_path.exists() else []
        config = yaml.safe_load(folder.config_path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RunFolderError(f"cannot read the run in {folder.path}: {error}") from error
    config = config if isinstance(config, dict) else {}
    versions = folder.read_versions() if folder.versions_path.exists() else {}
    result = folder.read_result() if folder.result_path.exists() else {}
    match = _RUN_NAME.fullmatch(folder.path.resolve().name)
    evaluations = [row for row in rows if row.get("eval_return") is not None]
    std = [row.get("eval_return_std") for row in evaluations]
    own = {key: value for key, value in config.items() if key not in ("seed", "common")}
    return RunCurves(
        name=str(versions.get("name") or (match["name"] if match else folder.path.resolve().name)),
        seed=str(_first(versions.get("seed"), result.get("seed"), match["seed"] if match else None)),
        policy=str(_first(result.get("policy"), _lookup(config, "policy", "policy_type"))),
        env=str(_first(result.get("env"), _lookup(config, "env", "env_id"), _lookup(config, "env", "env_type"))),
        stop_value=_finite_or_none(_lookup(config, "evaluator", "stop_val")),
        train=_curve(rows, "episode_return"),
        evaluation=_curve(rows, "eval_return"),
        evaluation_std=np.array([math.nan if value is None else value for value in std], dtype=np.float64),
        config_key=json.dumps(own, sort_keys=True, default=str),
        folder=folder.path.resolve().name,
        unit="env steps" if not rows or rows[-1]["env_step"] else "learner iterations",
    )


def draw_run(run: RunCurves) -> Figure:
    """Returns the figure of one run: training return, evaluations with their spread, the bar."""
    figure, axes = _figure()
    if len(run.train):
        smooth = smoothed(run.train)
        is_dense = len(run.train) >= 20
        axes.plot(run.train.env_step, run.train.value, color=_TRAIN, linewidth=0.8, alpha=0.45 if is_dense else 0.9)
        axes.plot(smooth.env_step, smooth.value, color=_TRAIN, linewidth=1.6, label="training episodes")
    if len(run.evaluation):
        step, mean, std = run.evaluation.env_step, run.evaluation.value, np.nan_to_num(run.evaluation_std)
        if std.any():
            axes.fill_between(step, mean - std, mean + std, color=_EVAL, alpha=0.13, linewidth=0, label="± 1 std")
        axes.plot(step, mean, color=_EVAL, linewidth=1.8, marker="o", markersize=4.5, label="evaluation mean", zorder=3)
    title = " · ".join(
        part for part in (run.policy or run.name, run.env, f"seed {run.seed}" if run.seed else "") if part
    )
    _finish(axes, title, "" if len(run.evaluation) else "no evaluation yet", [run])
    return figure


def draw_runs(runs: Sequence[RunCurves]) -> Figure:
    """Returns the figure of several runs.

    Runs of one configuration share a color; where there are several, their median is drawn over them. Configurations
    are compared by their evaluations; where no run of one has any, its training return stands in (the legend tells).
    """
    figure, axes = _figure()
    by_config: dict[tuple[str, str], list[RunCurves]] = {}
    for run in runs:
        by_config.setdefault((run.name, run.config_key), []).append(run)
    names = [name for name, _ in by_config]
    groups = {  # several configurations of one name are told apart by their folders
        name if names.count(name) == 1 else f"{name}: {', '.join(run.folder for run in members[:3])}": members
        for (name, _), members in by_config.items()
    }
    left_out: list[RunCurves] = []
    for index, (name, members) in enumerate(groups.items()):
        left_out += _draw_group(axes, name, members, _GROUP_COLORS[index % len(_GROUP_COLORS)])
    envs = sorted({run.env for run in runs if run.env})
    which = ", ".join(f"{run.name} seed {run.seed}".removesuffix(" seed ") for run in left_out[:2])
    more = f" and {len(left_out) - 2} more" if len(left_out) > 2 else ""
    note = f"no evaluation yet: {which}{more}" if left_out else ""
    _finish(axes, ", ".join(envs) if len(envs) <= 3 else f"{len(envs)} envs", note, runs)
    return figure


def _draw_group(axes: Axes, name: str, members: Sequence[RunCurves], color: str) -> list[RunCurves]:
    """Draws the runs of one configuration and returns those that have nothing to show beside the others."""
    is_evaluated = any(len(run.evaluation) for run in members)
    curves = [run.evaluation if is_evaluated else smoothed(run.train) for run in members]
    shown = [(run, curve) for run, curve in zip(members, curves, strict=True) if len(curve)]
    stand_in = "" if is_evaluated else ", training return"
    if len(shown) == 1:
        run, curve = shown[0]
        axes.plot(
            curve.env_step,
            curve.value,
            color=color,
            linewidth=1.8,
            marker="o" if len(curve) <= 60 else None,
            markersize=4,
            label=(f"{name} · seed {run.seed}" if run.seed else name) + stand_in,
        )
    elif shown:
        for _, curve in shown:
            axes.plot(curve.env_step, curve.value, color=color, linewidth=0.9, alpha=0.35)
        middle = median_curve([curve for _, curve in shown])
        label = f"{name} (median of {len(shown)} runs{stand_in})"
        axes.plot(middle.env_step, middle.value, color=color, linewidth=2.2, label=label, zorder=3)
    return [run for run, curve in zip(members, curves, strict=True) if not len(curve)]


def smoothed(curve: Curve) -> Curve:
    """Returns the mean over a window of 5 % of the points around each, which is narrower at both ends."""
    half = len(curve) // 40
    total = np.concatenate([[0.0], np.cumsum(curve.value)])
    center = np.arange(len(curve))
    reach = np.minimum(half, np.minimum(center, len(curve) - 1 - center))
    return Curve(curve.env_step, (total[center + reach + 1] - total[center - reach]) / (2 * reach + 1))


def median_curve(curves: Sequence[Curve]) -> Curve:
    """Returns the median of several curves at every env step that one of them has, over the range that all have.

    Between its points a curve is a straight line. When no range is common, each curve keeps its last value beyond its
    end and its first before its beginning.
    """
    first, last = max(curve.env_step[0] for curve in curves), min(curve.env_step[-1] for curve in curves)
    steps = np.unique(np.concatenate([curve.env_step for curve in curves]))
    common = steps[(steps >= first) & (steps <= last)]
    steps = common if len(common) > 1 else steps
    values = [np.interp(steps, curve.env_step, curve.value) for curve in curves]
    return Curve(steps, np.median(values, axis=0))


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE_INCHES, dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)  # no window system, and no global state as pyplot has
    return figure, figure.add_subplot()


def _finish(axes: Axes, title: str, note: str, runs: Sequence[RunCurves]) -> None:
    """Adds the bars, title, axes and legend; ``note`` stands at the right of the title."""
    axes.set_title(title, fontsize=12, color=_TEXT, loc="left", pad=10)
    axes.set_xlabel(" or ".join(sorted({run.unit for run in runs})), color=_TEXT)
    axes.set_ylabel("episode return", color=_TEXT)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(_TRAIN)
    last_step = max((int(c.env_step[-1]) for run in runs for c in (run.train, run.evaluation) if len(c)), default=None)
    if last_step is None:
        axes.set_xticks([])
        axes.set_yticks([])
        message = "no episode has ended and no evaluation was made yet"
        axes.text(0.5, 0.5, message, transform=axes.transAxes, ha="center", va="center", color=_TEXT, fontsize=11)
        return
    for stop_value in sorted({run.stop_value for run in runs if run.stop_value is not None}):
        axes.axhline(stop_value, color=_BAR, linewidth=1.2, linestyle=(0, (5, 4)), label=f"bar {stop_value:,g}")
    if note:
        axes.set_title(note, fontsize=10, color=_BAR, loc="right", pad=10)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 2.5, 5, 10], integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
    axes.yaxis.set_major_formatter(FuncFormatter(_thousands))
    axes.grid(color="#e4e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_TEXT, length=0)
    axes.set_xlim(-0.012 * max(last_step, 1), 1.02 * max(last_step, 1))
    _add_legend(axes)


def _add_legend(axes: Axes) -> None:
    """Below the axes, where no curve can run through it."""
    handles, labels = axes.get_legend_handles_labels()
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    columns = len(labels) if sum(map(len, labels)) < 80 else 2
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9.5)


def _save(figure: Figure, path: Path) -> Path:
    # the ending of the temporary name, too, has to tell the format
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(temporary, dpi=_DPI, facecolor="white")
        os.replace(temporary, path)
    except ValueError as error:
        raise RunFolderError(f"cannot write picture {path}: {error}") from error
    except OSError as error:
        raise RunFolderError(f"cannot write picture {path}: {error.strerror}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()
    return path


def _curve(rows: Iterable[Mapping[str, Any]], key: str) -> Curve:
    points = [(row["env_step"] or row.get("train_iter", 0), row[key]) for row in rows if row.get(key) is not None]
    step, value = zip(*points, strict=True) if points else ((), ())
    return Curve(np.array(step, dtype=np.int64), np.array(value, dtype=np.float64))


def _thousands(value: float, _position: object = None) -> str:
    return f"{value:,.0f}" if abs(value) >= 10 or value == int(value) else f"{value:g}"


def _lookup(config: Mapping[str, Any], *keys: str) -> Any:
    value: Any = config
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _first(*values: Any) -> Any:
    return next((value for value in values if value not in (None, "")), "")


def _finite_or_none(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
