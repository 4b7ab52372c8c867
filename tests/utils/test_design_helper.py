import logging
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nervex.utils import LimitedSpaceContainer, SingletonMetaclass, error_wrapper, override
from nervex.utils.errors import ConfigError


def test_a_singleton_is_made_once() -> None:
    class Base(metaclass=SingletonMetaclass):
        made = 0

        def __init__(self, size: int = 1, name: str = "") -> None:
            type(self).made += 1
            self.size = size

    class Derived(Base):
        made = 0

    one = Base(3, name="x")
    assert Base() is one and Base(3, name="x") is one and one.size == 3
    assert Derived() is not one and Derived().size == 1
    assert (Base.made, Derived.made) == (1, 1)
    with pytest.raises(ConfigError, match=r"Base is a singleton, made with \(3, name='x'\); .*with \(4\) too"):
        Base(4)


def test_threads_get_one_singleton() -> None:
    barrier = threading.Barrier(8)

    class Shared(metaclass=SingletonMetaclass):
        def __init__(self) -> None:
            self.made_by = threading.get_ident()
            threading.Event().wait(0.01)  # time for another thread to come between

    found = []

    def ask() -> None:
        barrier.wait()
        found.append(Shared())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and len({id(x) for x in found}) == 1


def test_override() -> None:
    class Base:
        def reset(self) -> int:
            return 1

    class Good(Base):
        @override(Base)
        def reset(self) -> int:
            return 2

    assert Good().reset() == 2
    with pytest.raises(ConfigError, match=r"Bad\.resets overrides nothing of Base; did you mean 'reset'\?"):

        class Bad(Base):
            @override(Base)
            def resets(self) -> int:
                return 3


def test_error_wrapper(caplog: pytest.LogCaptureFixture) -> None:
    def divide(a: float, b: float) -> float:
        return a / b

    guarded = error_wrapper(divide, -1.0, "a figure is missing")
    with caplog.at_level(logging.WARNING, "nervex"):
        assert guarded(6, b=3) == 2.0 and not caplog.records
        assert guarded(6, 0) == -1.0
    assert "a figure is missing: test_error_wrapper.<locals>.divide raised ZeroDivisionError" in caplog.text
    assert "-1.0 stands in" in caplog.text

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        error_wrapper(stop, None)()


@settings(max_examples=40)
@given(st.integers(0, 2), st.integers(0, 3), st.lists(st.sampled_from("armd")))
def test_limited_space_against_a_slow_count(low: int, extra: int, calls: list[str]) -> None:
    space = LimitedSpaceContainer(low, low + extra)
    taken, limit = low, low + extra
    for call in calls:
        if call == "a":
            assert space.acquire_space() == (taken < limit)
            taken += taken < limit
        elif call == "r":
            assert space.release_space() == (taken > low)
            taken -= taken > low
        elif call == "m":
            space.increase_space()
            limit += 1
        else:
            space.decrease_space()
            limit = max(limit - 1, low)
    assert space.get_residual_space() == max(limit - taken, 0)
    assert space.get_residual_space() == 0 and not space.acquire_space()


def test_limited_space_with_wrong_bounds() -> None:
    with pytest.raises(ConfigError, match="min_val=2, max_val=1; expected 0 <= min_val <= max_val"):
        LimitedSpaceContainer(2, 1)
