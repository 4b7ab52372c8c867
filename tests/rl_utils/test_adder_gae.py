"""The adder's advantages: every row once, right at cuts, ends and padding, from columns and from lists."""

import math
from collections import deque
from itertools import pairwise

import numpy as np
import pytest
import torch
from easydict import EasyDict
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import policy_gradient as oracle
from oracles.windows import lane_rows

from nervex.rl_utils import Adder, Trajectory
from nervex.utils.errors import SpecError
from nervex.worker.actor.rollout import Rollout

GAMMA, LAMBDA = 0.9, 0.8
ENDS = st.sampled_from(["terminated", "truncated"])
EPISODES = st.lists(st.tuples(st.integers(1, 6), ENDS), min_size=1, max_size=5)


def value_of(obs):
    """The values of the fake policy: no two alike, so that any misalignment is a wrong number."""
    return np.float32(math.sin(obs) * 10)


def columns_of(rows):
    return {
        "obs": np.array([[r.obs] for r in rows], np.float32),
        "value": np.array([value_of(r.obs) for r in rows]),
        "reward": np.array([r.reward for r in rows], np.float32),
        "done": np.array([r.terminated or r.truncated for r in rows]),
    }


def reserved_of(rows, lane_id):
    reserved = {k: np.array([getattr(r, k) for r in rows]) for k in ("valid", "terminated", "truncated")}
    return reserved | {"policy_version": 0, "lane_id": lane_id, "episode_id": np.zeros(len(rows)), "episode_step": 0}


def traj_of(rows, last_obs=None):
    """All rows of one lane as a trajectory."""
    columns = columns_of(rows) | reserved_of(rows, np.zeros(len(rows)))
    names = ("obs", "value", "reward", "done", "valid", "terminated", "truncated")
    return Trajectory({k: torch.as_tensor(columns[k]).unsqueeze(1) for k in names}, last_obs)


def expected_of(rows, stop=None):
    """Observation -> advantage of each transition of ``rows[:stop]``, where nothing beyond row ``stop`` is known."""
    stop = len(rows) if stop is None else stop
    value = [[value_of(r.obs)] for r in rows[:stop]] + [[value_of(rows[stop - 1].next_obs)]]
    cut = rows[:stop]
    masks = {k: [[getattr(r, k)] for r in cut] for k in ("terminated", "truncated", "valid")}
    adv = oracle.gae(value, [[r.reward] for r in cut], GAMMA, LAMBDA, **masks)
    return {r.obs: adv[t, 0] for t, r in enumerate(cut) if r.valid}


def check(found, expected):
    """``found`` rows hold each transition of ``expected`` once, with its advantage and return."""
    assert sorted(row["obs"].item() for row in found) == sorted(expected)
    for row in found:
        obs = row["obs"].item()
        assert row["adv"].item() == pytest.approx(expected[obs], rel=1e-5, abs=1e-4)
        assert row["return_"].item() == pytest.approx(expected[obs] + value_of(obs), rel=1e-5, abs=1e-4)


def act(lanes, traj_len, get_train_sample, order):
    """Steps through the lanes as an actor does; returns ``(rows of the samples, rows handed on per lane, cuts)``."""
    rollout = Rollout(len(lanes), traj_len)
    cursor = np.zeros(len(lanes), dtype=np.int64)
    samples, cuts = [], [[0] for _ in lanes]
    for names in order:
        lane_id = np.array([b for b in sorted(names) if cursor[b] < len(lanes[b])], dtype=np.int64)
        if not len(lane_id):
            continue
        rows = [lanes[b][cursor[b]] for b in lane_id]
        rollout.write(columns_of(rows), reserved_of(rows, lane_id), lane_id)
        cursor[lane_id] += 1
        full = rollout.full(lane_id, np.array([r.terminated or r.truncated for r in rows]))
        if not len(full):
            continue
        last_obs = np.array([[lanes[b][cursor[b] - 1].next_obs] for b in full], np.float32)
        for block in rollout.blocks(full, last_obs):
            sample = get_train_sample(block.traj)
            samples += [{k: v.clone() for k, v in row.items()} for row in sample.to_rows()]  # the memory is reused
            rollout.keep_last(block.lane_id, block.traj.return_num)
        for b in full:
            cuts[b].append(int(cursor[b]))
    return samples, cuts


def with_last_value(traj, traj_len):
    adder = Adder()
    traj = adder.get_traj(traj, traj_len)
    return adder.get_gae(traj, torch.tensor([value_of(o) for o in traj.last_obs[:, 0].tolist()]), GAMMA, LAMBDA)


def with_default(traj, traj_len):
    adder = Adder()
    traj = adder.get_traj(traj, traj_len, return_num=1)
    return adder.get_gae_with_default_last_value(traj, traj["done"][-1], GAMMA, LAMBDA)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(EPISODES, min_size=1, max_size=3),
    st.sampled_from([1, 2, 7, math.inf]),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_with_the_last_values_every_row_of_a_block_has_its_advantage(episodes, traj_len, in_step, random):
    """Blocks of one row, of several, and padded whole episodes; lanes in step, or in any order as from async envs."""
    lanes = [lane_rows(e, first_obs=1000 * b) for b, e in enumerate(episodes)]
    everyone = range(len(lanes))
    order = [everyone] * max(map(len, lanes))
    if not in_step:
        order = [{b for b in everyone if random.random() < 0.5} for _ in range(60)]
    samples, cuts = act(lanes, traj_len, lambda t: with_last_value(t, traj_len), order)
    expected = {}
    for rows, at in zip(lanes, cuts, strict=True):
        for start, stop in pairwise(at):
            expected |= expected_of(rows[start:stop])
    check(samples, expected)


@settings(max_examples=60, deadline=None)
@given(st.lists(EPISODES, min_size=1, max_size=3), st.sampled_from([2, 3, 7]))
def test_with_the_default_last_value_no_row_is_lost(episodes, traj_len):
    """Defects 1 and 10: a cut lost its last row. It comes again as the first row of the next block."""
    lanes = [lane_rows(e, first_obs=1000 * b) for b, e in enumerate(episodes)]
    size = min(map(len, lanes))
    samples, cuts = act(lanes, traj_len, lambda t: with_default(t, traj_len), [range(len(lanes))] * size)
    expected = {}
    for rows, at in zip(lanes, cuts, strict=True):
        for start, stop in pairwise(at):
            # the row handed back, the new ones; the last of them ends the recursion unless it terminated
            block = rows[max(start - 1, 0) : stop]
            ended = block[-1].terminated or not block[-1].valid
            whole = expected_of(block if ended else block[:-1]) if len(block) > 1 else {}
            expected |= {obs: adv for obs, adv in whole.items() if obs != block[-1].obs}
    check(samples, expected)
    for b, rows in enumerate(lanes):
        emitted = [r.obs for r in rows[: max(cuts[b][-1] - 1, 0)] if r.valid]
        assert sorted(s["obs"].item() for s in samples if s["obs"].item() // 1000 == b) == emitted


class TestByHand:
    """Rewards 1, 2, 4, values 8, 16, 32, γ = λ = 1/2; δ is 1 + 8 − 8, 2 + 16 − 16, and 4 + 64/2 − 32 with the last
    value 64."""

    def rows(self, **last):
        numbers = zip((1.0, 2.0, 4.0), (8.0, 16.0, 32.0), strict=True)
        rows = [{"reward": torch.tensor(r), "value": torch.tensor(v), "done": False} for r, v in numbers]
        rows[-1].update(last)
        return rows

    def adv(self, rows):
        return [r["adv"].item() for r in rows]

    def test_a_list(self):
        found = Adder().get_gae(self.rows(), torch.tensor(64.0), 0.5, 0.5)
        assert self.adv(found) == [1 + 2 / 4 + 4 / 16, 2 + 4 / 4, 4]
        assert [r["return_"].item() for r in found] == [9.75, 19, 36]

    @pytest.mark.parametrize("last_value", [64, 64.0, np.float32(64), torch.tensor([64.0]), torch.tensor([[64.0]])])
    def test_the_last_value_as_a_network_may_give_it(self, last_value):
        assert self.adv(Adder().get_gae(self.rows(), last_value, 0.5, 0.5))[2] == 4

    def test_values_and_rewards_of_shape_1(self):
        rows = [{k: v.reshape(1) if isinstance(v, torch.Tensor) else v for k, v in r.items()} for r in self.rows()]
        found = Adder().get_gae([EasyDict(r) for r in rows], torch.tensor([64.0]), 0.5, 0.5)
        assert self.adv(found) == [1.75, 3, 4]
        assert {found[0][k].shape for k in ("adv", "return_", "value", "reward")} == {()}

    def test_terminated_needs_no_last_value(self):
        for end in ({"done": True}, {"done": True, "truncated": False}):
            found = Adder().get_gae(self.rows(**end), math.nan, 0.5, 0.5)
            assert self.adv(found) == [1 + 2 / 4 - 28 / 16, 2 - 28 / 4, -28]

    def test_truncated_bootstraps(self):
        found = Adder().get_gae(self.rows(done=True, truncated=True), 64.0, 0.5, 0.5)
        assert self.adv(found) == [1.75, 3, 4]

    def test_truncated_inside_with_the_dummy_row(self):
        rows = [{"valid": True, "truncated": False, **r} for r in self.rows()]
        rows[0] |= {"done": True, "truncated": True}
        rows[1] |= {"valid": False}
        found = Adder().get_gae(rows, 64.0, 0.5, 0.5)
        assert self.adv(found) == [1, 4] and [r["value"].item() for r in found] == [8, 32]

    def test_rows_without_done(self):
        rows = [{k: v for k, v in r.items() if k != "done"} for r in self.rows()]
        assert self.adv(Adder().get_gae(rows, 64.0, 0.5, 0.5)) == [1.75, 3, 4]
        rows = [{**r, "terminated": i == 1} for i, r in enumerate(rows)]
        assert self.adv(Adder().get_gae(rows, 64.0, 0.5, 0.5)) == [1 - 14 / 4, -14, 4]
        rows[2] |= {"truncated": True}
        found = Adder().get_gae(rows, 64.0, 0.5, 0.5)
        assert [bool(r["done"]) for r in found] == [False, True, True]

    def test_the_rows_that_were_given_are_left_as_they_are(self):
        rows = self.rows()
        Adder().get_gae(rows, 64.0, 0.5, 0.5)
        assert all(r.keys() == {"reward", "value", "done"} for r in rows)

    def test_no_rows(self):
        assert Adder().get_gae([], 1.0, 0.5, 0.5) == Adder().get_gae_with_default_last_value([], True, 0.5, 0.5) == []

    def test_default_done(self):
        found = Adder().get_gae_with_default_last_value(self.rows(), True, 0.5, 0.5)
        assert self.adv(found) == [1 + 2 / 4 - 28 / 16, 2 - 28 / 4, -28]

    def test_default_not_done_leaves_the_last_row_for_the_next_block(self):
        cache = deque(self.rows())
        adder = Adder()
        data = adder.get_traj(cache, 3, return_num=1)
        found = adder.get_gae_with_default_last_value(data, False, 0.5, 0.5)
        assert self.adv(found) == [1 + 2 / 4, 2] and [r["value"].item() for r in cache] == [32]
        cache.append({"reward": torch.tensor(0.0), "value": torch.tensor(64.0), "done": True})
        found = adder.get_gae_with_default_last_value(adder.get_traj(cache, 2), True, 0.5, 0.5)
        assert self.adv(found) == [4 - 64 / 4, -64]

    def test_default_truncated_is_not_worth_zero(self):
        found = Adder().get_gae_with_default_last_value(self.rows(done=True, truncated=True), True, 0.5, 0.5)
        assert self.adv(found) == [1 + 2 / 4, 2]

    def test_default_by_lane_counts_what_it_drops(self):
        traj = Trajectory.from_rows(self.rows())
        two = Trajectory({k: v.expand(3, 3).clone() for k, v in traj.columns.items()}, dropped=5)
        two["truncated"][2, 2] = True
        found = Adder().get_gae_with_default_last_value(two, torch.tensor([True, False, True]), 0.5, 0.5)
        assert found["adv"][:, 0].tolist() == [1 + 2 / 4 - 28 / 16, 2 - 28 / 4, -28]
        assert found["adv"][:, 1].tolist() == found["adv"][:, 2].tolist() == [1.5, 2, 0]
        assert found["valid"][2].tolist() == [True, False, False] and found.dropped == 5 + 2
        assert two["valid"].all() and not two["terminated"].any()
        again = Adder().get_traj(two, 3, return_num=1)
        found = Adder().get_gae_with_default_last_value(again, torch.tensor([True, False, True]), 0.5, 0.5)
        assert len(found) == 2 and found.return_num == 1 and found.dropped == 5 and found["valid"].all()


class TestColumns:
    def block(self):
        """Two lanes: an episode of three rows, and one of one row that ended by its time limit, padded."""
        lanes = [lane_rows([(3, "truncated")], 0)[:-1], lane_rows([(1, "truncated")], 50)[:-1]]
        one, other = (traj_of(rows).columns for rows in lanes)
        padded = {k: torch.cat([v, torch.zeros_like(one[k][:2])]) for k, v in other.items()}
        columns = {k: torch.cat([v, padded[k]], dim=1) for k, v in one.items()}
        last_obs = torch.tensor([[3.0], [51.0]])
        return Trajectory(columns, last_obs, length=torch.tensor([3, 1])), lanes

    def test_padded_lanes_take_their_last_value_at_their_end(self):
        traj, lanes = self.block()
        assert (traj["value"][1:, 1] == 0).all()
        last_value = torch.tensor([value_of(3), value_of(51)])
        found = Adder().get_gae(traj, last_value, GAMMA, LAMBDA)
        check(found.to_rows(), expected_of(lanes[0]) | expected_of(lanes[1]))
        assert found["adv"][1:, 1].tolist() == [0, 0]
        assert (traj["value"][1:, 1] == 0).all() and "adv" not in traj

    def test_padded_lanes_by_default(self):
        """Each lane's own last row is the one that has no value after it, or that terminated."""
        traj, _ = self.block()
        found = Adder().get_gae_with_default_last_value(traj, True, GAMMA, LAMBDA)
        assert found["valid"].T.tolist() == [[True, True, False], [False] * 3] and found.dropped == 2
        traj["truncated"][0, 1] = False
        found = Adder().get_gae_with_default_last_value(traj, True, GAMMA, LAMBDA)
        assert found["terminated"].T.tolist() == [[False] * 3, [True, False, False]] and found.dropped == 1
        assert found["adv"][0, 1].item() == pytest.approx(50.5 - value_of(50))

    def test_a_block_that_ends_with_a_dummy_row_by_default(self):
        rows = lane_rows([(2, "truncated")], 0)
        found = Adder().get_gae_with_default_last_value(traj_of(rows), True, GAMMA, LAMBDA)
        assert (
            found.dropped == 0
            and not found["terminated"].any()
            and found["valid"][:, 0].tolist() == [True, True, False]
        )
        check(found.to_rows(), expected_of(rows))

    def test_what_belongs_to_the_block_stays(self):
        traj, _ = self.block()
        traj.dropped = 4
        found = Adder().get_gae(traj, torch.zeros(2), GAMMA, LAMBDA)
        assert found.last_obs is traj.last_obs and found.length is traj.length and found.dropped == 4
        assert found.columns.keys() == traj.columns.keys() | {"adv", "return_"}
        assert all(found[k].data_ptr() == traj[k].data_ptr() for k in traj.columns)  # no copies
        assert torch.equal(found["return_"], found["adv"] + found["value"]) and found["adv"].dtype == torch.float32

    def test_a_last_column_of_size_1(self):
        traj, _ = self.block()
        expected = Adder().get_gae(traj, torch.ones(2), GAMMA, LAMBDA)
        traj.columns["value"] = traj["value"].unsqueeze(-1)
        found = Adder().get_gae(traj, torch.ones(2, 1), GAMMA, LAMBDA)
        assert torch.equal(found["adv"], expected["adv"]) and found["value"].shape == (3, 2)

    def test_rows_that_come_again_wait(self):
        rows = lane_rows([(6, "terminated")], 0)[:5]
        traj = Adder().get_traj(traj_of(rows, torch.tensor([[5.0]])), 5, return_num=2)
        found = Adder().get_gae(traj, torch.tensor([value_of(5)]), GAMMA, LAMBDA)
        assert len(found) == 3 and found.return_num == 2
        everything = expected_of(rows)
        check(found.to_rows(), {obs: everything[obs] for obs in (0, 1, 2)})

    def test_unrolls_of_it(self):
        traj = traj_of(lane_rows([(6, "terminated")], 0)[:6])
        adder = Adder(unroll_len=3)
        found = adder.get_train_sample(adder.get_gae(traj, 0.0, GAMMA, LAMBDA))
        assert found["adv"].shape == found["return_"].shape == (3, 2)


MISSING_ROW = (
    "Adder.get_gae: a truncated row is followed by one of the next episode, so the value of its final observation is "
    "missing; keep the dummy row between them ('valid' False), or cut the rows there"
)


@pytest.mark.parametrize("default", [False, True])
@pytest.mark.parametrize("at", [0, 1])
def test_a_missing_final_observation_is_said(default, at):
    rows = [{"reward": 1.0, "value": 2.0, "done": i == at, "truncated": i == at} for i in range(3)]
    for data in (rows, Trajectory.from_rows(rows)):
        with pytest.raises(SpecError) as e:
            if default:
                Adder().get_gae_with_default_last_value(data, False, GAMMA, LAMBDA)
            else:
                Adder().get_gae(data, 1.0, GAMMA, LAMBDA)
        assert str(e.value) == MISSING_ROW


@pytest.mark.parametrize(
    "changed, last_value, message",
    [
        ({"value": None}, 1.0, "Adder.get_gae: the rows have no 'value'; return it from _process_transition"),
        ({"value": torch.zeros(4, 2, 3)}, 1.0, "Adder.get_gae: 'value' has shape [4, 2, 3], expected [4, 2]"),
        ({"reward": torch.zeros(4, 2, 3)}, 1.0, "Adder.get_gae: 'reward' has shape [4, 2, 3], expected [4, 2]"),
        ({}, torch.zeros(3), "Adder.get_gae: 'last_value' has shape [3], expected [2]"),
        ({}, torch.zeros(1), "Adder.get_gae: 'last_value' has shape [1], expected [2]"),
    ],
)
def test_a_missing_column_or_wrong_shape_is_said(changed, last_value, message):
    columns = dict.fromkeys(("terminated", "truncated"), torch.zeros(4, 2, dtype=torch.bool))
    columns |= {"valid": torch.ones(4, 2, dtype=torch.bool), "value": torch.zeros(4, 2), "reward": torch.zeros(4, 2)}
    columns = {k: v for k, v in (columns | changed).items() if v is not None}
    with pytest.raises(SpecError) as e:
        Adder().get_gae(Trajectory(columns), last_value, GAMMA, LAMBDA)
    assert str(e.value) == message
