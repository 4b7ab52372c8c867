"""The fan-out: what sinks get, what happens to one that fails, how small another one is."""

import logging
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from nervex.utils.errors import ConfigError, SpecError
from nervex.worker.monitor.sink import MetricLog, MetricRow, MetricSink, without_time


class ListSink(MetricSink):
    def __init__(self, name: str = "list") -> None:
        self.name = name
        self.rows: list[MetricRow] = []
        self.closed = 0

    def write(self, row: MetricRow) -> None:
        self.rows.append(row)

    def close(self) -> None:
        self.closed += 1

    def position(self) -> int:
        return len(self.rows)

    def rewind(self, position: int) -> None:
        del self.rows[position:]


class FailingSink(MetricSink):
    """Fails at the named calls."""

    def __init__(self, *fails: str) -> None:
        self.fails = fails
        self.calls: list[str] = []

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name in self.fails:
            raise OSError(f"no {name} today")

    def write(self, row: MetricRow) -> None:
        self._call("write")

    def flush(self) -> None:
        self._call("flush")

    def close(self) -> None:
        self._call("close")

    def position(self) -> int:
        self._call("position")
        return 0

    def rewind(self, position: int) -> None:
        self._call("rewind")


class FakeClient:
    """Stands for the client of a service such as Weights & Biases."""

    def __init__(self) -> None:
        self.logged: list[dict[str, Any]] = []
        self.is_finished = False

    def log(self, values: dict[str, Any]) -> None:
        assert not self.is_finished
        self.logged.append(values)

    def finish(self) -> None:
        self.is_finished = True


class ServiceSink(MetricSink):
    name = "service"

    def __init__(self, client: FakeClient) -> None:
        self._client = client

    def write(self, row: MetricRow) -> None:
        values = {f"{row.kind}/{key}": value for key, value in row.values.items()}
        self._client.log({"env_step": row.env_step, "train_iter": row.train_iter, **values})

    def close(self) -> None:
        self._client.finish()


def test_a_sink_for_a_service_needs_write_and_close_only() -> None:
    client = FakeClient()
    with MetricLog([ServiceSink(client)]) as log:
        log.write(MetricRow("eval", 8, 4, {"eval_return": 2.5}))
        log.flush()
        assert log.state_dict() == {}
    assert client.logged == [{"env_step": 8, "train_iter": 4, "eval/eval_return": 2.5}]
    assert client.is_finished


def test_every_sink_gets_plain_numbers_in_the_order_of_the_row() -> None:
    sinks = [ListSink("a"), ListSink("b")]
    log = MetricLog(sinks)
    values: dict[str, Any] = {"z": np.float32(0.5), "a": torch.tensor(2.0), "n": np.int64(3), "f": 1.5, "ok": True}
    log.write(MetricRow("train", np.int64(7), 2, values))  # type: ignore[arg-type]
    for sink in sinks:
        (row,) = sink.rows
        assert list(row.values.items()) == [("z", 0.5), ("a", 2.0), ("n", 3), ("f", 1.5), ("ok", 1)]
        assert [type(value) for value in row.values.values()] == [float, float, int, float, int]
        assert type(row.env_step) is int


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"loss": "high"}, "metric 'loss' of the 'train' row at env step 7 is 'high' (str), expected one number"),
        ({"loss": None}, "is None (NoneType), expected one number"),
        ({"loss": torch.zeros(2)}, "(Tensor), expected one number"),
        ({"loss": np.zeros(2)}, "(ndarray), expected one number"),
        ({"env_step": 3}, "metric 'env_step' of the 'train' row at env step 7: this key is the row's own"),
    ],
)
def test_a_value_that_is_no_number_is_refused(values: dict[str, Any], message: str) -> None:
    sink = ListSink()
    with pytest.raises(SpecError) as error:
        MetricLog([sink]).write(MetricRow("train", 7, 2, values))
    assert message in str(error.value)
    assert sink.rows == []


@pytest.mark.parametrize("call", ["write", "flush", "position", "rewind", "close"])
def test_a_failing_sink_is_reported_once_and_dropped(call: str, caplog: pytest.LogCaptureFixture) -> None:
    bad, good = FailingSink(call), ListSink()
    log = MetricLog([bad, good])
    with caplog.at_level(logging.WARNING, logger="nervex"):
        for step in range(3):
            log.write(MetricRow("train", step, step, {"x": 1.0}))
            log.flush()
            log.load_state_dict({"FailingSink": 0, **log.state_dict()})
        log.close()
    assert [row.env_step for row in good.rows] == [0, 1, 2]
    assert good.closed == 1
    (record,) = caplog.records
    assert "'FailingSink' failed at " + call in record.getMessage()
    assert f"OSError: no {call} today" in record.getMessage()
    assert bad.calls[-1] == "close"  # what it holds is given back
    assert bad.calls.count(call) == (2 if call == "close" else 1)
    assert log.sinks == (good,)


def test_an_interrupt_is_no_failure_of_a_sink() -> None:
    class Interrupted(ListSink):
        def write(self, row: MetricRow) -> None:
            raise KeyboardInterrupt

    log = MetricLog([Interrupted()])
    with pytest.raises(KeyboardInterrupt):
        log.write(MetricRow("train", 0, 0, {}))
    assert len(log.sinks) == 1


def test_state_takes_every_sink_back_to_its_position() -> None:
    first, second = ListSink("first"), ListSink("second")
    log = MetricLog([first])
    log.write(MetricRow("train", 0, 0, {}))
    log.add(second)
    log.write(MetricRow("train", 1, 1, {}))
    state = log.state_dict()
    assert state == {"first": 2, "second": 1}
    log.write(MetricRow("train", 2, 2, {}))
    log.load_state_dict({**state, "gone": 9})
    assert [row.env_step for row in first.rows] == [0, 1]
    assert [row.env_step for row in second.rows] == [1]
    log.load_state_dict({})
    assert len(first.rows) == 2


def test_two_sinks_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="two metric sinks are named 'list'; give one of them another `name`"):
        MetricLog([ListSink(), ListSink()])


def test_without_time_keeps_all_but_the_keys_that_measure_time() -> None:
    rows = [{"kind": "train", "env_step": 1, "time/iter_per_s": 3.0, "lifetime/x": 1.0, "total_loss": 0.5}]
    assert without_time(rows) == [{"kind": "train", "env_step": 1, "lifetime/x": 1.0, "total_loss": 0.5}]


def test_all_but_the_tensorboard_sink_come_without_torch() -> None:
    code = (
        "import sys\n"
        "from nervex.worker.monitor import JsonlSink, MetricLog, ProgressSink, RunFolder, read_metrics\n"
        "assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules\n"
        "from nervex.worker.monitor import TensorBoardSink\n"
        "assert 'torch' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
