"""Batches made ahead are those that would come without, whatever happens in between."""

import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from replay_twin import Feeder, make_replay

from nervex.data.loader import AsyncDataLoader
from nervex.data.window import NStepWindow, SequenceWindow
from nervex.torch_utils import load_state, save_state
from nervex.utils.tree import tree_leaves

PLANS = [[(3, "terminated"), (5, "truncated")], [(7, "truncated")]]
ANY_SIZE = {"thread_bytes": 0}


def filled(seed=3, rows=12, **cfg):
    replay = make_replay(2, NStepWindow(2, 0.9), seed=seed, **{"meta_maxlen": 40, **cfg})
    feeder = Feeder(replay, PLANS)
    feeder.push([0, 1], rows)
    return replay, feeder


def plain(batch):
    return {k: (v["place"] if isinstance(v, dict) else v).tolist() for k, v in batch.items()}


steps = st.lists(
    st.one_of(
        st.tuples(st.just("batches"), st.integers(0, 6), st.integers(0, 6)),
        st.tuples(st.just("push"), st.integers(1, 5)),
        st.tuples(st.just("state")),
        st.tuples(st.just("gap")),
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    steps, st.integers(1, 4),
    st.sampled_from([{}, {"max_reuse": 2}, {"sampler": "prioritized"}, {"samples_per_insert": 3.0}]),
    st.booleans(), st.booleans(), st.sampled_from([{}, ANY_SIZE]),
)  # fmt: skip
def test_batches_are_exactly_those_of_no_loader(operations, depth, cfg, learns, inside, size):
    """Blocks of updates, left early or whole, with rows, states and priorities that come within them or after; by a
    thread, or small ones in one go."""
    (one, feeder), (two, other) = filled(rows=6, **cfg), filled(rows=6, **cfg)
    with AsyncDataLoader(two, 4, depth=depth, **size) as loader:
        for operation, *args in operations:
            if operation == "push":
                feeder.push([0, 1], args[0])
                other.push([0, 1], args[0])
            elif operation == "gap":
                feeder.restart([1])
                other.restart([1])
            elif operation == "state":
                assert repr(one.state_dict()) == repr(two.state_dict())
            else:
                num, leave = args
                given = 0
                for batch in loader.batches(num):
                    expected = one.sample(4)
                    assert plain(batch) == plain(expected)
                    given += 1
                    for replay, b, f in ((one, expected, feeder), (two, batch, other)):
                        if learns:
                            replay.update({"index": b["index"], "priority": b["obs"]["place"][:, 2] + 0.5})
                        if inside:
                            f.push([1], 1)
                    if given == leave:
                        break
                if given < num and not 0 < given == leave:
                    assert one.sample(4) is None
        assert repr(one.state_dict()) == repr(two.state_dict())


def test_it_does_look_ahead():
    """So that the test before this one is about something."""
    replay, _ = filled()
    with AsyncDataLoader(replay, 4, depth=3, **ANY_SIZE) as loader:
        batches = loader.batches(6)
        next(batches)
        assert len(replay._ahead) == 3 and replay.limiter.sampled == 16
        assert [len(replay._ahead) for _ in batches] == [3, 3, 2, 1, 0]
        assert replay.limiter.sampled == 24


@pytest.mark.parametrize(("cfg", "size"), [({"max_reuse": 4}, ANY_SIZE), ({}, ANY_SIZE), ({}, {})])
def test_a_run_resumed_in_the_middle_of_a_block(tmp_path, cfg, size):
    """A checkpoint after 2 of 6 batches, while others are in flight, holds none of them; both runs go on alike."""
    replay, feeder = filled(sampler="uniform", **cfg)
    with AsyncDataLoader(replay, 4, depth=3, **size) as loader:
        went_on = []
        for i, batch in enumerate(loader.batches(6)):
            if i == 2:
                assert replay._ahead
                save_state(tmp_path / "state", replay.state_dict())
                assert not replay._ahead
            if i > 2:
                went_on.append(plain(batch))
        feeder.push([0, 1], 3)
        went_on += [plain(batch) for batch in loader.batches(2)]
    other, other_feeder = filled(seed=9, sampler="uniform", **cfg)
    other.load_state_dict(load_state(tmp_path / "state")[0])
    resumed = [plain(other.sample(4)) for _ in range(3)]
    other_feeder.push([0, 1], 3)
    resumed += [plain(other.sample(4)) for _ in range(2)]
    assert resumed == went_on


def test_priorities_are_never_looked_past():
    replay, _ = filled(sampler="prioritized")
    with AsyncDataLoader(replay, 4, **ANY_SIZE) as loader:
        for _ in loader.batches(3):
            assert not replay._ahead
    with pytest.raises(AssertionError, match="draws by priority depend"):
        replay.draw(4, ahead=True)


def test_small_batches_are_not_worth_a_thread():
    replay, _ = filled()
    with AsyncDataLoader(replay, 4) as loader:
        assert [len(replay._ahead) for _ in loader.batches(1)] == [0]
        threads = threading.active_count()
        assert [len(replay._ahead) for _ in loader.batches(5)] == [4, 3, 2, 1, 0], "gathered in one go"
        assert threading.active_count() == threads


def test_as_many_small_batches_in_one_go_as_fit():
    replay, _ = filled()
    with AsyncDataLoader(replay, 4) as loader:
        size = sum(v.nbytes for v in tree_leaves(next(loader.batches(1))))
    with AsyncDataLoader(replay, 4, thread_bytes=3 * size + 1) as loader:
        assert [len(replay._ahead) for _ in loader.batches(8)] == [0, 2, 1, 0, 2, 1, 0, 0]


def test_draws_in_one_go_are_those_one_by_one():
    """Many enough that some batches need a second round of candidates, and none is drawn in one go then."""
    one, feeder = filled(rows=9)
    two, other = filled(rows=9)
    together = 0
    for i in range(300):
        draws = two.draw_together(6, 3, i)
        together += len(draws) > 0
        for j in range(3):
            batch = two.fetch_together(draws)[j] if draws else two.sample(6, i + j)
            assert plain(batch) == plain(one.sample(6, i + j))
            assert not draws or two.received(draws[j])
        assert repr(one.state_dict()) == repr(two.state_dict())
        feeder.push([0, 1], 1)
        other.push([0, 1], 1)
    assert 0 < together < 300


@pytest.mark.parametrize("left", [1, 2])
def test_draws_in_one_go_are_taken_back_to_where_they_are_left(left):
    one, _ = filled()
    two, _ = filled()
    draws = two.draw_together(4, 4, policy_version=7)
    for i in range(left):
        assert plain(two.fetch(draws[i])) == plain(one.sample(4, 7 + i))
        two.received(draws[i])
    assert repr(one.state_dict()) == repr(two.state_dict())
    assert [draw.taken_back for draw in draws] == [i >= left for i in range(4)]
    assert plain(two.sample(4, 7 + left)) == plain(one.sample(4, 7 + left))


def test_a_batch_that_is_drawn_in_between_is_the_next_one():
    one, _ = filled()
    two, _ = filled()
    alone = [plain(one.sample(4)) for _ in range(6)]
    found = []
    with AsyncDataLoader(two, 4) as loader:
        for i, batch in enumerate(loader.batches(5)):
            found.append(plain(batch))
            if i == 1:
                found.append(plain(two.sample(4)))
                two.state_dict()
    assert found == alone and two.limiter.sampled == one.limiter.sampled


@pytest.mark.parametrize("window", [NStepWindow(2, 0.9), SequenceWindow(2, 1)])
def test_batches_drawn_in_one_go_can_be_changed_alone(window):
    replay = make_replay(2, window, meta_maxlen=40)
    number = np.arange(24, dtype=np.float32).reshape(12, 2) + 1
    ends = np.zeros((12, 2), bool)
    replay.push_data(
        {"obs": number[..., None], "reward": number, "episode_step": number.astype(np.int32), "valid": ~ends,
         "terminated": ends, "truncated": ends}, np.arange(2),
    )  # fmt: skip
    one, two = replay.fetch_together(replay.draw_together(4, 2))
    before = [v.clone() for v in tree_leaves(two)]
    for leaf in tree_leaves(one):
        leaf.zero_()
    assert all(torch.equal(v, w) for v, w in zip(tree_leaves(two), before, strict=True))


@pytest.mark.parametrize("batch_size", [3, 5, 6])
def test_batches_drawn_in_one_go_lie_where_those_of_their_own_would(batch_size):
    """At other addresses, products of matrices are summed in another order."""
    replay, _ = filled()
    for batch in replay.fetch_together(replay.draw_together(batch_size, 3)):
        assert all(leaf.data_ptr() % 16 == 0 for leaf in tree_leaves(batch))


@pytest.mark.parametrize("batch_size", [2, 4])
def test_unrolls_as_items_are_the_same_from_the_loader(batch_size):
    def replay_of_unrolls():
        replay = make_replay(2, None, meta_maxlen=50, unroll_len=4)
        number = torch.arange(4 * 6 * 3, dtype=torch.float32).reshape(4, 6, 3)
        replay.push_data({"obs": number, "valid": torch.ones(4, 6, dtype=torch.bool)})
        return replay

    alone = replay_of_unrolls()
    with AsyncDataLoader(replay_of_unrolls(), batch_size) as loader:
        for batch in loader.batches(3):
            assert batch["obs"].shape == (4, batch_size, 3)
            assert plain(batch) == plain(alone.sample(batch_size))


@pytest.mark.parametrize("cfg", [{"max_reuse": 4}, {"sampler": "prioritized"}, {"samples_per_insert": 0.9}])
def test_what_is_not_drawn_in_one_go(cfg):
    """Where one draw decides about the next, or there are not enough rows for all."""
    replay, _ = filled(**cfg)
    before = repr(replay.state_dict())
    assert replay.draw_together(6, 4) == []
    assert repr(replay.state_dict()) == before


def test_staleness_counts_from_the_iteration_of_each_batch():
    def replay_of(versions):
        replay = make_replay(1, NStepWindow(1, 0.9), max_staleness=10)
        num = len(versions)
        ends = np.zeros((num, 1), bool)
        replay.push_data(
            {"obs": np.array(versions, np.float32)[:, None], "reward": np.zeros((num, 1), np.float32), "valid": ~ends,
             "policy_version": np.array(versions)[:, None], "terminated": ends, "truncated": ends}, [0]
        )  # fmt: skip
        return replay

    one, two = replay_of(range(20)), replay_of(range(20))
    with AsyncDataLoader(two, 5, depth=2, **ANY_SIZE) as loader:
        for i, batch in enumerate(loader.batches(5, policy_version=20)):
            expected = one.sample(5, policy_version=20 + i)
            assert batch["obs"].tolist() == expected["obs"].tolist() and batch["obs"].min() >= 10 + i
            assert one.storage.newest_version == 20 + i
        for i, _ in enumerate(loader.batches(3, policy_version=25)):
            one.sample(5, policy_version=25 + i)
            assert repr(one.state_dict()) == repr(two.state_dict()), "nothing of a later iteration is in it"


def test_an_error_comes_where_its_batch_would_have_with_its_traceback():
    replay, feeder = filled()
    gather, calls = replay.window.gather, []

    def fail(storage, plan):
        calls.append(threading.current_thread().name)
        if len(calls) == 3:
            raise ZeroDivisionError("in the gather")
        return gather(storage, plan)

    replay.window.gather = fail
    loader = AsyncDataLoader(replay, 4, depth=2, **ANY_SIZE)
    given = []
    with pytest.raises(ZeroDivisionError, match="in the gather") as caught:
        given.extend(loader.batches(6))
    assert len(given) == 2 and caught.traceback[-1].name == "fail"
    assert calls[0] == "MainThread" and calls[1].startswith("nervex-loader")
    assert not replay._ahead
    feeder.push([0, 1], 2)
    assert len(list(loader.batches(3))) == 3, "it can be used on"
    loader.close()


def test_it_closes_and_leaves_no_thread():
    before = threading.active_count()
    replay, _ = filled()
    sampled = []
    for _ in range(3):
        loader = AsyncDataLoader(replay, 4, num_workers=2, **ANY_SIZE)
        next(iter(loader))
        sampled.append(replay.limiter.sampled)
        loader.close()
        loader.close()
        assert replay.limiter.sampled == 4 * (len(sampled)), "what was in flight is taken back"
    assert sampled[0] > 4
    assert threading.active_count() == before
    for use in (lambda: next(loader), lambda: next(loader.batches(1)), lambda: next(iter(loader))):
        with pytest.raises(RuntimeError, match="this AsyncDataLoader was closed; make a new one"):
            use()


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"depth": 0}, {"num_workers": -1}])
def test_arguments_out_of_range(wrong):
    with pytest.raises(ValueError, match=r"expected at least 1, 1 and 0"):
        AsyncDataLoader(lambda size: None, **{"batch_size": 4, **wrong})


# From a function


def test_a_function_is_asked_in_order_and_not_too_far_ahead():
    asked, given = [], []

    def source(size):
        asked.append(size)
        return None if len(asked) > 9 else {"x": torch.full((size,), len(asked))}

    with AsyncDataLoader(source, 3, depth=2) as loader:
        for batch in loader:
            given.append(batch["x"].tolist())
            assert len(asked) <= len(given) + 2
            time.sleep(0.002)
    assert given == [[i] * 3 for i in range(1, 10)]


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("chunk_size", [None, 1, 4])
def test_items_are_made_by_workers_and_joined_in_order(workers, chunk_size):
    names = set()

    def item(i):
        names.add(threading.current_thread().name)
        time.sleep(0.001 * (5 - i % 5))
        return {"i": i, "x": np.full(2, i, np.float32), "t": {"y": torch.tensor([i])}}

    blocks = iter([[lambda i=i: item(i) for i in range(7)], [item(i) for i in range(7, 9)], []])
    with AsyncDataLoader(lambda size: next(blocks, None), 7, chunk_size=chunk_size, num_workers=workers) as loader:
        first, second = list(loader)
    assert first["i"].tolist() == list(range(7)) and second["i"].tolist() == [7, 8]
    assert first["x"].dtype == torch.float32 and first["x"].shape == (7, 2)
    assert first["t"]["y"].squeeze(1).tolist() == list(range(7))
    assert any("worker" in name for name in names) == (workers > 0)


def test_items_may_be_joined_otherwise():
    blocks = iter([[1, 2, 3], None])
    with AsyncDataLoader(lambda size: next(blocks, None), 3, collate_fn=sum) as loader:
        assert list(loader) == [6]


def test_a_source_that_hangs_is_told():
    release = threading.Event()
    loader = AsyncDataLoader(lambda size: release.wait(5), 4, timeout_s=0.05)
    with pytest.raises(TimeoutError, match=r"waited 0.05 s for a batch of 4 from function; see why the data source"):
        next(loader)
    release.set()
    loader.close()


def test_a_timeout_of_the_source_itself_is_its_own():
    def source(size):
        raise TimeoutError("the disk")

    with AsyncDataLoader(source, 4) as loader, pytest.raises(TimeoutError, match=r"^the disk$"):
        next(loader)


@pytest.mark.gpu
def test_batches_arrive_on_the_device():
    one, two = filled()[0], filled()[0]
    with AsyncDataLoader(two, 4, "cuda") as loader:
        for batch in loader.batches(5):
            assert all(v.is_cuda for v in batch.values() if isinstance(v, torch.Tensor))
            assert plain(batch) == plain(one.sample(4))
