"""Unrolls from a replay: consecutive rows of one lane, states stored only where an unroll may begin."""

import numpy as np
import pytest

from nervex.data.replay import Replay
from nervex.data.storage import RowStorage
from nervex.data.window import SequenceWindow

LANES = 3


def rows(first, num, lanes=LANES, ends=()):
    """Rows whose id, reward and state name their time and lane; ``ends`` are times of dummy rows."""
    ids = np.arange(first, first + num)[:, None] * 100 + np.arange(lanes)
    valid = np.array([t not in ends for t in range(first, first + num)])[:, None].repeat(lanes, 1)
    begun = [max([e for e in ends if e < t], default=-1) for t in range(first, first + num)]
    step = np.array([t - b - 1 for t, b in zip(range(first, first + num), begun, strict=True)])[:, None].repeat(
        lanes, 1
    )
    return {
        "id": ids, "obs": ids.astype(np.float32), "reward": ids.astype(np.float32), "valid": valid,
        "terminated": np.zeros_like(valid), "truncated": np.zeros_like(valid), "episode_step": step,
        "prev_state": {"h": ids[..., None].astype(np.float32)},
    }  # fmt: skip


def filled(total, unroll_len=6, stride=4, capacity=120, chunk=5, sampler="uniform", ends=()):
    replay = Replay({"meta_maxlen": capacity, "sampler": sampler}, LANES, SequenceWindow(unroll_len, stride), seed=0)
    for first in range(0, total, chunk):
        replay.push_data(rows(first, min(chunk, total - first), ends=ends), np.arange(LANES))
    return replay


def starts(replay, draws=40, size=8):
    found = set()
    for _ in range(draws):
        batch = replay.sample(size)
        ids, state = batch["id"].numpy(), batch["prev_state"]["h"].numpy()
        assert (np.diff(ids, axis=0) == 100).all(), "rows of an unroll follow each other in one lane"
        assert (state[:, 0] == ids[0]).all(), "the state is that before the first row"
        found |= set(ids[0].tolist())
    return found


@pytest.mark.parametrize("sampler", ["uniform", "prioritized"])
@pytest.mark.parametrize(("total", "capacity"), [(30, 120), (100, 120), (333, 96)])
def test_unrolls_begin_at_every_stride_th_row_that_has_enough_after_it(sampler, total, capacity):
    replay = filled(total, capacity=capacity, sampler=sampler)
    ring = replay.storage.ring_len
    assert ring % 4 == 0
    oldest = max(total - ring, 0)
    expected = {t * 100 + lane for t in range(oldest, total - 5) if t % 4 == 0 for lane in range(LANES)}
    assert starts(replay, draws=150) == expected


def test_states_take_the_room_of_the_rows_that_unrolls_begin_at():
    replay = filled(100)
    column = replay.storage.column
    assert len(column["prev_state/h"]) * 4 == len(column["id"])


def test_no_unroll_crosses_a_gap():
    replay = filled(20)
    replay.mark_gap(np.array([1]))
    replay.push_data(rows(20, 20), np.arange(LANES))
    found = starts(replay, draws=150)
    assert {16 * 100, 16 * 100 + 2} <= found and 16 * 100 + 1 not in found
    assert {12 * 100 + 1, 20 * 100 + 1} <= found  # rows 12 to 17 and 20 to 25 are whole


def test_beginnings_of_episodes_are_marked():
    replay = filled(40, ends=(7, 18))
    for _ in range(20):
        batch = replay.sample(8)
        begins = (batch["id"] // 100 == 8) | (batch["id"] // 100 == 19) | (batch["id"] // 100 == 0)
        assert (batch["begin"] == begins).all()


def test_state_round_trip_gives_the_same_unrolls():
    first, other = filled(50), filled(13)
    other.load_state_dict(first.state_dict())
    for _ in range(5):
        a, b = first.sample(4), other.sample(4)
        assert (a["id"] == b["id"]).all() and (a["prev_state"]["h"] == b["prev_state"]["h"]).all()


def test_priorities_go_to_unrolls():
    replay = filled(60, sampler="prioritized")
    batch = replay.sample(16)
    replay.update({"index": batch["index"], "priority": np.where(batch["id"][0].numpy() % 100 == 1, 1.0, 0.0)})
    for _ in range(100):
        batch = replay.sample(16)
        replay.update({"index": batch["index"], "priority": np.where(batch["id"][0].numpy() % 100 == 1, 1.0, 0.0)})
    assert (replay.sample(64)["id"][0] % 100 == 1).float().mean() > 0.9


def test_nothing_to_sample_until_an_unroll_is_whole():
    assert filled(5).sample(2) is None
    assert filled(6).sample(2) is not None


def test_slots_and_numbers_of_first_rows_are_inverse():
    storage = RowStorage(50, 3, stride=4)
    number = np.arange(storage.capacity // 4)
    slot = storage.start_slot(number)
    assert storage.begins(slot).all() and (storage.sparse_slot(slot) == number).all()
