"""Values with the times at which they held, against spans worked out by hand and a slow record of all that was set."""

import threading
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nervex.utils import LoggedModel, LoggedValue, NaturalTime, TickTime, TimeProxy
from nervex.utils.errors import ConfigError, SpecError


class Monitor(LoggedModel):
    loss = LoggedValue(float)
    note = LoggedValue(str)

    def __init__(self, time_: Any, expire: float) -> None:
        super().__init__(time_, expire)
        self.register_attribute_value("mean", "loss", lambda: fmean(v for _, v in self.range_values["loss"]()))


def test_spans_by_hand() -> None:
    monitor = Monitor(TickTime(), expire=5)
    monitor.loss = 1.0
    assert monitor.range_values["loss"]() == [((0, 0), 1.0)]
    assert monitor.time.step(3) == 3
    monitor.loss = 2
    assert monitor.range_values["loss"]() == [((0, 3), 1.0), ((3, 3), 2)]
    monitor.time.step(4)  # now 7: the window begins at 2
    assert monitor.range_values["loss"]() == [((2, 3), 1.0), ((3, 7), 2)]
    assert monitor.mean["loss"]() == 1.5 and monitor.loss == 2
    monitor.time.step()  # 8: the window begins where 1.0 ended
    assert monitor.range_values["loss"]() == [((3, 8), 2)]
    monitor.time.step(100)  # the present value never expires
    assert monitor.range_values["loss"]() == [((103, 108), 2)] and monitor.mean["loss"]() == 2
    assert monitor.range_values["note"]() == [] and set(monitor.range_values) == {"loss", "note"}


def test_a_value_set_again_at_one_time_replaces_the_first() -> None:
    monitor = Monitor(TickTime(init=4), expire=5)
    monitor.loss, monitor.loss = 1.0, 3.0
    monitor.time.step()
    assert monitor.range_values["loss"]() == [((4, 5), 3.0)]


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.integers(1, 4), st.none() | st.integers(0, 9)), max_size=40),
    st.sampled_from([1, 3, 8, float("inf")]),
)
def test_window_against_a_slow_record(moves: list[tuple[int, int | None]], expire: float) -> None:
    clock = TickTime()
    monitor = Monitor(clock, expire)
    held: dict[int, float] = {}  # every tick -> the value that held from it to the next
    value = None
    for delta, new in moves:
        if new is not None:
            monitor.loss = value = float(new)
        for _ in range(delta):
            if value is not None:
                held[clock.time()] = value
            clock.step()
    spans = monitor.range_values["loss"]()
    since = clock.time() - expire
    got = {tick: v for (begin, end), v in spans for tick in range(int(begin), int(end))}
    assert got == {tick: v for tick, v in held.items() if tick >= since}
    assert [s[0] for s, _ in spans[1:]] == [s[1] for s, _ in spans[:-1]]  # no gap


def test_old_values_are_forgotten() -> None:
    monitor = Monitor(TickTime(), expire=10)
    for i in range(1000):
        monitor.loss = i
        monitor.time.step()
    assert len(monitor._logs["loss"].values) <= 12


def test_freezing_reads_all_at_one_moment() -> None:
    clock = TickTime()
    monitor = Monitor(clock, expire=10)
    monitor.loss = 1.0
    clock.step(2)
    monitor.freeze()
    clock.step(5)
    assert (monitor.fixed_time(), monitor.current_time(), monitor.expire) == (2, 7, 10)
    assert monitor.range_values["loss"]() == [((0, 2), 1.0)]
    monitor.unfreeze()
    assert monitor.range_values["loss"]() == [((0, 7), 1.0)]


def test_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [5.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    natural = NaturalTime()
    proxy = TimeProxy(natural, frozen=True)
    now[0] = 9.0
    assert (natural.time(), proxy.time(), proxy.is_frozen) == (9.0, 5.0, True)
    proxy.unfreeze()
    assert (proxy.time(), proxy.is_frozen) == (9.0, False)
    proxy.freeze()
    now[0] = 11.0
    proxy.freeze()  # stays at the first stop
    assert proxy.time() == 9.0
    with pytest.raises(ConfigError, match=r"TickTime\.step got delta=0; time goes on by at least 1"):
        TickTime().step(0)


def test_two_models_and_a_subclass_are_apart() -> None:
    class More(Monitor):
        reward = LoggedValue()

    one, two = More(TickTime(), 5), More(TickTime(), 5)
    one.reward, two.reward, one.loss = [1], "any", 0.5
    assert (one.reward, two.reward) == ([1], "any") and set(one.range_values) == {"loss", "note", "reward"}
    assert isinstance(More.reward, LoggedValue)
    with pytest.raises(SpecError, match=r"More\.loss has no value yet"):
        _ = two.loss


def test_wrong_use_is_one_clear_sentence() -> None:
    monitor = Monitor(TickTime(), 5)
    with pytest.raises(SpecError, match=r"Monitor\.loss got 'x' of type str; expected a float"):
        monitor.loss = "x"
    with pytest.raises(SpecError, match=r"Monitor\.note got 1 of type int; expected a str"):
        monitor.note = 1
    with pytest.raises(AttributeError, match=r"Monitor has no 'meen'; did you mean 'mean'\?"):
        _ = monitor.meen
    with pytest.raises(ConfigError, match=r"Monitor\.mean\['loss'\] is registered already"):
        monitor.register_attribute_value("mean", "loss", lambda: 0)
    with pytest.raises(ConfigError, match="Monitor has a 'freeze' already"):
        monitor.register_attribute_value("freeze", "loss", lambda: 0)
    with pytest.raises(ConfigError, match="Monitor got expire=0; expected a positive length of time"):
        Monitor(TickTime(), 0)
    with pytest.raises(TypeError):
        monitor.range_values["loss"] = None  # a view


def test_threads_set_values_while_another_reads() -> None:
    monitor = Monitor(NaturalTime(), expire=100)
    failed: list[BaseException] = []

    def write() -> None:
        try:
            for i in range(300):
                monitor.loss = i
                monitor.range_values["loss"]()
        except BaseException as e:
            failed.append(e)

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spans = monitor.range_values["loss"]()
    assert not failed and all(begin <= end for (begin, end), _ in spans)
    assert [s[0] for s, _ in spans] == sorted(s[0] for s, _ in spans)
