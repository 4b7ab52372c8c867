"""State of the serial actor: to go on in the middle of blocks, and what happens when the envs cannot."""

import math

import numpy as np
import pytest
from actor_envs import expected_rows
from actor_fakes import (
    ACTOR_CFG,
    MANAGERS,
    FakePolicy,
    RowSink,
    check_rows,
    make_manager,
    make_replay,
    seeds_of,
    valid_count,
)

from nervex.data.window import NStepWindow
from nervex.torch_utils import load_state, save_state
from nervex.worker.actor.serial_actor import BaseSerialActor

INF = math.inf


def restored(state, tmp_path, policy, manager, fresh_seed=0, **cfg):
    """A new actor with the state, which went through a file."""
    save_state(tmp_path / "state", state)
    actor = BaseSerialActor({**ACTOR_CFG, **cfg})
    other = FakePolicy(3)
    other.since[:] = policy.since  # the policy's own state is none of the actor's business
    actor.policy = other.mode
    actor.attach(make_manager(**{**MANAGERS[manager], "seed": 99}), launch=False)
    assert actor.load_state_dict(load_state(tmp_path / "state")[0], fresh_seed) is None
    return actor, other


@pytest.mark.parametrize("traj_len", [1, 7, INF])
@pytest.mark.parametrize("done_before", [0, 5, 40])
def test_a_restored_actor_goes_on_exactly(managed, tmp_path, traj_len, done_before):
    actor, policy = managed(traj_len=traj_len)
    sink = RowSink(3)
    actor.generate_data(n_sample=done_before, consume=sink)
    for _ in range(2 if done_before else 0):
        actor._step(sink, False)  # into the middle of blocks
    actor.policy_version = 3
    other, _ = restored(actor.state_dict(), tmp_path, policy, "base", traj_len=traj_len)
    for _ in range(3):
        (mine, my_info), (theirs, their_info) = actor.generate_data(n_sample=20), other.generate_data(n_sample=20)
        assert {**my_info, "total_duration": 0} == {**their_info, "total_duration": 0}
        assert len(mine) == len(theirs)
        for one, two in zip(mine, theirs, strict=True):
            assert one.lane_id.tolist() == two.lane_id.tolist()
            assert one.traj.columns.keys() == two.traj.columns.keys()
            valid = one.traj["valid"]
            assert valid.equal(two.traj["valid"])
            assert all(v[valid].equal(two.traj[k][valid]) for k, v in one.traj.columns.items())
            assert one.traj.last_obs.equal(two.traj.last_obs)
    assert actor.metrics() == other.metrics()
    other.close()


@pytest.mark.parametrize("manager", ["out_of_step", "subprocess"])
def test_a_restored_asynchronous_actor_loses_no_row(managed, tmp_path, manager):
    actor, policy = managed(manager, traj_len=2)
    sink = RowSink(3)
    actor.generate_data(n_sample=30, consume=sink)
    state = actor.state_dict()
    assert state["pending"] or manager == "subprocess"  # lanes were under way
    other, _ = restored(state, tmp_path, policy, manager, traj_len=2)
    other.generate_data(n_sample=30, consume=sink)
    check_rows(sink, seeds_of(3))
    assert other.sample_count == valid_count(sink) >= 60
    assert state["owed"] <= 0 and other._owed == 60 - other.sample_count  # the surplus is part of the state
    other.close()


@pytest.mark.parametrize("fresh_seed", [0, 5])
def test_a_state_without_envs_begins_new_episodes_behind_a_gap(managed, tmp_path, fresh_seed):
    actor, policy = managed(traj_len=3)
    replay = make_replay(3, NStepWindow(2, 0.9))
    sink = RowSink(3)

    def push(block):
        sink(block)
        replay.push_data(block.traj.columns, block.lane_id, block.length, block.gap)

    actor.generate_data(n_sample=40, consume=push)
    actor._step(push, False)
    state = actor.state_dict(envs=False)
    before = [len(rows) for rows in sink.rows]
    other, other_policy = restored(state, tmp_path, policy, "base", fresh_seed, traj_len=3)
    assert other_policy.resets == [None] and not other_policy.since.any()
    assert (other.env_step, other.sample_count) == (actor.env_step, actor.sample_count)
    other.generate_data(n_sample=40, consume=push)
    seeds = np.random.SeedSequence((fresh_seed, state["counter"][0])).generate_state(3).tolist()
    for lane, rows in enumerate(sink.rows):
        new = rows[before[lane] :]
        fresh = expected_rows(lane, seeds[lane])
        first_id = int(state["episode_id"][lane]) + 1
        for got, want in zip(new, fresh, strict=False):
            assert got == {**want, "policy_version": 0, "episode_id": want["episode_id"] + first_id}
    plan = replay.window.plan(replay.storage, np.arange(replay.capacity))
    batch = replay.window.gather(replay.storage, plan.take(np.flatnonzero(plan.ok)))
    assert (batch["obs"][:, :2] == batch["next_obs"][:, :2]).all()  # one env and one episode
    assert len(batch["obs"]) > 60
    other.close()


def test_loading_replaces_the_shown_returns(managed):
    actor, _ = managed(make_manager(num=1))
    actor.generate_data(n_episode=2)
    other = BaseSerialActor(ACTOR_CFG, policy=FakePolicy(1).mode)
    other.attach(make_manager(num=1), launch=False)
    other.recent_return.extend([1e6] * 5)
    other.load_state_dict(actor.state_dict())
    assert list(other.recent_return) == list(actor.recent_return)
    other.close()
