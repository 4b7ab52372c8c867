"""Timers around calls: exclusive times, iterators, other threads; CPU time of child processes."""

import os
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nervex.entry import profile_meter as module
from nervex.entry.profile_meter import REST, Meter, descendants_cpu_s


class Clock:
    """Stands in for ``time``: wall seconds pass when told, CPU seconds at half the pace."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        return self.now / 2


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    monkeypatch.setattr(module, "time", fake)
    return fake


def test_a_part_leaves_out_what_is_called_within_it(clock: Clock) -> None:
    meter = Meter()

    def passes(seconds: float) -> None:
        clock.now += seconds

    inner = meter.timed(passes, "replay", "sample")

    def around() -> None:
        passes(1)
        inner(10)
        passes(2)

    outer = meter.timed(around, "update", "train")
    passes(100)
    outer()
    outer()
    totals = meter.read()
    assert totals.wall_s == {REST: 100.0, "update": 6.0, "replay": 20.0}
    assert totals.cpu_s == {REST: 50.0, "update": 3.0, "replay": 10.0}
    assert totals.calls == {("update", "train"): 2, ("replay", "sample"): 2}
    assert totals.beside_s == {}


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3), st.integers(1, 50)), max_size=30))
def test_all_parts_sum_up_to_the_time_that_passed(calls: list[tuple[str, int, int]]) -> None:
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "time", clock)
        meter = Meter()

        def nested(depth: int, seconds: int) -> None:
            clock.now += seconds
            if depth:
                meter.timed(nested, "ab"[depth % 2], "nested")(depth - 1, seconds)
            clock.now += seconds

        for part, depth, seconds in calls:
            meter.timed(nested, part, "nested")(depth, seconds)
            clock.now += 1
        totals = meter.read()
        assert sum(totals.wall_s.values()) == clock.now
        assert sum(totals.cpu_s.values()) == clock.now / 2


def test_the_steps_of_an_iterator_are_timed_and_not_what_its_user_does(clock: Clock) -> None:
    meter = Meter()

    def batches() -> Any:
        for i in range(3):
            clock.now += 5
            yield i

    seen = []
    for item in meter.timed(batches, "replay", "batches")():
        clock.now += 1
        seen.append(item)
    totals = meter.read()
    assert seen == [0, 1, 2]
    assert totals.wall_s == {"replay": 15.0, REST: 3.0} and totals.calls == {("replay", "batches"): 1}


def test_an_error_leaves_the_part(clock: Clock) -> None:
    meter = Meter()

    def fails() -> None:
        clock.now += 1
        raise KeyError("x")

    with pytest.raises(KeyError):
        meter.timed(fails, "env", "step_block")()
    clock.now += 4
    assert meter.read().wall_s == {REST: 4.0, "env": 1.0}


def test_calls_of_other_threads_stand_beside(clock: Clock) -> None:
    meter = Meter()

    def gather() -> int:
        clock.now += 7
        return 3

    timed, got = meter.timed(gather, "replay", "sample"), []
    thread = threading.Thread(target=lambda: got.append(timed()))
    thread.start()
    thread.join()
    totals = meter.read()
    assert got == [3] and totals.beside_s == {"replay": 7.0} and totals.wall_s == {REST: 7.0}


def test_totals_since(clock: Clock) -> None:
    meter = Meter()

    def passes() -> None:
        clock.now += 2

    timed = meter.timed(passes, "env", "step_block")
    timed()
    before = meter.read()
    timed()
    clock.now += 1
    since = meter.read().since(before)
    assert since.wall_s == {REST: 1.0, "env": 2.0} and since.calls == {("env", "step_block"): 1}


def test_wrapping_a_method_that_is_not_there_does_nothing() -> None:
    class Store:
        def sample(self) -> int:
            return 5

    store, meter = Store(), Meter()
    meter.wrap(store, "sample", "replay")
    meter.wrap(store, "batches", "replay")
    assert store.sample() == 5 and not hasattr(store, "batches")
    assert meter.read().calls == {("replay", "sample"): 1}


def test_cpu_time_of_descendants(tmp_path: Path) -> None:
    def process(number: int, name: str, parent: int, user: int, system: int) -> None:
        (tmp_path / str(number)).mkdir()
        fields = ["S", parent, *[0] * 9, user, system, *[0] * 10]
        (tmp_path / str(number) / "stat").write_text(f"{number} ({name}) " + " ".join(map(str, fields)))

    process(1, "init", 0, 1000, 1000)
    process(10, "run", 1, 500, 500)
    process(11, "fork server", 10, 1, 2)
    process(12, "a) b (c", 11, 30, 4)
    process(13, "other", 1, 900, 900)
    (tmp_path / "14").mkdir()  # a process that has just ended
    assert descendants_cpu_s(10, tmp_path) == 37 / os.sysconf("SC_CLK_TCK")
    assert descendants_cpu_s(13, tmp_path) == 0
