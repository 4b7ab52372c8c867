"""What people see: lines, the panel, and an output that goes away."""

import io
import logging
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console

from nervex.worker.monitor.progress import ProgressSink
from nervex.worker.monitor.progress_view import Budgets, Facts, budget_use, duration, panel, progress_line
from nervex.worker.monitor.sink import MetricLog, MetricRow

VALUES = {
    "episode_return": 187.34,
    "eps": 0.312,
    "buffer_count": 12000,
    "buffer_capacity": 50000,
    "time/env_step_per_s": 9800.4,
    "time/iter_per_s": 5100.0,
    "time/left_s": 12.2,
}


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def make_plain(**kwargs: Any) -> tuple[ProgressSink, Clock, io.StringIO]:
    file, clock = io.StringIO(), Clock()
    sink = ProgressSink("x", console=Console(file=file, width=200), clock=clock, **kwargs)
    assert not sink.is_live
    return sink, clock, file


@pytest.fixture
def live() -> Iterator[tuple[ProgressSink, Clock, io.StringIO]]:
    file, clock = io.StringIO(), Clock()
    console = Console(file=file, width=90, height=30, force_terminal=True, _environ={"TERM": "xterm"})
    sink = ProgressSink("cartpole_dqn [seed 0]", Budgets(50_000), 475.0, console=console, clock=clock)
    assert sink.is_live
    yield sink, clock, file
    sink.close()


def render(facts: Facts, columns: int) -> list[str]:
    console = Console(file=io.StringIO(), width=columns, force_terminal=True, record=True)
    console.print(panel(facts, "cartpole_dqn", columns))
    return console.export_text().splitlines()


def test_the_line_tells_everything_in_order() -> None:
    sink, _, file = make_plain(budgets=Budgets(50_000))
    sink.write(MetricRow("train", 12_000, 7_500, VALUES))
    assert file.getvalue() == (
        "env_step 12,000 | iter 7,500 | return 187.3 | eps 0.31 | buffer 12,000/50,000 (24%) | "
        "9,800 env steps/s | 5,100 iter/s | left 12 s\n"
    )


def test_what_no_row_has_told_is_left_out() -> None:
    sink, _, file = make_plain()
    sink.write(MetricRow("train", 1, 0, {"total_loss": float("nan"), "unknown": 3.0}))
    assert file.getvalue() == "env_step 1 | iter 0\n"


def test_lines_keep_their_distance_and_evaluations_do_not() -> None:
    sink, clock, file = make_plain(interval_s=2.0, stop_value=475.0)
    for step in range(10):  # half a second apart
        sink.write(MetricRow("train", step, step, {}))
        clock.now_s += 0.5
    steps = [int(step) for step in re.findall(r"env_step (\d+)", file.getvalue())]
    assert steps == [0, 4, 8]
    sink.write(MetricRow("eval", 10, 10, {"eval_return": 312.55, "eval_return_std": 4.0, "best_eval_return": 400.0}))
    sink.write(MetricRow("eval", 11, 11, {"eval_return": 10.0}))
    assert file.getvalue().splitlines()[-2:] == [
        "env_step 10 | iter 10 | eval return 312.6 ± 4.0 | best 400.0 | bar 475",
        "env_step 11 | iter 11 | eval return 10.0 | best 400.0 | bar 475",
    ]
    sink.close()
    assert file.getvalue().splitlines()[-1] == "env_step 11 | iter 11"  # what the last interval held back
    sink.close()
    assert len(file.getvalue().splitlines()) == 6


def test_values_of_all_kinds_of_rows_come_together() -> None:
    sink, clock, file = make_plain()
    sink.write(MetricRow("collect", 100, 50, {"episode_return": 20.0}))
    clock.now_s += 5
    sink.write(MetricRow("train", 110, 60, {"total_loss": 0.5}))
    assert file.getvalue().splitlines()[-1] == "env_step 110 | iter 60 | return 20.0 | loss 0.5"


def test_an_infinite_aim_is_no_aim() -> None:
    sink, _, file = make_plain(stop_value=float("inf"))
    sink.write(MetricRow("eval", 1, 1, {"eval_return": 1.0}))
    assert "bar" not in file.getvalue()


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (Facts(0, 0, {}, 5.0, Budgets(), None), None),
        (Facts(0, 0, {}, 5.0, Budgets(float("inf"), None, None), None), None),
        (Facts(25, 0, {}, 5.0, Budgets(100), None), ("25 / 100 env steps", 0.25, None)),
        (Facts(25, 0, {"time/env_step_per_s": 5.0}, 5.0, Budgets(100), None), ("25 / 100 env steps", 0.25, 15.0)),
        (
            Facts(25, 90, {"time/env_step_per_s": 5.0, "time/iter_per_s": 1.0}, 5.0, Budgets(100, 100), None),
            ("90 / 100 iterations", 0.9, 10.0),
        ),
        (
            Facts(25, 0, {"time/env_step_per_s": 5.0}, 48.0, Budgets(100, None, 60.0), None),
            ("48 s / 1 min 00 s", 0.8, 12.0),
        ),
        (Facts(120, 0, {"time/env_step_per_s": 5.0}, 5.0, Budgets(100), None), ("120 / 100 env steps", 1.0, 0.0)),
        (Facts(25, 0, {"time/left_s": 3.0}, 5.0, Budgets(100), None), ("25 / 100 env steps", 0.25, 3.0)),
    ],
)
def test_the_budget_that_ends_the_run_first_is_shown(facts: Facts, expected: tuple[str, float, float] | None) -> None:
    use = budget_use(facts)
    assert (use and tuple(use)) == expected


def test_durations_have_two_units_at_most() -> None:
    seconds = [-1, 0, 59.4, 59.6, 185, 7620, 273_600]
    expected = ["0 s", "0 s", "59 s", "1 min 00 s", "3 min 05 s", "2 h 07 min", "3 d 04 h"]
    assert [duration(one) for one in seconds] == expected


@pytest.mark.parametrize("columns", [30, 50, 80, 200])
def test_the_panel_fits_its_terminal(columns: int) -> None:
    values = {**VALUES, "eval_return": 312.5, "best_eval_return": 400.0, "total_loss": 0.0123}
    lines = render(Facts(12_000, 7_500, values, 12.0, Budgets(50_000), 475.0), columns)
    assert {len(line) for line in lines} == {min(columns, 100)}
    text = "\n".join(lines)
    for part in ["12,000", "7,500", "187.3", "0.312", "312.5", "0.0123", "24%"]:
        assert part in text
    if columns >= 50:
        for part in ["best 400.0", "bar 475", "12,000/50,000 (24%)", "9,800/s", "elapsed 12 s", "12 s left"]:
            assert part in text


def test_the_panel_of_an_untold_run_has_dashes() -> None:
    lines = render(Facts(0, 0, {}, 0.0, Budgets(), None), 80)
    assert len(lines) == 4
    assert re.search(r"return +– +eval +–", lines[2])
    assert progress_line(Facts(0, 0, {}, 0.0, Budgets(), None)) == "env_step 0 | iter 0"


def test_the_live_panel_shows_the_newest_values(live: tuple[ProgressSink, Clock, io.StringIO]) -> None:
    sink, clock, file = live
    sink.write(MetricRow("train", 1_000, 500, VALUES))
    sink.write(MetricRow("train", 2_111, 600, {"eps": 0.25}))  # too soon to be drawn
    assert "2,111" not in file.getvalue()
    clock.now_s += 1
    sink.write(MetricRow("train", 3_000, 700, {}))
    newest = file.getvalue().split("╭")[-1]
    assert "3,000" in newest and "0.250" in newest and "187.3" in newest and "cartpole_dqn [seed 0]" in newest
    sink.write(MetricRow("eval", 4_000, 800, {"eval_return": 480.0}))  # at once
    assert "480.0" in file.getvalue().split("╭")[-1]
    assert "eval return" not in file.getvalue()


def test_close_gives_the_terminal_back(live: tuple[ProgressSink, Clock, io.StringIO]) -> None:
    sink, _, file = live
    sink.write(MetricRow("train", 1_000, 500, VALUES))
    sink.write(MetricRow("train", 2_111, 600, VALUES))
    assert file.getvalue().count("\x1b[?25l") == 1 and "\x1b[?25h" not in file.getvalue()
    sink.close()
    assert file.getvalue().endswith("\x1b[?25h")
    assert "2,111" in file.getvalue().split("╭")[-1]
    length = len(file.getvalue())
    sink.close()
    assert len(file.getvalue()) == length and not sink.is_live


def test_a_dropped_sink_gives_the_terminal_back(
    live: tuple[ProgressSink, Clock, io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    sink, _, file = live
    log = MetricLog([sink])
    monkeypatch.setattr("nervex.worker.monitor.progress.panel", lambda *args: 1 / 0)
    log.write(MetricRow("train", 1_000, 500, VALUES))
    assert log.sinks == ()
    assert file.getvalue().endswith("\x1b[?25h")


class Terminal(io.StringIO):
    """A terminal that may go away."""

    error: Exception | None = None
    descriptor = -1

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.descriptor

    def write(self, text: str) -> int:
        if self.error is not None:
            raise self.error
        return super().write(text)


class GoneFile(io.StringIO):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error
        self.tries = 0

    def write(self, text: str) -> int:
        self.tries += 1
        raise self.error


@pytest.mark.parametrize("error", [BrokenPipeError("gone"), OSError(5, "I/O error"), ValueError("closed file")])
def test_a_lost_output_silences_the_display_only(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    file = GoneFile(error)
    sink = ProgressSink("x", interval_s=0.0, console=Console(file=file))
    log = MetricLog([sink])
    for step in range(3):
        log.write(MetricRow("eval", step, step, {"eval_return": 1.0}))
        log.write(MetricRow("train", step, step, {}))
    log.close()
    assert file.tries == 1
    assert caplog.records == []


@pytest.mark.parametrize("error", [BrokenPipeError("gone"), OSError(5, "I/O error"), ValueError("closed file")])
def test_a_lost_terminal_silences_the_display_only(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, clock = Terminal(), Clock()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    sink = ProgressSink("x", clock=clock)
    log = MetricLog([sink])
    assert sink.is_live
    log.write(MetricRow("train", 0, 0, {}))
    terminal.descriptor = os.open(os.devnull, os.O_WRONLY)
    shown = terminal.getvalue()
    assert "╭" in shown
    terminal.error = error
    for step in range(3):
        clock.now_s += 1
        log.write(MetricRow("eval", step, step, {}))
    assert log.sinks == (sink,)
    log.close()
    os.close(terminal.descriptor)
    assert terminal.getvalue() == shown
    assert sys.stdout is terminal


SCRIPT = """
import logging, sys
logging.basicConfig(level=logging.INFO, format="%(message)s")
from nervex.worker.monitor.progress import ProgressSink
from nervex.worker.monitor.sink import MetricLog, MetricRow
log = MetricLog([ProgressSink("run", interval_s=0.0)])
for step in range(2000):
    log.write(MetricRow("train", step, step, {}))
    if step == 1000:
        logging.info("from the log")
        print("from a print")
        if sys.argv[1] == "raise":
            raise RuntimeError("boom")
log.close()
print("the run has ended", file=sys.stderr)
"""


def test_a_closed_pipe_does_not_end_the_run() -> None:
    command = [sys.executable, "-c", SCRIPT, ""]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stderr is not None
        assert child.stdout.readline() == b"env_step 0 | iter 0\n"
        child.stdout.close()
        errors = child.stderr.read()
    assert errors == b"from the log\nthe run has ended\n"
    assert child.returncode == 0


def test_a_process_without_stdout_runs() -> None:
    command = ["sh", "-c", 'exec "$0" "$@" >&-', sys.executable, "-c", SCRIPT.replace('print("from a print")', ""), ""]
    ended = subprocess.run(command, stderr=subprocess.PIPE, check=False)
    assert ended.returncode == 0 and ended.stderr == b"from the log\nthe run has ended\n"


def run_in_terminal(mode: str, **environ: str) -> tuple[int, str]:
    """Runs the script with a pseudo-terminal for its output; returns its exit status and what it wrote."""
    leader, follower = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24", **environ}
    child = subprocess.Popen([sys.executable, "-c", SCRIPT, mode], stdout=follower, stderr=follower, env=env)
    os.close(follower)
    output = b""
    while True:
        try:
            block = os.read(leader, 65536)
        except OSError:  # so ends a pseudo-terminal
            break
        if not block:
            break
        output += block
    os.close(leader)
    return child.wait(), output.decode()


@pytest.mark.parametrize(("mode", "status"), [("", 0), ("raise", 1)])
def test_a_terminal_gets_a_panel_and_its_cursor_back(mode: str, status: int) -> None:
    code, output = run_in_terminal(mode)
    assert code == status
    assert output.count("\x1b[?25l") == output.count("\x1b[?25h") == 1
    assert output.index("\x1b[?25l") < output.index("\x1b[?25h")
    assert ("1,000" if mode else "1,999") in output.split("╭")[-1]
    for line in ("from the log", "from a print"):  # whole, on a line of its own, above the panel
        assert output.count(line) == 1
        assert re.search(rf"(^|\n|\x1b\[2K){line}\r\n", output)
        assert output.index(line) < output.rindex("╭")
    if mode:
        assert "RuntimeError: boom" in output


def test_a_dumb_terminal_gets_lines() -> None:
    code, output = run_in_terminal("", TERM="dumb")
    assert code == 0 and "\x1b" not in output and "env_step 1,999 | iter 1,999\r\n" in output


def test_an_output_that_knows_ascii_only_gets_lines() -> None:
    code, output = run_in_terminal("", PYTHONIOENCODING="ascii")
    assert code == 0 and "\x1b" not in output and "env_step 1,999" in output
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    sink = ProgressSink("x", console=Console(file=file))
    sink.write(MetricRow("eval", 1, 1, {"eval_return": 1.0, "eval_return_std": 2.0}))
    file.seek(0)
    assert file.read() == "env_step 1 | iter 1 | eval return 1.0 ? 2.0\n"


def test_color_forced_in_a_log_file_gets_lines() -> None:
    command = [sys.executable, "-c", SCRIPT, ""]
    ended = subprocess.run(command, capture_output=True, check=True, env={**os.environ, "FORCE_COLOR": "1"})
    assert b"\x1b" not in ended.stdout and b"env_step 1,999 | iter 1,999\n" in ended.stdout


def test_log_handlers_get_their_streams_back(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    handler = logging.StreamHandler(terminal)
    logger = logging.getLogger("nervex")
    logger.addHandler(handler)
    try:
        console = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "xterm"})
        sink = ProgressSink("x", console=console)
        assert handler.stream is not terminal
        logger.warning("seen")
        sink.close()
        assert handler.stream is terminal and sys.stderr is terminal
    finally:
        logger.removeHandler(handler)
    assert "seen" in console.file.getvalue()  # type: ignore[attr-defined]
