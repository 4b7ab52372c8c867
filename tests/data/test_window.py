import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from replay_twin import ENDS, Feeder, make_replay, poison, rows_of_batch, unpoison

from nervex.data.window import ItemWindow, NStepWindow

GAMMA = 0.9


def every_window(feeder, window):
    """Row id -> sample, read through plan and gather for all slots at once."""
    storage = feeder.replay.storage
    if not storage.column:
        return {}
    plan = window.plan(storage, np.arange(storage.capacity))
    plan = plan.take(np.flatnonzero(plan.ok))
    batch = window.gather(storage, plan)
    batch["index"] = torch.from_numpy(storage.row_id(plan.slot))
    return dict(rows_of_batch(batch))


plans = st.lists(st.tuples(st.integers(1, 5), st.sampled_from(ENDS)), min_size=1, max_size=3)
lanes = st.lists(st.integers(0, 2), min_size=1, max_size=3, unique=True)
ops = st.lists(
    st.one_of(
        st.tuples(st.just("push"), lanes, st.integers(0, 9)),
        st.tuples(st.just("push"), st.just([0, 1, 2]), st.integers(1, 3)),
        st.tuples(st.just("pad"), lanes, st.lists(st.integers(0, 9), min_size=3, max_size=3)),
        st.tuples(st.just("gap"), lanes),
        st.tuples(st.just("clear")),
    ),
    max_size=10,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(1, 4), st.integers(0, 7), st.lists(plans, min_size=3, max_size=3), ops, st.booleans())
@example(1, 0, [[(1, "terminated")]] * 3, [("push", [0, 1, 2], 2)] * 3, False)
@example(3, 2, [[(5, "terminated")]] * 3, [("push", [0, 1, 2], 3), ("gap", [1]), ("push", [1, 0], 4)], True)
@example(2, 1, [[(3, "truncated")]] * 3, [("pad", [0, 1, 2], [9, 2, 5])], False)
def test_exactly_the_complete_windows_can_be_sampled(nstep, spare, plan, operations, prioritized):
    """Whatever comes in: every complete window, its numbers right, and nothing else; storage is full of poison."""
    window = NStepWindow(nstep, GAMMA)
    sampler = "prioritized" if prioritized else "uniform"
    replay = make_replay(3, window, meta_maxlen=3 * (nstep + 1 + spare), sampler=sampler)
    feeder = Feeder(replay, plan)
    for op, *args in operations:
        unpoison(replay.storage, feeder.unwritten())
        match op:
            case "push":
                feeder.push(*args)
            case "pad":
                length = args[1][: len(args[0])]
                feeder.push(args[0], max(length), length)
            case "gap":
                feeder.restart(*args)
            case "clear":
                feeder.clear()
        poison(replay.storage, feeder.unwritten())
        expected = feeder.expected(nstep, GAMMA)
        assert every_window(feeder, window) == expected
        assert replay.count == feeder.held_valid()
        batch = replay.sample(8)
        assert (batch is None) == (not expected)
        if batch is not None:
            for index, row in rows_of_batch(batch):
                assert row == expected[index]
        if prioritized:
            has_priority = np.flatnonzero(replay.sampler.priorities.tree[np.arange(replay.capacity)] > 0)
            assert set(replay.storage.row_id(has_priority).tolist()) == expected.keys()


@pytest.mark.parametrize("kind", ENDS)
@pytest.mark.parametrize("nstep", [1, 3, 5])
def test_ends_of_episodes(nstep, kind):
    replay = make_replay(1, NStepWindow(nstep, GAMMA))
    feeder = Feeder(replay, [[(4, kind)]])
    feeder.push([0], 20)
    by_id = every_window(feeder, replay.window)
    for index in range(4):
        row, left = by_id[index], 4 - index
        k = min(nstep, left)
        assert row["next_obs"] == (0, 0, index + k)  # at the end the true final observation, not that of a reset
        assert row["reward"][k:] == [0] * (nstep - k) and all(row["reward"][:k])
        assert row["value_gamma"] == np.float32(GAMMA**k)
        ends = left <= nstep
        assert row["done"] == row["terminated"] == (ends and kind == "terminated")
        assert row["truncated"] == (ends and kind == "truncated")
    assert 4 not in by_id  # the dummy row
    assert by_id[5]["obs"] == (0, 1, 0)


def test_newest_rows_wait_for_their_successors():
    replay = make_replay(1, NStepWindow(3, GAMMA))
    feeder = Feeder(replay, [[(50, "terminated")]])
    for row_num in range(1, 8):
        feeder.push([0], 1)
        assert sorted(every_window(feeder, replay.window)) == list(range(max(0, row_num - 3)))


def test_an_end_whose_final_observation_is_missing_waits_too():
    replay = make_replay(1, NStepWindow(2, GAMMA))
    feeder = Feeder(replay, [[(2, "terminated")]])
    feeder.push([0], 2)
    assert every_window(feeder, replay.window) == {}
    feeder.push([0], 1)
    assert sorted(every_window(feeder, replay.window)) == [0, 1]


def test_no_window_crosses_a_gap():
    replay = make_replay(1, NStepWindow(2, GAMMA))
    feeder = Feeder(replay, [[(50, "terminated")]])
    feeder.push([0], 4)
    feeder.restart([0])
    feeder.push([0], 4)
    assert sorted(every_window(feeder, replay.window)) == [0, 1, 4, 5]


def test_batch_dtypes_and_shapes():
    replay = make_replay(1, NStepWindow(3, GAMMA))
    Feeder(replay, [[(4, "truncated")]]).push([0], 20)
    batch = replay.sample(6)
    shapes = {
        "reward": (torch.float32, (6, 3)), "done": (torch.bool, (6,)), "terminated": (torch.bool, (6,)),
        "truncated": (torch.bool, (6,)), "value_gamma": (torch.float32, (6,)), "weight": (torch.float32, (6,)),
        "index": (torch.int64, (6,)),
    }  # fmt: skip
    for name, (dtype, shape) in shapes.items():
        assert (batch[name].dtype, tuple(batch[name].shape)) == (dtype, shape), name
    assert batch["next_obs"]["place"].shape == batch["obs"]["place"].shape == (6, 3)


@pytest.mark.parametrize("nstep", [1, 3])
def test_every_agent_has_rewards_of_its_own(nstep):
    replay = make_replay(2, NStepWindow(nstep, GAMMA))
    reward = 1 + np.arange(6 * 2 * 3, dtype=np.float32).reshape(6, 2, 3)  # [T, lanes, agents]
    ends = np.zeros((6, 2), bool)
    ends[3] = True
    columns = {"obs": np.zeros((6, 2, 4), np.float32), "reward": reward, "valid": np.ones((6, 2), bool)}
    replay.push_data(columns | {"terminated": ends, "truncated": ~ends & False}, np.arange(2))
    batch = replay.sample(50)
    assert batch["reward"].shape == (50, nstep, 3)
    for i, index in enumerate(batch["index"].tolist()):
        row, lane = divmod(index, 2)
        steps = min(nstep, 4 - row) if row < 4 else nstep
        expected = np.zeros((nstep, 3), np.float32)
        expected[:steps] = reward[row : row + steps, lane]
        np.testing.assert_array_equal(batch["reward"][i], expected)


@pytest.mark.parametrize("gap", [None, np.array([False, True])])
def test_a_gap_may_be_told_with_a_block(gap):
    replay = make_replay(2, NStepWindow(1, GAMMA))
    feeder = Feeder(replay, [[(50, "terminated")], [(50, "terminated")]])
    feeder.push([0, 1], 3)
    columns = {
        "obs": {"place": np.zeros((2, 2, 3), np.float32)}, "reward": np.zeros((2, 2), np.float32),
        **{k: np.full((2, 2), k == "valid") for k in ("terminated", "truncated", "valid")},
    }  # fmt: skip
    replay.push_data(columns, [1, 0], gap=gap)  # the second lane of the block is lane 0
    plan = replay.window.plan(replay.storage, np.arange(10))
    names = np.sort(replay.storage.row_id(plan.slot[plan.ok]))
    whole = [row * 2 + lane for row in range(4) for lane in range(2)]
    assert names.tolist() == (whole if gap is None else [i for i in whole if i != 4])


def test_a_batch_is_a_copy():
    replay = make_replay(1, NStepWindow(1, GAMMA))
    feeder = Feeder(replay, [[(4, "truncated")]])
    feeder.push([0], 20)
    batch = replay.sample(6)
    before = rows_of_batch(batch)
    feeder.push([0], 200)
    assert rows_of_batch(batch) == before


def test_items_are_samples_by_themselves():
    replay = make_replay(1, None, meta_maxlen=4)
    replay.push_data({"x": np.arange(3.0)[:, None], "valid": np.ones((3, 1), bool)})
    plan = ItemWindow().plan(replay.storage, np.arange(4))
    assert plan.ok.tolist() == [True, True, True, False] and plan.steps.tolist() == [1] * 4
