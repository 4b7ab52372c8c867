"""A replay's rows are saved in parts, of which those that have not changed keep their stamps."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nervex.data import stamps
from nervex.data.block_writer import BlockWriter
from nervex.data.replay import Replay
from nervex.data.stamps import Stamps
from nervex.data.window import NStepWindow
from nervex.torch_utils.checkpoint import CheckpointManager
from nervex.torch_utils.segment import Segment
from nervex.torch_utils.state_tree import encode_state

LANES = 2


@pytest.fixture
def small(monkeypatch):
    """Replays of a few rows are saved as large ones are."""
    monkeypatch.setattr(stamps, "SEGMENT_BYTES", 2000)
    monkeypatch.setattr(stamps, "LEAST_BYTES", 1)


class Feeder:
    """Rows of an env with stacked frames; the newest frame holds the number of the row."""

    def __init__(self):
        self.row = 0
        self.stack = np.zeros((LANES, 3, 20, 20), np.uint8)

    def block(self, num):
        rows = []
        for _ in range(num):
            self.stack = np.concatenate([self.stack[:, 1:], np.zeros((LANES, 1, 20, 20), np.uint8)], axis=1)
            self.stack[:, -1] = self.row % 251 + 1
            self.stack[:, -1, 0, 0] = np.arange(LANES)
            rows.append((self.stack, self.row))
            self.row += 1
        obs = torch.from_numpy(np.stack([stack for stack, _ in rows]))
        reward = torch.tensor([[float(row)] * LANES for _, row in rows])
        no = torch.zeros(num, LANES, dtype=torch.bool)
        return {"obs": obs, "reward": reward, "valid": ~no, "terminated": no, "truncated": no}


def replay_of(cfg):
    return Replay({"meta_maxlen": 200, "min_sample_ratio": 0.01, **cfg}, LANES, NStepWindow(1, 0.9))


def segments_in(tree):
    if isinstance(tree, Segment):
        return [tree]
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else ()
    return [segment for part in parts for segment in segments_in(part)]


def same_state(one, two):
    """Compares what states stand for, whatever their layout in parts."""
    one.pop("rng", None), two.pop("rng", None)
    structures, tensors = zip(*(encode_state(tree) for tree in (one, two)), strict=True)
    assert structures[0] == structures[1]
    assert all(torch.equal(tensors[0][k], tensors[1][k]) for k in tensors[0])


@pytest.mark.parametrize("cfg", [{}, {"codec": "raw"}, {"codec": "raw", "lz4": True}, {"lz4": True}])
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("rounds", [1, 9])
def test_a_replay_comes_back_from_its_parts(small, tmp_path, cfg, rounds, compiled):
    replay, feeder, manager = replay_of(cfg), Feeder(), CheckpointManager(tmp_path, keep=1)
    replay._writer = BlockWriter(replay.storage, 0 if compiled else 10**9)
    for n in range(rounds):
        replay.push_data(feeder.block(1 if n % 2 else 17), np.arange(LANES))
        path = manager.save(n, {"replay": replay.state_dict()})
        if n == 4:  # a fault cuts the first lane's episode off at a row that has been saved
            dummy = feeder.block(1)
            dummy["valid"] = torch.zeros_like(dummy["valid"])
            replay.push_data(dummy, np.arange(LANES), cut=np.array([True, False]))
            assert manager.save(n, {"replay": replay.state_dict()}) != path
    other = replay_of(cfg)
    other.load_state_dict(manager.load_latest().tree["replay"])
    assert len(list(path.glob("part_*"))) > 2
    same_state(replay.state_dict(), other.state_dict())
    for _ in range(3):
        block = feeder.block(5)
        for each in (replay, other):
            each.push_data(block, np.arange(LANES))
        batches = [each.sample(8) for each in (replay, other)]
        for name in ("obs", "next_obs", "reward", "index"):
            assert torch.equal(batches[0][name], batches[1][name])


@pytest.mark.parametrize("cfg", [{}, {"codec": "raw"}, {"codec": "raw", "lz4": True}, {"lz4": True}])
def test_few_new_rows_change_few_parts(small, cfg):
    replay, feeder = replay_of(cfg), Feeder()
    replay.push_data(feeder.block(95), np.arange(LANES))
    before = {s.name: s.stamp for s in segments_in(replay.state_dict())}
    replay.push_data(feeder.block(1), np.arange(LANES))
    after = {s.name: s.stamp for s in segments_in(replay.state_dict())}
    changed = [name for name in after if after[name] != before.get(name)]
    assert len(before) > 10 and 1 <= len(changed) <= 6


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.lists(st.tuples(st.integers(0, 99), st.integers(1, 30)), max_size=6))
def test_a_part_that_was_written_to_has_another_stamp(size, writes):
    marks = Stamps(stamps.SEGMENT_BYTES // size + 1)
    marks.size = size  # rows of a part
    values = np.zeros(200, np.int64)
    marks.touch(slice(0, 200))

    def stamped():
        spans = [(begin, min(begin + size, 200)) for begin in range(0, 200, size)]
        return [marks._of(k) for k in range(len(spans))], [values[a:b].tobytes() for a, b in spans]

    old_stamps, old_values = stamped()
    for number, (begin, length) in enumerate(writes, 1):
        where = slice(begin, begin + length) if number % 2 else np.arange(begin, begin + length)
        values[where] = number
        marks.touch(where)
    new_stamps, new_values = stamped()
    for old, new, before, after in zip(old_stamps, new_stamps, old_values, new_values, strict=True):
        assert before == after or old != new


def test_a_column_that_is_no_stack_is_saved_in_parts_from_then_on(small):
    replay, generator = Replay({"meta_maxlen": 1400}, LANES, NStepWindow(1, 0.9)), np.random.default_rng(0)
    for _ in range(12):
        block = Feeder().block(50)
        block["obs"] = torch.from_numpy(generator.integers(0, 256, (50, LANES, 3, 12, 12), dtype=np.uint8))
        replay.push_data(block, np.arange(LANES))
    assert not replay.storage.table.packed
    assert len(segments_in(replay.state_dict())) > 100  # of 2,000 bytes, where a row has more than 400


def test_small_replays_are_saved_in_one_piece():
    replay = replay_of({})
    replay.push_data(Feeder().block(20), np.arange(LANES))
    assert segments_in(replay.state_dict()) == []


def test_rows_that_all_lie_in_the_record_come_back_too(small, tmp_path):
    made = [Replay({"meta_maxlen": 200}, LANES, NStepWindow(1, 0.9)) for _ in range(2)]
    replay, manager, feeder = made[0], CheckpointManager(tmp_path, keep=1), Feeder()
    replay._writer = BlockWriter(replay.storage, 0)
    for n in range(60):  # the ring is written twice, by the compiled call
        block = feeder.block(3)
        block["obs"] = block["reward"][..., None].repeat(1, 1, 12)
        replay.push_data(block, np.arange(LANES))
        manager.save(n, {"replay": replay.state_dict()})
    made[1].load_state_dict(manager.load_latest().tree["replay"])
    same_state(replay.state_dict(), made[1].state_dict())
