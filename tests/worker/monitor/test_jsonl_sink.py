"""metrics.jsonl: what stands in it, after a kill, after a resume, on a full disk."""

import json
import logging
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nervex.worker.monitor.jsonl_sink import JsonlSink, read_metrics
from nervex.worker.monitor.sink import MetricLog, MetricRow

ROWS = [MetricRow("train", step, step // 2, {"total_loss": 1 / (step + 3), "count": step}) for step in range(6)]


def write_rows(path: Path, rows: list[MetricRow]) -> None:
    sink = JsonlSink(path)
    for row in rows:
        sink.write(row)
    sink.close()
    sink.close()


def test_a_row_is_one_line_with_its_own_keys_first(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_rows(path, [MetricRow("eval", 12, 6, {"eval_return": 1.5, "best": 2})])
    assert path.read_text() == '{"kind": "eval", "env_step": 12, "train_iter": 6, "eval_return": 1.5, "best": 2}\n'
    assert read_metrics(path) == [{"kind": "eval", "env_step": 12, "train_iter": 6, "eval_return": 1.5, "best": 2}]


def test_what_is_not_finite_becomes_null(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_rows(path, [MetricRow("train", 0, 0, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 0.0})])
    (row,) = read_metrics(path)
    assert [row[key] for key in "abcd"] == [None, None, None, 0.0]
    assert "NaN" not in path.read_text() and "Infinity" not in path.read_text()


def test_every_line_is_in_the_file_as_soon_as_it_is_written(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path / "metrics.jsonl")
    for count, row in enumerate(ROWS, start=1):
        sink.write(row)
        assert len(read_metrics(sink.path)) == count
    sink.close()


@settings(max_examples=40, deadline=None)
@given(cut=st.integers(0, 10_000), done=st.integers(0, len(ROWS)))
def test_a_kill_loses_at_most_the_line_being_written(
    tmp_path_factory: pytest.TempPathFactory, cut: int, done: int
) -> None:
    path = tmp_path_factory.mktemp("kill") / "metrics.jsonl"
    write_rows(path, ROWS)
    lines = path.read_bytes().splitlines(keepends=True)
    torn = [*lines, b""][done]
    path.write_bytes(b"".join(lines[:done]) + torn[: cut % max(1, len(torn))])
    assert len(read_metrics(path)) == done
    write_rows(path, ROWS[done:])
    assert path.read_bytes() == b"".join(lines)


def test_a_torn_line_longer_than_a_block_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"env_step": 1}\n' + b"x" * 200_000)
    write_rows(path, [])
    assert path.read_bytes() == b'{"env_step": 1}\n'
    path.write_bytes(b"x" * 200_000)
    write_rows(path, [])
    assert path.read_bytes() == b""


def test_rows_of_a_killed_process_are_all_there(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    code = (
        "import os, signal, sys\n"
        "from nervex.worker.monitor.jsonl_sink import JsonlSink\n"
        "from nervex.worker.monitor.sink import MetricRow\n"
        "sink = JsonlSink(sys.argv[1])\n"
        "for step in range(50): sink.write(MetricRow('train', step, step, {'x': 0.5}))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert [row["env_step"] for row in read_metrics(path)] == list(range(50))


def test_a_resumed_file_equals_the_uninterrupted_one(tmp_path: Path) -> None:
    whole, resumed = tmp_path / "whole.jsonl", tmp_path / "resumed.jsonl"
    write_rows(whole, ROWS)
    log = MetricLog([JsonlSink(resumed)])
    for row in ROWS[:3]:
        log.write(row)
    state = json.loads(json.dumps(log.state_dict()))
    log.write(ROWS[3])  # after the checkpoint, lost at resume
    log.close()
    with open(resumed, "ab") as file:
        file.write(b'{"kind": "tr')
    log = MetricLog([JsonlSink(resumed)])
    log.load_state_dict(state)
    for row in ROWS[3:]:
        log.write(row)
    assert log.state_dict() == {"metrics.jsonl": whole.stat().st_size}
    log.close()
    assert resumed.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("position", [7, 10_000])
def test_a_file_that_does_not_fit_the_checkpoint_is_kept(
    tmp_path: Path, position: int, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "metrics.jsonl"
    write_rows(path, ROWS[:2])
    sink = JsonlSink(path)
    with caplog.at_level(logging.WARNING, logger="nervex"):
        sink.rewind(position)
    sink.write(ROWS[2])
    sink.close()
    assert [row["env_step"] for row in read_metrics(path)] == [0, 1, 2]
    (record,) = caplog.records
    assert f"{path} was changed since the checkpoint (no line ends at byte {position} of " in record.getMessage()


def test_rewind_to_the_beginning_empties_the_file(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path / "metrics.jsonl")
    sink.write(ROWS[0])
    sink.rewind(0)
    assert sink.position() == 0 and read_metrics(sink.path) == []
    sink.close()


def test_a_disk_that_fills_up_within_a_line_leaves_no_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = JsonlSink(tmp_path / "metrics.jsonl")
    sink.write(ROWS[0])
    before = sink.path.read_bytes()
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:5]))
    with pytest.raises(OSError, match=r"cannot append to .*metrics\.jsonl: only 5 of \d+ bytes fit on the disk"):
        sink.write(ROWS[1])
    assert sink.path.read_bytes() == before
    monkeypatch.undo()
    sink.write(ROWS[2])
    sink.close()
    assert [row["env_step"] for row in read_metrics(sink.path)] == [0, 2]


def test_a_full_disk_drops_the_sink_and_names_the_file(caplog: pytest.LogCaptureFixture) -> None:
    log = MetricLog([JsonlSink("/dev/full")])
    with caplog.at_level(logging.WARNING, logger="nervex"):
        log.write(ROWS[0])
        log.write(ROWS[1])
    (record,) = caplog.records
    assert "'metrics.jsonl' failed at write and is dropped" in record.getMessage()
    assert "cannot append to /dev/full: No space left on device" in record.getMessage()


def test_damage_within_the_file_is_an_error_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"env_step": 1}\nhello\n{"env_step": 2}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl:2 is not a line of JSON"):
        read_metrics(path)
