"""A replay that writes blocks by the compiled call holds what one that never does holds."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nervex.data.block_writer import BlockWriter
from nervex.data.replay import Replay
from nervex.data.window import NStepWindow, SequenceWindow
from nervex.torch_utils.state_tree import encode_state

LANES = 3


def rows(generator, row_num, lanes=LANES, image=False):
    """Random rows [T, b, ...] of all widths of numbers; some columns not contiguous."""
    shape = (row_num, lanes)
    ended = generator.integers(0, 6, shape)
    obs = {
        "agent": torch.from_numpy(generator.standard_normal((*shape, 5)).astype(np.float32)),
        "far": torch.from_numpy(generator.standard_normal((*shape, 2, 2))),
        "half": torch.from_numpy(generator.standard_normal((*shape, 3)).astype(np.float16)),
    }
    if image:
        obs["screen"] = torch.from_numpy(generator.integers(0, 256, (*shape, 3, 12, 12), dtype=np.uint8))
    return {
        "obs": obs,
        "action": torch.from_numpy(generator.integers(0, 9, (lanes, row_num))).T,
        "reward": torch.from_numpy(generator.standard_normal(shape).astype(np.float32)),
        "valid": torch.from_numpy(generator.random(shape) < 0.9),
        "terminated": torch.from_numpy(ended == 1),
        "truncated": torch.from_numpy(ended == 2),
        "episode_step": torch.from_numpy(generator.integers(0, 9, shape, dtype=np.int32)),
        "lane_id": torch.arange(lanes, dtype=torch.int32).expand(shape),
    }


def replays(window, min_blocks=0, **cfg):
    """A replay that writes compiled from block ``min_blocks`` on, and one that does not."""
    made = [Replay({"meta_maxlen": 24, **cfg}, LANES, window) for _ in range(2)]
    made[0]._writer = BlockWriter(made[0].storage, min_blocks)
    return made


def assert_equal(one, two):
    (structure, tensors), (other_structure, other_tensors) = (encode_state(x.state_dict()) for x in (one, two))
    assert structure == other_structure
    assert tensors.keys() == other_tensors.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == other_tensors[name].dtype and torch.equal(tensor, other_tensors[name]), name
    assert (one.storage.flags == two.storage.flags).all()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 10_000),
    window=st.sampled_from([NStepWindow(1, 0.9), NStepWindow(3, 0.9), SequenceWindow(4, 1)]),
    cfg=st.sampled_from(
        [{}, {"sampler": "prioritized"}, {"max_reuse": 2}, {"max_staleness": 3.0}, {"codec": "raw", "lz4": True}]
    ),
    image=st.booleans(),
)
def test_the_two_ways_hold_the_same(seed, window, cfg, image):
    generator = np.random.default_rng(seed)
    fast, slow = replays(window, int(generator.integers(0, 3)), **cfg)
    for _ in range(int(generator.integers(1, 12))):
        lanes = np.arange(LANES)
        if generator.random() < 0.2:
            lanes = generator.permutation(LANES)[: generator.integers(1, LANES + 1)]
        block = rows(generator, int(generator.integers(1, 11)), len(lanes), image)
        gap = generator.random(len(lanes)) < 0.2 if generator.random() < 0.2 else None
        for replay in (fast, slow):
            replay.push_data(block, lanes, gap=gap)
        assert_equal(fast, slow)
        one, two = (replay.sample(4) for replay in (fast, slow))
        assert (one is None) == (two is None)
        if one is not None:
            for name in ("index", "weight", "reward"):
                assert torch.equal(one[name], two[name])
            assert torch.equal(one["obs"]["far"], two["obs"]["far"])


def test_most_blocks_of_a_run_take_the_compiled_way():
    generator = np.random.default_rng(0)
    replay, _ = replays(NStepWindow(1, 0.9))
    written = []
    write = replay._writer.write
    replay._writer.write = lambda *args: written.append(write(*args)) or written[-1]
    for _ in range(20):
        replay.push_data(rows(generator, 1), np.arange(LANES))
    assert written[0] is None  # the first rows of all lanes have gap marks
    assert all(done is not None for done in written[1:])
    assert written[-1][1] == int(replay.storage.column["valid"][written[-1][0]].sum())


def test_ends_of_several_agents_are_left_to_add():
    generator = np.random.default_rng(0)
    fast, slow = replays(NStepWindow(1, 0.9))
    for _ in range(4):
        block = rows(generator, 2)
        block["terminated"] = torch.from_numpy(generator.random((2, LANES, 2)) < 0.5)
        for each in (fast, slow):
            each.push_data(block, np.arange(LANES))
    assert_equal(fast, slow)


@pytest.mark.parametrize(
    "change",
    [
        lambda block: block.pop("reward"),
        lambda block: block.update(more=block["reward"]),
        lambda block: block.update(reward=block["reward"].double()),
        lambda block: block.update(reward=block["reward"][:, :, None]),
        lambda block: block["obs"].pop("far"),
        lambda block: block.update(action=block["action"][:, :2]),
    ],
)
def test_what_does_not_fit_is_left_to_add_which_says_so(change):
    generator = np.random.default_rng(0)
    replay, twin = replays(NStepWindow(1, 0.9))
    for _ in range(3):
        block = rows(generator, 2)
        for each in (replay, twin):
            each.push_data(block, np.arange(LANES))
    block = rows(generator, 2)
    change(block)
    assert replay._writer.write(block, np.arange(LANES)) is None
    with pytest.raises(ValueError, match=r"replay (column|holds the columns)|lack"):
        replay.push_data(block, np.arange(LANES))
    assert_equal(replay, twin)


def test_a_column_that_is_no_stack_of_frames_is_found_out_in_the_same_row():
    generator = np.random.default_rng(0)
    replay, twin = replays(NStepWindow(1, 0.9), meta_maxlen=3000)
    for _ in range(8):
        block = rows(generator, 50, image=True)
        for each in (replay, twin):
            each.push_data(block, np.arange(LANES))
    assert not replay.storage.table.packed and not twin.storage.table.packed  # told after 1,024 rows
    assert_equal(replay, twin)


@pytest.mark.parametrize("image", [False, True])
def test_tensors_that_are_filled_again_are_written_again(image):
    """As an actor hands on its blocks: the same tensors, now and then others, or one that does not lie in a row."""
    generator = np.random.default_rng(0)
    fast, slow = replays(NStepWindow(1, 0.9))

    def flat(row_num):
        columns = rows(generator, row_num)
        columns["obs"] = columns["obs"]["agent"]
        if image:
            columns["screen"] = torch.from_numpy(
                generator.integers(0, 256, (row_num, LANES, 3, 12, 12), dtype=np.uint8)
            )
        return {key: value.contiguous() for key, value in columns.items()}

    held = {size: flat(size) for size in (1, 2)}
    for i in range(14):
        size = 2 if i % 5 == 3 else 1
        columns = held[size]
        for key, value in flat(size).items():
            columns[key].copy_(value)
        if i == 8:
            columns = {**columns, "obs": columns["obs"].transpose(0, 1).contiguous().transpose(0, 1)}
        for replay in (fast, slow):
            replay.push_data(
                columns if replay is fast else {k: v.clone() for k, v in columns.items()}, np.arange(LANES)
            )
        assert_equal(fast, slow)
    assert fast._writer._held
