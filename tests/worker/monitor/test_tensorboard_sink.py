"""What TensorBoard reads back."""

import math
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nervex.worker.monitor.sink import MetricLog, MetricRow
from nervex.worker.monitor.tensorboard_sink import TensorBoardSink


def read_scalars(path: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(path))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_values_stand_under_kind_and_key_at_their_env_step(tmp_path: Path) -> None:
    with MetricLog([TensorBoardSink(tmp_path)]) as log:
        log.write(MetricRow("train", 10, 5, {"total_loss": 0.5}))
        log.write(MetricRow("eval", 20, 10, {"eval_return": 3.0, "total_loss": math.nan}))
        log.write(MetricRow("train", 20, 10, {"total_loss": 0.25}))
    scalars = read_scalars(tmp_path)
    assert math.isnan(scalars.pop("eval/total_loss")[0][1])
    assert scalars == {"train/total_loss": [(10, 0.5), (20, 0.25)], "eval/eval_return": [(20, 3.0)]}


def test_no_row_no_file(tmp_path: Path) -> None:
    sink = TensorBoardSink(tmp_path / "tensorboard")
    assert sink.position() == -1
    sink.close()
    assert not (tmp_path / "tensorboard").exists()


def test_after_a_resume_each_step_is_there_once(tmp_path: Path) -> None:
    first = MetricLog([TensorBoardSink(tmp_path)])
    for step in (10, 20):
        first.write(MetricRow("train", step, step, {"x": step}))
    state = first.state_dict()
    assert state == {"tensorboard": 20}
    first.write(MetricRow("train", 30, 30, {"x": -1.0}))  # after the checkpoint, lost at resume
    first.close()
    second = MetricLog([TensorBoardSink(tmp_path)])
    second.load_state_dict(state)
    for step in (30, 40):
        second.write(MetricRow("train", step, step, {"x": step}))
    second.close()
    assert read_scalars(tmp_path) == {"train/x": [(10, 10.0), (20, 20.0), (30, 30.0), (40, 40.0)]}


def test_rows_after_a_close_hide_none_of_before(tmp_path: Path) -> None:
    sink = TensorBoardSink(tmp_path)
    sink.rewind(5)
    for step in (10, 20):
        sink.write(MetricRow("train", step, step, {"x": step}))
        sink.close()
    assert read_scalars(tmp_path) == {"train/x": [(10, 10.0), (20, 20.0)]}
