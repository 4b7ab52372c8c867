import itertools
import math

import numpy as np
import pytest
import torch
from actor_envs import expected_rows, length_of, reward_of
from actor_fakes import ACTOR_CFG, FakePolicy, RowSink, check_rows, make_manager, make_replay, seeds_of, valid_count
from easydict import EasyDict

from nervex.data.window import NStepWindow
from nervex.rl_utils.adder import Adder
from nervex.utils.errors import ConfigError, EnvFault, NumericalError, SpecError
from nervex.worker.actor.env_manager.env_runner import episode_seed
from nervex.worker.actor.serial_actor import BaseSerialActor

INF = math.inf


# What is collected


@pytest.mark.parametrize(
    ("manager", "traj_len"),
    [("base", 1), ("base", 3), ("base", 7), ("base", INF), ("out_of_step", 1), ("out_of_step", 3), ("out_of_step", 7),
     ("out_of_step", INF), ("sync_subprocess", 3), ("sync_subprocess", INF), ("subprocess", 1), ("subprocess", INF)],
)  # fmt: skip
def test_every_row_of_every_lane_once(managed, manager, traj_len):
    actor, _ = managed(manager, traj_len=traj_len)
    sink = RowSink(3)
    total_step = total_episode = asked = 0
    longest = 6 if traj_len == INF else traj_len
    for n_sample in (1, 8, 40, 8):
        before = valid_count(sink)
        asked += n_sample
        blocks, info = actor.generate_data(n_sample=n_sample, consume=sink)
        assert blocks == []
        assert info["total_sample"] == valid_count(sink) - before
        assert asked <= valid_count(sink) < asked + 3 * longest  # the surplus is carried, not added up
        total_step += info["total_step"]
        total_episode += info["total_episode"]
        assert info["total_collect_step"] == actor.env_step == total_step
    check_rows(sink, seeds_of(3))
    assert actor.sample_count == valid_count(sink) <= actor.env_step
    assert actor.episode_count == total_episode
    if manager != "subprocess":  # there, how many rows a lane has is a matter of time
        assert all(len(rows) > 9 for rows in sink.rows)
    if traj_len != INF:
        assert {row_num for row_num, _ in sink.shapes} == {traj_len}
    if traj_len == 1:
        assert actor.sample_count == actor.env_step
    if (manager, traj_len) == ("base", 3):
        assert set(sink.shapes) == {(3, 3)}
    if (manager, traj_len) == ("out_of_step", 1):
        assert {width for _, width in sink.shapes} == {1, 2, 3}


def test_the_env_manager_is_the_given_one_until_it_is_closed(managed):
    manager = make_manager()
    actor, _ = managed(manager)
    assert actor.env is manager
    actor.generate_data(n_sample=8)
    actor.close()
    with pytest.raises(EnvFault, match="the env manager does not run: it was closed"):
        actor.generate_data(n_sample=8)


def test_n_episode(managed):
    actor, _ = managed(traj_len=INF, n_sample=None, n_episode=5)
    sink = RowSink(3)
    _, info = actor.generate_data(consume=sink)
    assert 5 <= info["total_episode"] < 5 + 3
    ends = [sum(row["terminated"] or row["truncated"] for row in rows) for rows in sink.rows]
    assert sum(ends) == info["total_episode"] == actor.episode_count
    check_rows(sink, seeds_of(3))


def test_shown_returns_are_those_of_the_last_episodes(managed):
    actor, _ = managed(make_manager(num=1), return_window=4)
    assert actor.metrics() == {"episode_count": 0}
    actor.generate_data(n_episode=6)
    seeds = [episode_seed(seeds_of(1)[0], k) for k in range(2, 6)]
    returns = [sum(reward_of(s, t) for t in range(length_of(s))) for s in seeds]
    assert list(actor.recent_return) == returns
    assert actor.metrics() == {"episode_count": 6, "episode_return": pytest.approx(np.mean(returns))}


def test_rows_carry_the_version_of_the_policy_that_made_them(managed):
    actor, _ = managed(traj_len=7)
    sink = RowSink(3)
    for version in range(28):
        actor.policy_version = version
        actor._step(sink, False)
    for row_num in range(28):
        assert {rows[row_num]["policy_version"] for rows in sink.rows} == {row_num}


def test_the_version_is_that_of_the_weights_that_chose_the_action(managed):
    """Lanes come back when they have finished, perhaps after the weights have changed."""
    versions = []

    def process(obs, output, timestep):
        return {"obs": obs, "chosen_by": output["version"], "reward": timestep.reward}

    actor, policy = managed("out_of_step", FakePolicy(3, process_transition=process))
    forward = policy.forward
    actor.policy.forward = lambda lane_id, data: {
        **forward(lane_id, data),
        "version": torch.full((len(lane_id),), actor.policy_version),
    }

    def take(block):
        chosen = block.traj["chosen_by"]
        assert block.traj["policy_version"].equal(chosen)
        versions.append((int(chosen.min()), actor.policy_version))

    for version in range(40):
        actor.policy_version = version
        actor._step(take, False)
    assert any(chosen < now for chosen, now in versions)  # some were late


def test_the_policy_is_reset_where_episodes_begin(managed):
    actor, policy = managed()
    sink = RowSink(3)
    actor.generate_data(n_sample=60, consume=sink)
    # every lane starts in step, so that the dummy rows of step t are in row t of each lane
    expected = [
        [lane for lane in range(3) if not sink.rows[lane][t]["valid"]] for t in range(len(sink.rows[0]))
    ]  # fmt: skip
    assert policy.resets == [lanes for lanes in expected if lanes]
    check_rows(sink, seeds_of(3))  # with ``since``, the policy's own count


def test_done_of_a_sample_means_terminated(managed):
    seen = []

    def process(obs, output, timestep):
        seen.append((timestep.done.clone(), timestep.info["truncated"].clone()))
        return EasyDict(obs=obs, next_obs=timestep.obs, done=timestep.done, deep={"reward": timestep.reward})

    actor, _ = managed(policy=FakePolicy(3, process_transition=process))
    blocks, _ = actor.generate_data(n_sample=100)
    done = torch.cat([b.traj["done"] for b in blocks])
    assert torch.equal(done, torch.cat([b.traj["terminated"] for b in blocks]))
    for at, (union, truncated) in enumerate(seen):  # in a timestep it is the union
        assert torch.equal(union, done[at] | truncated)
    assert any(truncated.any() for _, truncated in seen) and done.any()
    assert blocks[0].traj["deep"]["reward"].shape == (1, 3)


# Overlapping blocks


@pytest.mark.parametrize(
    ("manager", "traj_len", "nstep", "return_num"),
    [("base", 1, 3, 2), ("base", 1, 3, 3), ("base", 3, 3, 2), ("base", 7, 3, 3), ("base", 2, 5, 4), ("base", INF, 3, 2),
     ("out_of_step", 1, 3, 2), ("out_of_step", 3, 2, 1), ("subprocess", 1, 3, 2)],
)  # fmt: skip
def test_handed_back_rows_make_every_window_once(managed, manager, traj_len, nstep, return_num):
    adder = Adder()

    def windows(traj):
        traj = adder.get_traj(traj, traj_len, return_num)
        return adder.get_nstep_return_data(traj, nstep, traj_len, gamma=0.5)

    actor, _ = managed(manager, FakePolicy(3, windows), traj_len=traj_len)
    items = [[], [], []]

    def take(block):
        for lane, b in zip(block.lane_id.tolist(), range(block.traj.lane_num), strict=True):
            columns = block.traj.columns
            keys = ("obs", "next_obs", "reward", "done", "value_gamma", "terminated")
            items[lane] += [
                {k: columns[k][t, b].tolist() for k in keys} for t in range(len(block.traj)) if columns["valid"][t, b]
            ]

    for n_sample in (1, 5, 30, 30):
        actor.generate_data(n_sample=n_sample, consume=take)
    assert actor.dropped_window == 0
    assert actor.sample_count == sum(map(len, items))
    for lane in range(3):
        assert len(items[lane]) > 5 or manager == "subprocess"
        rows = list(itertools.islice(expected_rows(lane, seeds_of(3)[lane]), 300))
        starts = [i for i, row in enumerate(rows) if row["valid"]]
        for start, item in zip(starts, items[lane], strict=False):
            left = (
                next(k for k in itertools.count() if rows[start + k]["terminated"] or rows[start + k]["truncated"]) + 1
            )
            k = min(nstep, left)
            last = rows[start + k - 1]
            assert item == {
                "obs": rows[start]["obs"],
                "next_obs": last["next_obs"],
                "reward": [rows[start + i]["reward"] if i < k else 0.0 for i in range(nstep)],
                "done": last["terminated"],
                "terminated": last["terminated"],
                "value_gamma": 0.5**k,
            }


def test_dropped_windows_are_counted(managed):
    adder = Adder()
    handed_on = []

    def windows(traj):
        handed_on.append(int(traj["valid"].sum()))
        return adder.get_nstep_return_data(traj, 3)

    actor, _ = managed(policy=FakePolicy(3, windows), traj_len=INF)
    actor.generate_data(n_episode=20)
    assert actor.dropped_window > 0
    assert actor.metrics()["dropped_window"] == actor.dropped_window
    assert actor.dropped_window + actor.sample_count == sum(handed_on)


# Who consumes


def test_blocks_without_a_consumer_are_copies(managed):
    actor, _ = managed(traj_len=3)
    blocks, _ = actor.generate_data(n_sample=8)
    before = [{k: v.clone() for k, v in b.traj.columns.items()} for b in blocks]
    last = [b.traj.last_obs.clone() for b in blocks]
    actor.generate_data(n_sample=60)
    for block, columns, obs in zip(blocks, before, last, strict=True):
        assert all(torch.equal(block.traj[k], v) for k, v in columns.items())
        assert torch.equal(block.traj.last_obs, obs)
    sink = RowSink(3)
    for block in blocks:
        sink(block)
    check_rows(sink, seeds_of(3))


def test_on_policy_consumer_of_whole_episodes(managed):
    """Several episodes that end together come as one padded block; sums over valid rows are the returns."""
    actor, _ = managed(make_manager(num=8), traj_len=INF, n_sample=None, n_episode=20)
    blocks, _ = actor.generate_data()
    padded = [b for b in blocks if b.length is not None]
    assert padded and all(not b.traj["valid"].all() for b in padded)
    for block in blocks:
        valid = block.traj["valid"]
        assert valid.shape == block.traj["reward"].shape == block.traj["obs"].shape[:2]
        for b, lane in enumerate(block.lane_id.tolist()):
            steps = int(valid[:, b].sum())
            episode = int(block.traj["episode_id"][valid[:, b], b].unique())
            seed = episode_seed(seeds_of(8)[lane], episode)
            assert steps == length_of(seed)
            total = (block.traj["reward"][:, b] * valid[:, b]).sum()
            assert total == sum(reward_of(seed, t) for t in range(steps))
            assert block.traj["next_obs"][valid[:, b], b][-1].equal(block.traj.last_obs[b])
            for name, column in block.traj.columns.items():
                rest = column[len(valid) if block.length is None else int(block.length[b]) :, b]
                if name == "obs" and len(rest):  # the true last observation, as after a row that follows
                    assert rest[0].equal(block.traj.last_obs[b])
                    rest = rest[1:]
                assert not rest.any()
    for block in blocks:
        if block.length is not None:
            assert block.traj.length.tolist() == block.length.tolist()
            assert len(block.traj) == block.length.max()
    assert actor.episode_count == sum(len(b.lane_id) for b in blocks)


def test_two_actors_fill_one_replay(managed):
    replay = make_replay(6, NStepWindow(2, 0.9))
    actors = [managed(make_manager(seed=seed), traj_len=traj_len)[0] for seed, traj_len in ((0, 1), (1, 7))]
    sinks = [RowSink(3), RowSink(3)]
    for _ in range(5):
        for number, actor in enumerate(actors):

            def push(block, number=number):
                sinks[number](block)
                replay.push_data(block.traj.columns, block.lane_id + 3 * number, block.length)

            actor.generate_data(n_sample=9, consume=push)
    expected = []
    for sink in sinks:
        for rows in sink.rows:
            for i, row in enumerate(rows):
                k = 1 if row["terminated"] or row["truncated"] else 2
                if row["valid"] and i + k < len(rows):
                    expected.append((tuple(row["obs"]), tuple(rows[i + k - 1]["next_obs"])))
    plan = replay.window.plan(replay.storage, np.arange(replay.capacity))
    batch = replay.window.gather(replay.storage, plan.take(np.flatnonzero(plan.ok)))
    stored = list(zip(map(tuple, batch["obs"].tolist()), map(tuple, batch["next_obs"].tolist()), strict=True))
    assert sorted(stored) == sorted(expected) and len(set(stored)) == len(stored) > 60
    drawn = {tuple(obs) for _ in range(60) for obs in replay.sample(64)["obs"].tolist()}
    assert drawn == {obs for obs, _ in expected}


# Mistakes


@pytest.mark.parametrize("both", [{"n_sample": None, "n_episode": None}, {"n_sample": 1, "n_episode": 1}])
def test_exactly_one_amount(both):
    with pytest.raises(ConfigError, match=r"actor: give exactly one of n_sample and n_episode"):
        BaseSerialActor({**ACTOR_CFG, **both})


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_action_that_is_not_finite(managed, bad):
    actor, _ = managed()
    actor.policy.forward = lambda lane_id, data: {"action": torch.full((3,), bad)}
    with pytest.raises(NumericalError, match="the policy's action is not finite; its network returned NaN or infinity"):
        actor.generate_data()


def test_transitions_must_be_columns(managed):
    actor, _ = managed(policy=FakePolicy(3, process_transition=lambda obs, output, step: {"x": torch.zeros(4)}))
    with pytest.raises(SpecError, match=r"_process_transition returned 'x' of shape \[4\] for 3 lanes; .* one row per"):
        actor.generate_data()


def test_transitions_must_keep_their_keys(managed):
    names = iter("aab")

    def process(obs, output, step):
        return {next(names): step.reward}

    actor, _ = managed(policy=FakePolicy(3, process_transition=process))
    with pytest.raises(SpecError, match=r"returned the columns \['b'\] after \['a'\]; .* the same keys every time"):
        actor.generate_data(n_sample=50)
