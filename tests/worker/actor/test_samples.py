"""What actors make of a policy's samples, and the actions that they draw themselves."""

import itertools

import numpy as np
import pytest
import torch
from actor_envs import ACTION_NUM, expected_rows
from actor_fakes import FakePolicy, RowSink, make_replay, seeds_of
from easydict import EasyDict

from nervex.envs.base_env import EnvElementInfo, spec_tree
from nervex.worker.actor.serial_actor import random_action


@pytest.mark.parametrize(
    "form", [list, lambda traj: traj.to_rows(), lambda traj: [EasyDict(r) for r in traj.to_rows()]]
)
def test_samples_may_be_lists(managed, form):
    actor, _ = managed(policy=FakePolicy(3, form), traj_len=3)
    replay = make_replay(3, None)
    actor.generate_data(n_sample=40, consume=lambda block: replay.push_data(block.traj.columns))
    assert replay.count == actor.sample_count >= 40
    batch = replay.sample(300)
    assert batch["valid"].all() and batch["done"].equal(batch["terminated"]) and batch["truncated"].any()
    per_lane = [list(itertools.islice(expected_rows(i, s), 60)) for i, s in enumerate(seeds_of(3))]
    known = {tuple(row["obs"]): row for rows in per_lane for row in rows if row["valid"]}
    for i in range(300):
        row = known[tuple(batch["obs"][i].tolist())]
        assert batch["next_obs"][i].tolist() == row["next_obs"] and batch["reward"][i] == row["reward"]
        assert bool(batch["done"][i]) == row["terminated"]


@pytest.mark.parametrize("nothing", [None, []])
def test_a_policy_may_keep_everything_back(managed, nothing):
    actor, _ = managed(policy=FakePolicy(3, lambda traj: nothing))
    blocks, info = actor.generate_data(n_episode=4)
    assert blocks == [] and info["total_sample"] == 0 and info["total_step"] > 4


@pytest.mark.parametrize("reward_shape", [(), (2,), (4,)])
def test_finished_items_may_have_several_rewards(managed, reward_shape):
    """A list of items without a dimension for lanes, whatever the size of their reward."""

    def items(traj):
        return [
            {"obs": row["obs"], "reward": torch.full(reward_shape, float(row["reward"])), "tag": row["action"]}
            for row in traj.to_rows()
        ]

    actor, _ = managed(policy=FakePolicy(3, items), traj_len=3)
    blocks, _ = actor.generate_data(n_sample=20)
    for block in blocks:
        columns, count = block.traj.columns, len(block.traj)
        assert columns["valid"].shape == (count, 1) and columns["valid"].all()
        assert columns["obs"].shape == (count, 1, 4) and columns["reward"].shape == (count, 1, *reward_shape)
    assert actor.sample_count == sum(len(b.traj) for b in blocks) >= 20


# Random actions


@pytest.mark.parametrize("manager", ["base", "out_of_step", "subprocess"])
def test_random_collection_and_then_the_policy(managed, manager):
    torch.manual_seed(0)

    def process(obs, output, timestep):
        row = {"obs": obs, "action": output["action"], "next_obs": timestep.obs, "reward": timestep.reward}
        return row | {"since": output["since"]}

    policy = FakePolicy(3, process_transition=process)
    actor, _ = managed(manager, policy, traj_len=2)
    sink = RowSink(3)
    actor.generate_data(n_sample=30, consume=sink, random=True)
    # the policy was asked, and all but the action is its own
    assert all(row["since"] == row["episode_step"] for rows in sink.rows for row in rows)
    random_rows = [len(rows) for rows in sink.rows]
    actor.generate_data(n_sample=40, consume=sink)
    actions = [row["action"] for rows in sink.rows for row in rows]
    assert len(set(actions)) > 0.7 * len(actions) and all(0 <= a < ACTION_NUM for a in actions)
    for rows, count in zip(sink.rows, random_rows, strict=True):
        for row, after in itertools.pairwise(rows):
            assert row["next_obs"] == after["obs"]
            if row["valid"]:
                assert row["next_obs"][3] == row["action"]
        by_policy = [r["action"] == int(np.dot(np.array(r["obs"]), [331, 7, 13, 17]) % ACTION_NUM) for r in rows]
        assert sum(by_policy[:count]) <= count / 2 and all(by_policy[count + 2 :])


def element(shape, kind, dtype=np.float32, **bounds):
    return EnvElementInfo(shape, {"dtype": dtype, "kind": kind, **bounds})


@pytest.mark.filterwarnings("error")
def test_random_actions_fill_their_space():
    torch.manual_seed(0)
    spec = spec_tree(
        {
            "a": element(5, "discrete", np.int64),
            "b": element((2, 4), "multi_discrete", np.int64),
            "c": element((3,), "multi_binary", np.int8),
            "d": element((2,), "box", min=np.array([-2.0, 10.0]), max=np.array([2.0, 11.0])),
            "e": {"deep": element((2, 3), "box")},
        },
        is_action=True,
    )
    action = random_action(spec, 400)
    assert action["a"].dtype == torch.int64 and action["a"].shape == (400,)
    assert set(action["a"].tolist()) == {0, 1, 2, 3, 4}
    assert action["b"].shape == (400, 2)
    assert set(action["b"][:, 0].tolist()) == {0, 1} and set(action["b"][:, 1].tolist()) == {0, 1, 2, 3}
    assert (
        action["c"].shape == (400, 3)
        and action["c"].dtype == torch.int8
        and set(action["c"].unique().tolist()) == {0, 1}
    )
    box = action["d"]
    assert box.dtype == torch.float32 and box.shape == (400, 2)
    torch.testing.assert_close(box.mean(0), torch.tensor([0.0, 10.5]), atol=0.2, rtol=0)
    assert (box[:, 0].abs() <= 2).all() and (box[:, 1] >= 10).all() and (box[:, 1] <= 11).all()
    assert box[:, 0].std() > 1
    free = action["e"]["deep"]
    assert free.shape == (400, 2, 3) and free.std() == pytest.approx(1, abs=0.1)
