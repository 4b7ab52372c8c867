import math
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nervex.torch_utils import load_state, save_state
from nervex.utils.errors import SpecError
from nervex.worker.actor.rollout import RESERVED, Rollout

INF = math.inf
LANES = 3


def reserved(lanes, number, **over):
    values = {"valid": np.ones(len(lanes), bool), "policy_version": number, "lane_id": lanes, "episode_id": 0 * lanes}
    values |= {k: np.zeros(len(lanes), bool) for k in ("terminated", "truncated")}
    return values | {"episode_step": 0 * lanes} | over


def write(rollout, lanes, numbers):
    """Writes one row per lane; every row has a number of its own."""
    lanes, numbers = np.array(lanes), np.array(numbers)
    row = {"obs": {"id": torch.from_numpy(numbers)}, "x": (numbers[:, None] * np.ones(2)).astype(np.float32)}
    rollout.write(row, reserved(lanes, numbers), lanes)


def rows_of(block):
    """Numbers of the rows of each lane."""
    columns = block.traj.columns
    out = {}
    for b, lane in enumerate(block.lane_id.tolist()):
        length = len(block.traj) if block.length is None else int(block.length[b])
        ids = columns["obs"]["id"][:length, b]
        assert (columns["x"][:length, b] == ids[:, None]).all()
        assert columns["policy_version"][:length, b].equal(ids)
        assert columns["valid"][:length, b].all() and not columns["valid"][length:, b].any()
        assert block.traj.last_obs["id"][b] == lane
        out[lane] = ids.tolist()
    return out


actions = st.lists(
    st.tuples(
        st.one_of(st.just([0, 1, 2]), st.permutations([0, 1, 2]).map(lambda p: p[:2]), st.just([1])),
        st.lists(st.booleans(), min_size=3, max_size=3),
    ),
    max_size=30,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from([1, 2, 5, INF]), st.integers(0, 4), actions)
def test_lanes_are_cut_and_carried_like_lists(traj_len, return_num, steps):
    rollout = Rollout(LANES, traj_len)
    held = [[] for _ in range(LANES)]
    fresh = [0] * LANES  # rows since the last cut
    number = 0
    for lanes, ends in steps:
        numbers = list(range(number, number + len(lanes)))
        number += len(lanes)
        write(rollout, lanes, numbers)
        for lane, value in zip(lanes, numbers, strict=True):
            held[lane].append(value)
            fresh[lane] += 1
        ended = np.array([ends[lane] for lane in lanes])
        full = rollout.full(np.array(lanes), ended)
        expected = [i for i in lanes if (ends[i] if traj_len == INF else fresh[i] >= traj_len)]
        assert full.tolist() == expected
        if not len(full):
            continue
        blocks = rollout.blocks(full, {"id": full.copy()})
        got = {}
        for block in blocks:
            got |= rows_of(block)
            rollout.keep_last(block.lane_id, return_num)
        assert got == {lane: held[lane] for lane in expected}
        assert traj_len != INF or len(blocks) == 1
        for lane in expected:
            held[lane] = held[lane][len(held[lane]) - min(return_num, len(held[lane])) :]
            fresh[lane] = 0
        assert rollout.cursor.tolist() == [len(rows) for rows in held]


def test_reserved_columns_have_fixed_types():
    rollout = Rollout(LANES, 1)
    write(rollout, [0, 1, 2], [5, 6, 7])
    block = rollout.blocks(np.arange(3), {"id": np.arange(3)})[0]
    for name, dtype in RESERVED.items():
        assert block.traj[name].numpy().dtype == dtype and block.traj[name].shape == (1, 3)
    assert set(block.traj.columns) == {"obs", "x", *RESERVED}


def test_episodes_longer_than_the_first_allocation():
    rollout = Rollout(2, INF)
    for t in range(700):
        write(rollout, [0, 1], [2 * t, 2 * t + 1])
    block = rollout.blocks(np.array([1]), {"id": np.array([1])})[0]
    assert rows_of(block) == {1: list(range(1, 1400, 2))}


@pytest.mark.parametrize("traj_len", [4, INF])
def test_state_in_the_middle_of_blocks(tmp_path, traj_len):
    rollout = Rollout(LANES, traj_len)
    state = Rollout(LANES, traj_len).state_dict()  # before the first row
    rollout.load_state_dict(state)
    write(rollout, [0, 1, 2], [0, 1, 2])
    rollout.blocks(np.array([0]), {"id": np.array([0])})
    rollout.keep_last(np.array([0]), 1)
    write(rollout, [0, 2], [3, 4])
    save_state(tmp_path / "state", rollout.state_dict())
    other = Rollout(LANES, traj_len)
    write(other, [1, 2], [90, 91])
    other.load_state_dict(load_state(tmp_path / "state")[0])
    for part in (rollout, other):
        write(part, [2, 1], [5, 6])
    for lane, expected in ((0, [0, 3]), (1, [1, 6]), (2, [2, 4, 5])):
        lanes = np.array([lane])
        assert rows_of(other.blocks(lanes, {"id": lanes})[0]) == rows_of(rollout.blocks(lanes, {"id": lanes})[0])
        assert rows_of(other.blocks(lanes, {"id": lanes})[0]) == {lane: expected}
    assert other.carried.tolist() == [1, 0, 0]


def test_a_state_is_a_copy():
    rollout = Rollout(1, INF)
    write(rollout, [0], [1])
    state = rollout.state_dict()
    rollout.keep_last(np.array([0]), 0)
    write(rollout, [0], [2])
    assert state["cursor"].tolist() == [1] and state["column"]["obs/id"].tolist() == [[1]]


def test_rows_must_keep_their_columns():
    rollout = Rollout(LANES, 5)
    write(rollout, [0, 1, 2], [0, 1, 2])
    lanes = np.arange(3)
    with pytest.raises(
        SpecError, match=r"returned the columns \['y'\] after \['obs/id', 'x'\]; it must return the same"
    ):
        rollout.write({"y": lanes}, reserved(lanes, 0), lanes)


def test_a_row_with_one_more_column():
    rollout = Rollout(LANES, 5)
    lanes = np.arange(3)
    for _ in range(2):
        rollout.write({"y": lanes, "z": {"a": lanes}}, reserved(lanes, 0), lanes)
    for row in ({"y": lanes, "z": {"a": lanes}, "x": lanes}, {"y": lanes, "z": {"a": lanes, "b": lanes}}):
        with pytest.raises(SpecError, match="it must return the same keys every time"):
            rollout.write(row, reserved(lanes, 0), lanes)
    assert rollout.cursor.tolist() == [2, 2, 2]


class Pair(NamedTuple):
    first: np.ndarray
    second: np.ndarray


@pytest.mark.parametrize("traj_len", [2, INF])
def test_rows_of_changing_kinds_are_one_kind_of_columns(traj_len):
    rollout = Rollout(LANES, traj_len)
    lanes = np.arange(3)
    numbers = iter(range(100))
    expected = []
    for _ in range(2):
        for kind in (dict, Pair, MappingProxyType):
            a, b = (np.full(3, next(numbers)) for _ in range(2))
            pair = Pair(a, b) if kind is Pair else kind({"first": a, "second": b})
            row = {"z": pair, "valid": "a reserved name is left out", "a": torch.from_numpy(b)}
            rollout.write(row, reserved(lanes, 0), lanes)
            expected.append([a[0], b[0]])
            if len(expected) % 2 == 0:
                columns = rollout.blocks(lanes, {"a": lanes})[0].traj.columns
                assert columns["z"]["first"][:, 1].tolist() == [e[0] for e in expected[-2:]]
                assert columns["z"]["second"].equal(columns["a"]) and columns["a"][:, 2].tolist() == [
                    e[1] for e in expected[-2:]
                ]
                rollout.keep_last(lanes, 0)


def test_blocks_of_other_lengths_and_after_growth():
    rollout = Rollout(2, INF)
    lanes = np.arange(2)
    for begin, size in ((0, 5), (1000, 3), (2000, 200), (3000, 3)):
        for t in range(size):
            write(rollout, [0, 1], [begin + 2 * t, begin + 2 * t + 1])
        if size < 200:  # these rows are let go unseen
            expected = {lane: list(range(begin + lane, begin + 2 * size, 2)) for lane in (0, 1)}
            assert rows_of(rollout.blocks(lanes, {"id": lanes})[0]) == expected
        rollout.keep_last(lanes, 0)


@pytest.mark.parametrize("bad", [np.zeros((1, 3)), np.zeros(()), np.zeros(2)])
def test_rows_must_be_one_per_lane(bad):
    lanes = np.arange(3)
    with pytest.raises(SpecError, match=r"_process_transition returned 'y' of shape .* for 3 lanes; it is called with"):
        Rollout(LANES, 5).write({"y": bad}, reserved(lanes, 0), lanes)
