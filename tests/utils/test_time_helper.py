import subprocess
import sys
import time

import pytest
import torch

from nervex.utils import EasyTimer, build_time_helper
from nervex.utils.errors import ConfigError


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock whose reading is the first item, moved on by hand."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_easy_timer(clock: list[float]) -> None:
    timer = EasyTimer(cuda=False)
    assert timer.value == 0.0
    with timer:
        clock[0] += 2.5
    clock[0] += 7
    assert timer.value == 2.5
    with pytest.raises(KeyError), timer:
        clock[0] += 1
        raise KeyError
    assert timer.value == 1.0


@pytest.mark.parametrize(("cuda", "waits"), [(True, 2), (False, 0)])
def test_the_gpu_is_waited_for_at_both_ends(monkeypatch: pytest.MonkeyPatch, cuda: bool, waits: int) -> None:
    calls: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: calls.append(1))
    with EasyTimer(cuda=cuda):
        assert len(calls) == waits / 2
    assert len(calls) == waits
    build_time_helper(wrapper_type="cuda" if cuda else "time").wrapper(lambda: 0)()
    assert len(calls) == 2 * waits


@pytest.mark.parametrize("kind", ["time", "cuda"])
def test_time_helper(clock: list[float], kind: str) -> None:
    helper = build_time_helper({"common": {"time_wrapper_type": kind}})

    def work(seconds: float, result: str = "x") -> str:
        clock[0] += seconds
        return result

    timed = helper.wrapper(work)
    assert timed(3.0, result="y") == ("y", 3.0) and timed.__name__ == "work"
    helper.start_time()
    clock[0] += 0.25
    assert helper.end_time() == 0.25
    with pytest.raises(RuntimeError, match="end_time was called without start_time"):
        helper.end_time()


def test_wrong_types_are_one_clear_sentence() -> None:
    with pytest.raises(ConfigError, match=r"unknown time wrapper 'tim'; did you mean 'time'\? \(known: time, cuda\)"):
        build_time_helper(wrapper_type="tim")
    with pytest.raises(ConfigError, match=r"there is no common\.time_wrapper_type"):
        build_time_helper({"common": {}})


def test_a_timer_needs_no_torch() -> None:
    code = (
        "import sys\nfrom nervex.utils import EasyTimer\n"
        "with EasyTimer() as timer:\n    sum(range(1000))\n"
        "assert timer.value > 0 and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
