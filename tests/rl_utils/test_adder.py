"""From rows to training items: every transition exactly once, whatever the blocks, and true at the ends of episodes."""

import math
from collections import deque

import numpy as np
import pytest
import torch
from easydict import EasyDict
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.windows import lane_rows, windows

from nervex.rl_utils import Adder, Trajectory
from nervex.utils.errors import ConfigError
from nervex.worker.actor.rollout import Rollout

GAMMA = 0.9


def tutorial_train_sample(traj_cache, nstep, traj_len, adder=None):
    """The call sequence of the tutorial's ``_get_train_sample``."""
    adder = adder or Adder(False, 1)
    return_num = 0 if nstep == 1 else nstep
    data = adder.get_traj(traj_cache, traj_len, return_num=return_num)
    data = adder.get_nstep_return_data(data, nstep, traj_len)
    return adder.get_train_sample(data)


def with_gamma(traj_cache, nstep, traj_len):
    adder = Adder(False, 1)
    data = adder.get_traj(traj_cache, traj_len, return_num=nstep)
    return adder.get_nstep_return_data(data, nstep, traj_len, gamma=GAMMA)


def columns_of(rows):
    """One row of several lanes, as the tutorial's ``_process_transition`` returns it."""
    return {
        "obs": np.array([[r.obs] for r in rows], np.float32),
        "next_obs": np.array([[r.next_obs] for r in rows], np.float32),
        "action": np.array([int(r.obs) % 3 for r in rows]),
        "reward": np.array([r.reward for r in rows], np.float32),
        "done": np.array([r.terminated or r.truncated for r in rows]),
    }


def reserved_of(rows, lane_id):
    reserved = {k: np.array([getattr(r, k) for r in rows]) for k in ("valid", "terminated", "truncated")}
    ids = {"policy_version": 0, "lane_id": lane_id, "episode_id": np.zeros(len(rows)), "episode_step": 0}
    return reserved | ids


def traj_of(rows):
    """All rows of one lane as a trajectory."""
    columns = columns_of(rows) | reserved_of(rows, np.zeros(len(rows)))
    names = ("obs", "next_obs", "action", "reward", "done", "valid", "terminated", "truncated")
    return Trajectory({k: torch.as_tensor(columns[k]).unsqueeze(1) for k in names})


def act(lanes, traj_len, get_train_sample, order):
    """Steps through the rows of the lanes as an actor does: lane ``b`` goes on whenever ``order`` names it.

    Returns:
        ``(training samples, rows handed on per lane, dropped windows)``.
    """
    rollout = Rollout(len(lanes), traj_len)
    cursor = np.zeros(len(lanes), dtype=np.int64)
    handed = np.zeros(len(lanes), dtype=np.int64)
    samples, dropped = [], 0
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
        handed[full] = cursor[full]
        last_obs = np.array([[lanes[b][cursor[b] - 1].next_obs] for b in full], np.float32)
        for block in rollout.blocks(full, last_obs):
            sample = get_train_sample(block.traj)
            dropped += sample.dropped
            samples += [{k: v.clone() for k, v in row.items()} for row in sample.to_rows()]  # the memory is reused
            rollout.keep_last(block.lane_id, block.traj.return_num)
    return samples, handed, dropped


def check_samples(samples, lanes, emitted, nstep, gamma):
    """Each transition among the first ``emitted[b]`` rows of lane b is there once, with the oracle's window."""
    expected, cut_short = {}, 0
    for rows, count in zip(lanes, emitted, strict=True):
        within = {r.obs for r in rows[:count]}
        for obs, window in windows(rows, nstep).items():
            if obs not in within:
                continue
            if window.cut_short and gamma is None:
                cut_short += 1
            else:
                expected[obs] = window
    assert sorted(s["obs"].item() for s in samples) == sorted(expected)
    for sample in samples:
        window = expected[sample["obs"].item()]
        reward = sample["reward"].tolist()
        assert (reward if nstep > 1 else [reward]) == list(window.reward)
        assert sample["next_obs"].item() == window.next_obs
        assert bool(sample["done"]) is bool(sample["terminated"]) is window.done
        assert sample["action"].item() == int(sample["obs"].item()) % 3
        if gamma is not None and nstep > 1:
            assert sample["value_gamma"].item() == pytest.approx(gamma**window.length, rel=1e-6)
    return cut_short


ENDS = st.sampled_from(["terminated", "truncated", "both"])
EPISODES = st.lists(st.tuples(st.integers(1, 6), ENDS), min_size=1, max_size=5)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(EPISODES, min_size=1, max_size=3),
    st.sampled_from([1, 3]),
    st.sampled_from([1, 3, 7, math.inf]),
    st.booleans(),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_every_transition_exactly_once_whatever_the_block_length(episodes, nstep, traj_len, bootstrap, in_step, random):
    """T of 1, nstep, 7 and whole episodes; lanes in step, or coming back in any order as from async envs."""
    lanes = [lane_rows(e, first_obs=1000 * b) for b, e in enumerate(episodes)]
    longest = max(map(len, lanes))
    everyone = range(len(lanes))
    order = [everyone] * longest if in_step else [{b for b in everyone if random.random() < 0.5} for _ in range(60)]

    def sample(traj):
        return with_gamma(traj, nstep, traj_len) if bootstrap else tutorial_train_sample(traj, nstep, traj_len)

    samples, handed, dropped = act(lanes, traj_len, sample, order)
    asked = 0 if math.isinf(traj_len) or (nstep == 1 and not bootstrap) else nstep
    emitted = np.maximum(handed - asked, 0)  # the rest waits for the rows that follow
    cut_short = check_samples(samples, lanes, emitted, nstep, GAMMA if bootstrap else None)
    assert dropped == cut_short


@pytest.mark.parametrize("traj_len", [1, 3, 7])
@pytest.mark.parametrize("nstep", [1, 3])
def test_a_long_stream_loses_nothing_but_its_newest_rows(nstep, traj_len):
    """Without the rows handed back by ``get_traj``, two windows of each cut would be lost, or twice there."""
    lanes = [lane_rows([(50, "terminated")], 0), lane_rows([(9, "terminated"), (41, "terminated")], 100)]
    samples, handed, dropped = act(
        lanes, traj_len, lambda t: tutorial_train_sample(t, nstep, traj_len), [range(2)] * 49
    )
    assert handed.tolist() == [49 // traj_len * traj_len] * 2 and dropped == 0
    transitions = 2 * (handed[0] - (nstep if nstep > 1 else 0)) - 1  # one dummy row in the second lane
    assert len(samples) == transitions == len({s["obs"].item() for s in samples})


class TestTrajOverlap:
    """Defect 1: the deque was emptied before the overlap was taken from it."""

    def rows(self, num):
        return [
            {
                "obs": torch.tensor([float(i)]),
                "next_obs": torch.tensor([i + 1.0]),
                "action": torch.tensor(0),
                "reward": torch.tensor(i + 0.5),
                "done": torch.tensor(False),
            }
            for i in range(num)
        ]

    def test_the_deque_keeps_the_rows_that_come_again(self):
        cache = deque(self.rows(11), maxlen=11)
        data = Adder().get_traj(cache, 11, return_num=3)
        assert [r["obs"].item() for r in data] == list(range(11))
        assert [r["obs"].item() for r in cache] == [8, 9, 10]

    @pytest.mark.parametrize("held", [1, 2, 3])
    def test_fewer_rows_than_come_again_are_all_kept(self, held):
        cache = deque(self.rows(held))
        data = Adder().get_traj(cache, 1, return_num=3)
        assert len(data) == held and [r["obs"].item() for r in cache] == list(range(held))
        assert Adder().get_nstep_return_data(data, 3, 1) == []

    def test_no_overlap_empties_the_deque(self):
        cache = deque(self.rows(4))
        assert len(Adder().get_traj(cache, 4)) == 4 and not cache

    def test_whole_episodes_need_no_overlap(self):
        cache = deque(self.rows(4))
        data = Adder().get_traj(cache, math.inf, return_num=3)
        assert len(data) == 4 and not cache

    def test_a_list_is_left_alone(self):
        rows = self.rows(5)
        Adder().get_traj(rows, 5, return_num=2)
        assert len(rows) == 5

    @pytest.mark.parametrize("nstep, traj_len", [(1, 1), (1, 7), (3, 1), (3, 3), (3, 7), (3, 11)])
    def test_windows_over_the_cuts_of_a_deque(self, nstep, traj_len):
        cache, found = deque(), []
        for row in self.rows(44):
            cache.append(row)
            if len(cache) - (nstep if nstep > 1 and row["obs"] >= traj_len else 0) >= traj_len:
                found += tutorial_train_sample(cache, nstep, traj_len)
        start = [s["obs"].item() for s in found]
        assert start == list(range(len(start))) and len(start) >= 44 - traj_len - nstep
        for s in found:
            first = s["obs"].item()
            assert s["next_obs"].item() == first + nstep
            assert s["reward"].reshape(-1).tolist() == [first + i + 0.5 for i in range(nstep)]

    def test_columns_tell_the_actor_how_many(self):
        traj = Trajectory.from_rows(self.rows(5))
        assert Adder().get_traj(traj, 5, return_num=3) is traj and traj.return_num == 3
        assert Adder().get_traj(traj, math.inf, return_num=3).return_num == 0


@settings(max_examples=60, deadline=None)
@given(EPISODES, st.sampled_from([1, 2, 3, 5]), st.sampled_from([None, GAMMA]), st.booleans())
def test_a_list_of_transitions_gives_what_columns_give(episodes, nstep, gamma, easy):
    rows = lane_rows(episodes, 0)
    traj = traj_of(rows)
    kind = EasyDict if easy else dict
    listed = [kind({k: v[i, 0] for k, v in traj.columns.items()}) for i in range(len(rows))]
    adder = Adder()
    expected = adder.get_nstep_return_data(adder.get_traj(traj, math.inf), nstep, math.inf, gamma).to_rows()
    found = adder.get_nstep_return_data(adder.get_traj(listed, math.inf), nstep, math.inf, gamma)
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)
    check_samples(found, [rows], [len(rows)], nstep, gamma)


def test_observations_and_actions_of_one_number_keep_their_dimension_in_a_list():
    """The reward of the tutorial's envs has shape (1,); an observation of that shape is a vector all the same."""
    row = {"obs": torch.zeros(1), "next_obs": {"a": torch.ones(1)}, "action": torch.zeros(1),
           "reward": torch.ones(1), "done": torch.zeros(1, dtype=torch.bool)}  # fmt: skip
    (sample,) = Adder().get_nstep_return_data([row, row], 2)[:1]
    assert sample["obs"].shape == sample["next_obs"]["a"].shape == sample["action"].shape == (1,)
    assert sample["reward"].shape == (2,) and sample["done"].shape == ()


@pytest.mark.parametrize("length, nstep", [(1, 3), (2, 4), (2, 7), (1, 9)])
def test_an_episode_shorter_than_the_window(length, nstep):
    """A whole episode of ``length`` rows in one block: the windows are padded with zeros."""
    rows = lane_rows([(length, "terminated")], 0)[:-1]
    traj = traj_of(rows)
    found = Adder().get_nstep_return_data(traj, nstep).to_rows()
    assert len(found) == length
    check_samples(found, [rows], [length], nstep, None)


class TestEndsOfEpisodes:
    """Defect 13: ``done`` of a window and the factor of short tails. One episode of four steps, n = 3, γ = 1/2."""

    def windows(self, end, gamma, nstep=3):
        rows = lane_rows([(4, end), (2, "terminated")], 0)
        traj = traj_of(rows)
        return Adder().get_nstep_return_data(traj, nstep, gamma=gamma)

    def test_terminated(self):
        out = self.windows("terminated", 0.5)
        assert out["reward"][:4, 0].tolist() == [[0.5, 1.5, 2.5], [1.5, 2.5, 3.5], [2.5, 3.5, 0], [3.5, 0, 0]]
        assert out["done"][:4, 0].tolist() == [False, True, True, True]
        assert out["next_obs"][:4, 0, 0].tolist() == [3, 4, 4, 4]
        assert out["valid"][:, 0].tolist() == [True, True, True, True, False, True, True, False]
        assert out.dropped == 0

    def test_truncated_windows_carry_the_factor(self):
        out = self.windows("truncated", 0.5)
        assert out["value_gamma"][:4, 0].tolist() == [0.125, 0.125, 0.25, 0.5]
        assert not out["done"][:4].any() and not out["terminated"][:4].any()
        assert out["next_obs"][:4, 0, 0].tolist() == [3, 4, 4, 4]
        assert out["valid"][:4].all() and out.dropped == 0

    def test_truncated_windows_without_a_factor_are_dropped_and_counted(self):
        out = self.windows("truncated", None)
        assert "value_gamma" not in out
        assert out["valid"][:, 0].tolist() == [True, True, False, False, False, True, True, False]
        assert out.dropped == 2

    def test_a_step_that_is_both_is_terminated(self):
        out = self.windows("both", None)
        assert out["done"][:4, 0].tolist() == [False, True, True, True] and out.dropped == 0

    def test_one_step_windows_tell_terminated_from_truncated(self):
        for end, expected in (("terminated", True), ("truncated", False), ("both", True)):
            out = self.windows(end, None, nstep=1)
            assert out["done"][3, 0].item() is expected
            assert out["reward"][:4, 0].tolist() == [0.5, 1.5, 2.5, 3.5] and out.dropped == 0

    def test_one_step_windows_carry_the_factor_too(self):
        assert self.windows("truncated", 0.5, nstep=1)["value_gamma"].unique().tolist() == [0.5]

    def test_an_episode_that_a_fault_broke_yields_only_whole_windows(self):
        rows = [r._replace(terminated=False) for r in lane_rows([(4, "terminated"), (3, "terminated")], 0)]
        traj = traj_of(rows)
        out = Adder().get_nstep_return_data(traj, 3, gamma=0.5)
        assert out["valid"][:, 0].tolist() == [True, True, False, False, False, True, False, False, False]
        assert out.dropped == 4

    def test_the_rows_that_were_given_are_left_as_they_are(self):
        rows = lane_rows([(4, "truncated")], 0)
        traj = traj_of(rows)
        before = {k: v.clone() for k, v in traj.columns.items()}
        for nstep in (1, 3):
            Adder().get_nstep_return_data(traj, nstep, gamma=0.5)
        assert traj.columns.keys() == before.keys()
        assert all(torch.equal(traj.columns[k], v) for k, v in before.items())

    def test_without_reserved_columns_done_is_terminated(self):
        rows = [{"obs": torch.zeros(2), "next_obs": torch.zeros(2), "reward": 1.0, "done": i == 1} for i in range(3)]
        found = Adder().get_nstep_return_data(rows, 2)
        assert [s["done"].item() for s in found] == [True, True]
        assert [s["reward"].tolist() for s in found] == [[1, 1], [1, 0]]  # the third has no successor yet


class TestUnrolls:
    def block(self, total, lanes=2):
        index = torch.arange(total).unsqueeze(1) + 100 * torch.arange(lanes)
        return Trajectory(
            {
                "obs": {"x": index.unsqueeze(-1).float()},
                "reward": index.float() + 1,
                "done": torch.zeros(total, lanes, dtype=torch.bool),
                "terminated": torch.zeros(total, lanes, dtype=torch.bool),
                "truncated": torch.zeros(total, lanes, dtype=torch.bool),
                "valid": torch.ones(total, lanes, dtype=torch.bool),
            },
            dropped=5,
        )

    def starts(self, out):
        return out["obs"]["x"][0, :, 0].tolist()

    def test_length_one_is_the_rows_themselves(self):
        block = self.block(3)
        assert Adder(unroll_len=1).get_train_sample(block) is block

    @pytest.mark.parametrize("tail", ["last", "drop", "null_padding"])
    def test_rows_that_fit(self, tail):
        out = Adder(unroll_len=3, last_fn_type=tail).get_train_sample(self.block(6))
        assert out.unroll_len == 3 and out["obs"]["x"].shape == (3, 4, 1) and out["reward"].shape == (3, 4)
        assert self.starts(out) == [0, 100, 3, 103]
        assert (out["obs"]["x"][1:] - out["obs"]["x"][:-1] == 1).all() and out["valid"].all() and out.dropped == 5

    def test_the_last_unroll_begins_earlier(self):
        out = Adder(unroll_len=3, last_fn_type="last").get_train_sample(self.block(7))
        assert self.starts(out) == [0, 100, 3, 103, 4, 104] and out["valid"].all()

    def test_the_rest_is_dropped(self):
        out = Adder(unroll_len=3, last_fn_type="drop").get_train_sample(self.block(8))
        assert self.starts(out) == [0, 100, 3, 103]
        empty = Adder(unroll_len=3, last_fn_type="drop").get_train_sample(self.block(2))
        assert empty["obs"]["x"].shape == (3, 0, 1) and empty.unroll_len == 3 and empty.dropped == 5

    @pytest.mark.parametrize("tail, total", [("null_padding", 4), ("null_padding", 2), ("last", 2)])
    def test_padding(self, tail, total):
        block = self.block(total, lanes=1)
        out = Adder(unroll_len=3, last_fn_type=tail).get_train_sample(block)
        padded = -total % 3
        assert out["obs"]["x"].shape[1] == math.ceil(total / 3)
        assert out["valid"][:, -1].tolist() == [True] * (3 - padded) + [False] * padded
        assert out["obs"]["x"][-padded:, -1, 0].tolist() == [total - 1.0] * padded  # the last row again
        assert out["reward"][-padded:, -1].tolist() == [0.0] * padded
        assert out["done"][-padded:, -1].all() and out["terminated"][-padded:, -1].all()
        assert block["valid"].all() and not block["done"].any()

    @pytest.mark.parametrize("tail", ["last", "drop", "null_padding"])
    def test_a_list_gives_the_same_unrolls(self, tail):
        block, adder = self.block(7, lanes=1), Adder(unroll_len=3, last_fn_type=tail)
        expected = adder.get_train_sample(block)
        found = adder.get_train_sample(block.to_rows())
        assert len(found) == expected["valid"].shape[1]
        for i, item in enumerate(found):
            assert item["obs"]["x"].tolist() == expected["obs"]["x"][:, i].tolist()
            assert torch.equal(item["valid"], expected["valid"][:, i])
        assert adder.get_train_sample([]) == []


class TestWhatItRefuses:
    def test_unknown_tail(self):
        with pytest.raises(ConfigError, match="Adder: unknown last_fn_type 'lats'; did you mean 'last'"):
            Adder(last_fn_type="lats")

    def test_unroll_len(self):
        with pytest.raises(ConfigError, match="Adder: unroll_len is 0, expected at least 1"):
            Adder(unroll_len=0)

    def test_nstep(self):
        with pytest.raises(ConfigError, match="nstep is 0, expected at least 1"):
            Adder().get_nstep_return_data([], 0)

    def test_nothing_gives_nothing(self):
        assert Adder().get_nstep_return_data(Adder().get_traj(deque(), 3, return_num=2), 2) == []
