"""How much the serial actor collects at a call, and which of its blocks follow each other."""

import itertools
import math

import numpy as np
import pytest
from actor_fakes import FakePolicy, make_manager

from nervex.utils.errors import SpecError

INF = math.inf


# How much is collected


@pytest.mark.parametrize(("traj_len", "n_sample"), [(1, 8), (1, 1), (7, 8), (7, 40), (INF, 5)])
def test_a_surplus_is_carried_to_the_next_call(managed, traj_len, n_sample):
    actor, _ = managed(traj_len=traj_len, n_sample=n_sample)
    longest = 6 if traj_len == INF else traj_len
    infos = [actor.generate_data()[1] for _ in range(40)]
    total = np.cumsum([info["total_sample"] for info in infos])
    asked = n_sample * np.arange(1, 41)
    assert (total >= asked).all() and (total < asked + 3 * longest).all()
    assert total[-1] == actor.sample_count
    assert (
        traj_len != 7 or n_sample != 8 or 0 in [info["total_step"] for info in infos]
    )  # 21 rows suffice for two calls


def test_a_stopped_call_is_made_up_for(managed):
    actor, _ = managed(make_manager(num=1))
    actor.generate_data(n_sample=10)
    assert actor.generate_data(n_sample=10, stop=lambda: actor.sample_count >= 14)[1]["total_sample"] == 4
    assert actor.generate_data(n_sample=10, stop=lambda: True)[1]["total_step"] == 0
    assert actor.generate_data(n_sample=10)[1]["total_sample"] == 6
    assert actor.generate_data(n_sample=10)[1]["total_sample"] == 10
    assert actor.generate_data(n_episode=5, stop=lambda: True)[1]["total_step"] == 0


def test_a_stopped_call_for_whole_episodes_is_made_up_for(managed):
    actor, _ = managed(make_manager(num=1), traj_len=INF, n_sample=None, n_episode=5)

    def steps():
        return actor.generate_data()[1]["total_episode"]

    info = actor.generate_data(stop=lambda: actor.episode_count >= 2)[1]
    assert info["stopped"] and info["total_episode"] == 2
    assert actor.generate_data(stop=lambda: actor.episode_count >= 3)[1]["total_episode"] == 1
    held = actor.state_dict()
    assert [steps(), steps()] == [2, 5]
    actor.load_state_dict(held)  # what is owed is part of the state
    assert [steps(), steps()] == [2, 5]


def test_whole_episodes_do_not_count_against_samples(managed):
    actor, _ = managed(make_manager(num=1))
    actor.generate_data(n_episode=9)
    assert actor.generate_data(n_sample=3)[1]["total_sample"] == 3


@pytest.mark.parametrize("nothing", [None, []])
def test_a_policy_that_never_gives_a_sample(managed, nothing):
    actor, _ = managed(policy=FakePolicy(3, lambda traj: nothing))
    with pytest.raises(SpecError, match=r"_get_train_sample gave no sample of the last \d+ env steps; it must return"):
        actor.generate_data(n_sample=8)


# Gaps between blocks


def gaps_of(blocks):
    """For each lane, at which of its blocks a gap is told."""
    gaps = [[], [], []]
    for block in blocks:
        told = np.zeros(len(block.lane_id), bool) if block.gap is None else block.gap
        assert told.dtype == bool and told.shape == block.lane_id.shape
        for lane, gap in zip(block.lane_id.tolist(), told.tolist(), strict=True):
            gaps[lane].append(gap)
    return gaps


@pytest.mark.parametrize(("manager", "traj_len"), [("base", 3), ("out_of_step", 2), ("base", INF)])
def test_the_first_block_and_the_one_after_a_reset_have_a_gap(managed, manager, traj_len):
    actor, policy = managed(manager, traj_len=traj_len)
    first, _ = actor.generate_data(n_sample=60)
    assert all(gaps == [True] + [False] * (len(gaps) - 1) and len(gaps) > 2 for gaps in gaps_of(first))
    actor.reset()
    assert policy.resets[-1] is None
    blocks, _ = actor.generate_data(n_sample=60)
    assert all(gaps == [True] + [False] * (len(gaps) - 1) and len(gaps) > 2 for gaps in gaps_of(blocks))
    for lane in range(3):  # the envs were reset too
        block, b = next((x, x.lane_id.tolist().index(lane)) for x in blocks if lane in x.lane_id)
        assert int(block.traj["episode_step"][0, b]) == 0 and block.traj["obs"][0, b, 2] == 0


def test_rows_that_the_policy_lets_go_leave_a_gap(managed):
    calls = itertools.count()
    actor, _ = managed(policy=FakePolicy(3, lambda traj: None if next(calls) in (3, 4) else traj), traj_len=2)
    blocks = []
    while len(blocks) < 6:
        actor._step(blocks.append, False)
    assert gaps_of(blocks) == [[True, False, False, True, False, False]] * 3
