"""Pictures of runs: what is in the axes, and that the files are there."""

import math
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nervex.entry.plot import (
    Curve,
    draw_run,
    draw_runs,
    median_curve,
    plot_run,
    plot_runs,
    read_run,
    smoothed,
)
from nervex.utils.errors import RunFolderError
from nervex.worker.monitor.jsonl_sink import JsonlSink
from nervex.worker.monitor.run_folder import RunFolder
from nervex.worker.monitor.sink import MetricRow

CONFIG = """
policy: {policy_type: dqn}
env: {env_type: cartpole, env_id: CartPole-v1}
evaluator: {stop_val: 475}
"""


def make_run(
    path: Path,
    name: str = "cartpole_dqn",
    seed: int = 0,
    *,
    train: int = 40,
    evaluations: tuple[float, ...] = (20.0, 200.0, 480.0),
    config: str = CONFIG,
) -> Path:
    with RunFolder.create(path, name, seed) as folder:
        folder.write_config(config)
    sink = JsonlSink(folder.metrics_path)
    for step in range(1, train + 1):
        sink.write(MetricRow("collect", 100 * step, step, {"episode_return": float(step)}))
        sink.write(MetricRow("train", 100 * step, step, {"total_loss": 0.5}))
    for index, value in enumerate(evaluations):
        sink.write(MetricRow("eval", 1000 * index, index, {"eval_return": value, "eval_return_std": 5.0}))
    sink.close()
    return path


def axes_of(figure: Figure) -> Axes:
    (axes,) = figure.axes
    return axes


def line(axes: Axes, label: str) -> Line2D:
    (found,) = [one for one in axes.get_lines() if one.get_label() == label]
    return found


def legend_of(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_one_run_shows_training_evaluations_spread_and_bar(tmp_path: Path) -> None:
    figure = draw_run(read_run(make_run(tmp_path, seed=3)))
    axes = axes_of(figure)
    evaluation = line(axes, "evaluation mean")
    assert evaluation.get_xydata().tolist() == [[0, 20], [1000, 200], [2000, 480]]  # type: ignore[union-attr]
    assert evaluation.get_marker() == "o"
    (band,) = axes.collections
    assert band.get_datalim(axes.transData).y0 == 15 and band.get_datalim(axes.transData).y1 == 485
    assert np.asarray(line(axes, "bar 475").get_ydata()).tolist() == [475, 475]
    assert line(axes, "bar 475").get_linestyle() == "--"
    raw = axes.get_lines()[0].get_xydata().tolist()  # type: ignore[union-attr]
    assert raw == [[100 * step, step] for step in range(1, 41)]
    assert axes.get_title(loc="left") == "dqn · CartPole-v1 · seed 3" and axes.get_title(loc="right") == ""
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("env steps", "episode return")
    assert sorted(legend_of(figure)) == ["bar 475", "evaluation mean", "training episodes", "± 1 std"]
    figure.canvas.draw()
    assert "2,000" in [tick.get_text() for tick in axes.get_xticklabels()]


def test_the_picture_has_its_size_and_no_leftovers(tmp_path: Path) -> None:
    path = plot_run(make_run(tmp_path))
    assert path == tmp_path / "curve.png"
    assert matplotlib.image.imread(path).shape[:2] == (690, 1200)
    assert not list(tmp_path.glob(".curve*"))
    assert plot_run(tmp_path) == path  # again, over the old one


def test_a_picture_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = plot_run(make_run(tmp_path))
    before = path.read_bytes()

    def full(figure: Figure, target: Path, **kwargs: object) -> None:
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(RunFolderError, match=r"cannot write picture .*curve\.png: No space left on device"):
        plot_run(tmp_path)
    assert path.read_bytes() == before
    assert not list(tmp_path.glob(".curve*"))


def test_result_and_folder_name_fill_what_the_config_lacks(tmp_path: Path) -> None:
    path = tmp_path / "pong_ppo_seed12_20250102-030405"
    path.mkdir()
    (path / "config.yaml").write_text("{}")
    run = read_run(path)
    assert (run.name, run.seed, run.policy, run.env, run.stop_value) == ("pong_ppo", "12", "", "", None)
    assert axes_of(draw_run(run)).get_title(loc="left") == "pong_ppo · seed 12"
    RunFolder.open(path).write_result({"policy": "ppo", "env": "Pong-v5", "seed": 12})
    assert axes_of(draw_run(read_run(path))).get_title(loc="left") == "ppo · Pong-v5 · seed 12"


@pytest.mark.parametrize("stop_value", ["inf", ".inf", "null", "often"])
def test_an_aim_that_is_no_number_is_not_drawn(tmp_path: Path, stop_value: str) -> None:
    make_run(tmp_path, config=CONFIG.replace("475", stop_value))
    assert legend_of(draw_run(read_run(tmp_path))) == ["training episodes", "± 1 std", "evaluation mean"]


def test_a_run_without_evaluation_says_so(tmp_path: Path) -> None:
    figure = draw_run(read_run(make_run(tmp_path, evaluations=())))
    assert axes_of(figure).get_title(loc="right") == "no evaluation yet"
    assert legend_of(figure) == ["training episodes", "bar 475"]


def test_an_empty_run_says_so(tmp_path: Path) -> None:
    make_run(tmp_path, train=0, evaluations=())
    (tmp_path / "metrics.jsonl").unlink()
    figure = draw_run(read_run(tmp_path))
    (text,) = axes_of(figure).texts
    assert text.get_text() == "no episode has ended and no evaluation was made yet"
    assert not list(axes_of(figure).get_lines())
    assert plot_run(tmp_path).is_file()


def test_one_evaluation_and_missing_values_can_be_drawn(tmp_path: Path) -> None:
    make_run(tmp_path, train=0, evaluations=(7.0,))
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"kind": "eval", "env_step": 5, "train_iter": 1, "eval_return": null}\n')
        file.write('{"kind": "eval", "env_step": 6, "train_iter": 1, "eval_return": 8.0}\n')
        file.write('{"kind": "eval", "env_')
    run = read_run(tmp_path)
    assert run.evaluation.env_step.tolist() == [0, 6] and run.evaluation.value.tolist() == [7.0, 8.0]
    assert run.evaluation_std[0] == 5.0 and math.isnan(run.evaluation_std[1])
    assert plot_run(tmp_path).is_file()


def test_runs_of_one_config_share_a_color_and_get_a_median(tmp_path: Path) -> None:
    paths = [make_run(tmp_path / f"a{i}", "a", i, evaluations=(i, 10.0 * i, 100.0 * i)) for i in (1, 2, 9)]
    paths.append(make_run(tmp_path / "b", "b", 4))
    figure = draw_runs([read_run(path) for path in paths])
    axes = axes_of(figure)
    median = line(axes, "a (median of 3 runs)")
    assert median.get_xydata().tolist() == [[0, 2], [1000, 20], [2000, 200]]  # type: ignore[union-attr]
    colors = [one.get_color() for one in axes.get_lines()]
    assert colors[:4] == [median.get_color()] * 4
    assert line(axes, "b · seed 4").get_color() != median.get_color()
    assert legend_of(figure) == ["a (median of 3 runs)", "b · seed 4", "bar 475"]
    assert axes.get_title(loc="left") == "CartPole-v1"


def test_training_stands_in_only_where_a_config_has_no_evaluation(tmp_path: Path) -> None:
    paths = [
        make_run(tmp_path / "a0", "a", 0),
        make_run(tmp_path / "a1", "a", 1, evaluations=()),
        make_run(tmp_path / "b", "b", 0, evaluations=()),
        make_run(tmp_path / "c", "c", 0, train=0, evaluations=()),
    ]
    figure = draw_runs([read_run(path) for path in paths])
    assert legend_of(figure) == ["a · seed 0", "b · seed 0, training return", "bar 475"]
    assert axes_of(figure).get_title(loc="right") == "no evaluation yet: a seed 1, c seed 0"


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_several_runs_go_into_one_file(tmp_path: Path, ending: str) -> None:
    out = tmp_path / "new" / f"compare.{ending}"
    assert plot_runs([make_run(tmp_path / "a"), make_run(tmp_path / "b", seed=1)], out) == out
    assert [path.name for path in out.parent.iterdir()] == [f"compare.{ending}"]


def test_what_cannot_be_drawn_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="no run to plot; give at least one run folder"):
        plot_runs([], tmp_path / "x.png")
    with pytest.raises(RunFolderError, match="no run folder"):
        plot_run(tmp_path / "nowhere")
    run = make_run(tmp_path / "run")
    with pytest.raises(RunFolderError, match=r"cannot write picture .*x\.docx"):
        plot_runs([run], tmp_path / "x.docx")
    with pytest.raises(RunFolderError, match=r"cannot write picture .*: (File exists|Not a directory)"):
        plot_runs([run], run / "config.yaml" / "x.png")
    (run / "metrics.jsonl").write_text("?\n")
    with pytest.raises(RunFolderError, match=r"cannot read the run in .*metrics\.jsonl:1 is not a line of JSON"):
        plot_run(run)


def test_smoothing_keeps_lines_straight_and_averages_a_window() -> None:
    straight = Curve(np.arange(100), np.arange(100, dtype=np.float64) * 3 + 1)
    np.testing.assert_allclose(smoothed(straight).value, straight.value)
    spike = Curve(np.arange(40), np.eye(40)[20])
    np.testing.assert_allclose(smoothed(spike).value, np.isin(np.arange(40), [19, 20, 21]) / 3, atol=1e-12)
    short = Curve(np.arange(5), np.array([3.0, 1.0, 4.0, 1.0, 5.0]))
    np.testing.assert_array_equal(smoothed(short).value, short.value)


def test_the_median_is_over_what_all_runs_have() -> None:
    first = Curve(np.array([0, 10, 20]), np.array([0.0, 10.0, 20.0]))
    second = Curve(np.array([5, 15, 40]), np.array([1.0, 3.0, 5.0]))
    median = median_curve([first, second])
    assert median.env_step.tolist() == [5, 10, 15, 20]
    np.testing.assert_allclose(median.value, [3.0, 6.0, 9.0, (20 + 3.4) / 2])
    apart = median_curve([first, Curve(np.array([100]), np.array([40.0]))])
    assert apart.env_step.tolist() == [0, 10, 20, 100] and apart.value.tolist() == [20, 25, 30, 30]
