from collections import deque

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from replay_twin import Feeder, make_replay

from nervex.data.limiter import Limiter
from nervex.data.window import NStepWindow
from nervex.torch_utils import load_state, save_state
from nervex.utils.errors import ConfigError, SpecError

PLANS = [[(3, "terminated"), (5, "truncated")], [(7, "truncated")]]


def leaves(batch):
    return {k: v["place"] if isinstance(v, dict) else v for k, v in batch.items()}


def same(one, two):
    assert one.keys() == two.keys()
    for name, value in leaves(one).items():
        assert value.dtype == leaves(two)[name].dtype
        np.testing.assert_array_equal(value, leaves(two)[name])
    return True


def counters(replay):
    """The metrics, but for those that measure time."""
    return {k: v for k, v in replay.metrics().items() if not k.startswith("time/")}


# State


def play(replay, feeder, rounds):
    """Pushes, samples and updates; returns the batches."""
    batches = []
    for i in range(rounds):
        feeder.push([0, 1] if i % 3 else [1], 1 + i % 4)
        batch = replay.sample(4)
        if batch is not None:
            batches.append(batch)
            replay.update({"index": batch["index"], "priority": batch["obs"]["place"][:, 2] + 0.5})
    return batches


@pytest.mark.parametrize("rounds", [0, 1, 5, 30])
@pytest.mark.parametrize("cfg", [{}, {"sampler": "prioritized"}, {"sampler": "prioritized", "max_reuse": 3}])
def test_a_restored_replay_gives_the_same_stream_of_batches(tmp_path, cfg, rounds):
    cfg = {"meta_maxlen": 24, "anneal_step": 20, **cfg}
    window = NStepWindow(2, 0.9)
    replay = make_replay(2, window, seed=3, **cfg)
    feeder = Feeder(replay, PLANS)
    play(replay, feeder, rounds)
    replay.mark_gap([1])  # a gap that no row carries yet
    feeder.twins[1].gap_next = True
    save_state(tmp_path / "state", replay.state_dict())

    other = make_replay(2, window, seed=4, **cfg)
    play(other, Feeder(other, PLANS), 11)  # what it held and drew before must not matter
    other.load_state_dict(load_state(tmp_path / "state")[0])
    assert counters(other) == counters(replay)
    copy = Feeder(other, PLANS)
    for mine, theirs in zip(copy.streams, feeder.streams, strict=True):
        mine.episode, mine.step = theirs.episode, theirs.step
    one, two = play(replay, feeder, 15), play(other, copy, 15)
    assert len(one) == len(two) > 10
    assert all(same(a, b) for a, b in zip(one, two, strict=True))
    assert counters(other) == counters(replay)


def test_a_state_is_not_changed_by_what_follows():
    replay = make_replay(2, NStepWindow(1, 0.9), meta_maxlen=8, sampler="prioritized")
    feeder = Feeder(replay, PLANS)
    feeder.push([0, 1], 3)
    state = replay.state_dict()
    first = [leaves(b) for b in play(replay, feeder, 9)]
    replay.load_state_dict(state)
    feeder = Feeder(replay, PLANS)
    for stream in feeder.streams:
        stream.step = 3  # the length of the first episode of lane 0 is 3: its dummy row follows
    assert [{k: v.tolist() for k, v in leaves(b).items()} for b in play(replay, feeder, 9)] == [
        {k: v.tolist() for k, v in b.items()} for b in first
    ]


def test_state_of_another_capacity_is_refused():
    window = NStepWindow(1, 0.9)
    with pytest.raises(SpecError, match=r"resume with the capacity and number of envs that it was saved with"):
        make_replay(2, window, meta_maxlen=10).load_state_dict(make_replay(2, window, meta_maxlen=20).state_dict())


# Finished items


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(1, 9), st.sampled_from(["uniform", "prioritized"]),
    st.lists(st.lists(st.lists(st.booleans(), min_size=2, max_size=2), max_size=6), max_size=8),
)  # fmt: skip
def test_items_are_stored_as_they_come(capacity, sampler, blocks):
    replay = make_replay(2, None, meta_maxlen=capacity, sampler=sampler)
    held = deque(maxlen=capacity)
    number = 0
    for mask in blocks:
        valid = np.array(mask, bool).reshape(len(mask), 2)
        ids = number + np.arange(valid.size, dtype=np.float32).reshape(valid.shape)
        number += valid.size
        held.extend(ids[valid].tolist())
        replay.push_data({"obs": {"id": torch.from_numpy(ids)}, "x": ids[..., None] + 0.5, "valid": valid})
        assert replay.count == len(held)
        batch = replay.sample(40)
        assert (batch is None) == (not held)
        if batch is not None:
            assert set(batch["obs"]["id"].tolist()) <= set(held)
            assert batch["x"].shape == (40, 1) and (batch["x"][:, 0] == batch["obs"]["id"] + 0.5).all()
            assert batch["valid"].all() and batch["weight"].tolist() == [1.0] * 40
    if held:
        seen = set(torch.cat([replay.sample(64)["obs"]["id"] for _ in range(8)]).tolist())
        assert seen == set(held)


def unrolls(first, count, size=3):
    """[U, items, ...]: item ``i`` holds the rows i.0, i.1, i.2; its last row is padding when ``i`` is odd."""
    item = first + np.arange(count)
    steps = np.arange(size)[:, None]
    valid = (steps < size - 1) | (item % 2 == 0)
    return {"id": (item + steps / 10).astype(np.float32), "h": np.ones((size, count, 2), np.float32), "valid": valid}


def test_unrolls_come_back_time_first():
    replay = make_replay(2, None, meta_maxlen=5, unroll_len=3)
    assert replay.sample(1) is None
    replay.push_data(unrolls(0, 0))
    assert replay.sample(1) is None and replay.count == 0
    replay.push_data(unrolls(0, 4))
    replay.push_data(unrolls(4, 3))
    assert replay.count == 5
    batch = replay.sample(200)
    assert batch["id"].shape == (3, 200) and batch["h"].shape == (3, 200, 2)
    item = batch["id"][0]
    assert set(item.tolist()) == {2, 3, 4, 5, 6}
    for step in range(3):
        torch.testing.assert_close(batch["id"][step], item + step / 10)
    assert batch["valid"].shape == batch["weight"].shape == batch["index"].shape == (200,)
    assert (batch["row_valid"][2] == (item % 2 == 0)).all() and batch["row_valid"][:2].all()


def test_restored_items_give_the_same_batches(tmp_path):
    replays = [make_replay(2, None, seed=i, meta_maxlen=5, unroll_len=3, sampler="prioritized") for i in range(2)]
    replays[0].push_data(unrolls(0, 7))
    replays[0].sample(3)
    save_state(tmp_path / "state", replays[0].state_dict())
    replays[1].load_state_dict(load_state(tmp_path / "state")[0])
    for replay in replays:
        replay.push_data(unrolls(7, 2))
    for _ in range(5):
        assert same(replays[0].sample(4), replays[1].sample(4))


# The whole


def test_two_draws_of_one_seed_are_the_same_and_of_two_seeds_are_not():
    streams = []
    for seed in (1, 1, 2):
        replay = make_replay(2, NStepWindow(1, 0.9), seed=seed)
        Feeder(replay, PLANS).push([0, 1], 20)
        streams.append([replay.sample(5)["index"].tolist() for _ in range(4)])
    assert streams[0] == streams[1] != streams[2]


def test_rows_of_two_actors_on_lanes_of_their_own():
    replay = make_replay(2, NStepWindow(2, 0.9))
    feeder = Feeder(replay, PLANS)
    for row_num in (3, 1, 4):
        feeder.push([0], row_num)
        feeder.push([1], row_num + 1)
    batches = torch.cat([replay.sample(50)["obs"]["place"] for _ in range(20)])
    seen = {tuple(row) for row in batches.tolist()}
    assert seen == {sample["obs"] for sample in feeder.expected(2, 0.9).values()}


def test_metrics_and_counters():
    replay = make_replay(2, NStepWindow(1, 0.9), meta_maxlen=20)
    Feeder(replay, PLANS).push([0, 1], 5)  # lane 0 has a dummy row among its five
    replay.sample(6)
    assert counters(replay) == {"buffer_count": 9, "buffer_capacity": 20, "samples_per_insert": 6 / 9}
    assert make_replay(1, None).metrics()["samples_per_insert"] == 0


@pytest.mark.parametrize(
    ("ratio", "max_use", "train_step", "expected"),
    [(1.0, float("inf"), 5, 32), (2.5, float("inf"), 1, 80), (1.0, 2, 8, 128), (0.01, float("inf"), 1, 1)],
)
def test_rows_needed_before_the_first_batch(ratio, max_use, train_step, expected):
    assert Limiter(ratio, max_use).min_count(32, train_step) == expected


def test_too_small_for_its_windows():
    with pytest.raises(ConfigError, match=r"meta_maxlen is 15, too small for 4 lanes and windows of 4 rows; .* 16"):
        make_replay(4, NStepWindow(3, 0.9), meta_maxlen=15)
    make_replay(4, NStepWindow(3, 0.9), meta_maxlen=16)


def test_a_full_replay_that_can_never_suffice():
    """Half of the rows are dummies of episodes that last one step."""
    replay = make_replay(1, NStepWindow(1, 0.9), meta_maxlen=10)
    feeder = Feeder(replay, [[(1, "terminated")]])
    feeder.push([0], 9)
    replay.check_room(6)  # not full yet
    feeder.push([0], 1)
    replay.check_room(5)
    with pytest.raises(ConfigError, match=r"full with 10 rows, of which 5 are usable transitions, and 6 are needed"):
        replay.check_room(6)


def test_used_up_rows_make_room():
    replay = make_replay(1, NStepWindow(1, 0.9), meta_maxlen=10, max_reuse=1)
    Feeder(replay, [[(50, "terminated")]]).push([0], 10)
    replay.sample(6)
    assert replay.count == 4
    replay.check_room(8)  # rows that come will take the place of those used up


def test_rows_without_lanes_are_refused():
    replay = make_replay(2, NStepWindow(1, 0.9))
    columns = {"obs": np.zeros((1, 2)), "valid": np.ones((1, 2), bool)}
    with pytest.raises(SpecError, match=r"push_data of rows needs lane_id, the lanes \[b\] of the block"):
        replay.push_data(columns)
    message = r"got the lanes .* for 2 columns of lanes, expected each once, from 0 to 1"
    for lanes in ([0, 2], [-1, 0], [1, 1], [0]):
        with pytest.raises(SpecError, match=message):
            replay.push_data(columns, lanes)
