"""What an evaluator's recorder keeps: whole episodes with their true final observations, each lane's own."""

import numpy as np
import pytest
from actor_envs import SeededEnv, ends_truncated, label_of, length_of, reward_of
from actor_fakes import FakePolicy, action_of

from nervex.worker.actor.env_manager.base_env_manager import BaseEnvManager
from nervex.worker.actor.idle_actor import IdleActor
from nervex.worker.actor.recorder import EpisodeRecorder
from nervex.worker.actor.serial_evaluator import BaseSerialEvaluator
from nervex.worker.command.serial_command import BaseSerialCommand

LANES = 3


def record(seed, episodes):
    kept, seeds = [], []

    class Env(SeededEnv):
        def seed(self, seed):
            super().seed(seed)
            seeds.append(seed)

    manager = BaseEnvManager(Env, [{"env": i} for i in range(LANES)], env_num=LANES)
    evaluator = BaseSerialEvaluator({}, manager, FakePolicy(LANES).mode, seed)
    evaluator.watch = EpisodeRecorder(lambda columns, terminated: kept.append((columns, terminated)))
    result = evaluator.evaluate(episodes)
    evaluator.close()
    return kept, result, {label_of(seed): seed for seed in seeds}


@pytest.fixture(scope="module")
def recorded():
    return record(5, 20)


def test_every_episode_is_whole(recorded):
    kept, result, by_label = recorded
    assert len(kept) == 20 == len(result.episode_return)
    for columns, terminated in kept:
        obs = columns["obs"]
        env, label = obs[0, :2]
        seed = by_label[int(label)]
        length = length_of(seed)
        assert terminated is not ends_truncated(seed)
        assert (obs[:, 0] == env).all() and (obs[:, 1] == label).all()
        assert obs[:, 2].tolist() == list(range(length + 1))  # the last one is the observation after the last step
        assert columns["action"].tolist() == [int(action_of(row)) for row in obs[:-1]]
        assert obs[1:, 3].tolist() == columns["action"].tolist()  # the env shows what it was told
        assert columns["reward"].tolist() == [reward_of(seed, step) for step in range(length)]
        assert columns["reward"].dtype == np.float32


def test_the_returns_are_those_of_the_evaluation(recorded):
    kept, result, _ = recorded
    found = sorted(float(columns["reward"].astype(np.float64).sum()) for columns, _ in kept)
    assert found == sorted(result.episode_return.tolist())


def test_every_lane_plays_its_share_whatever_the_lengths(recorded):
    lanes = [int(columns["obs"][0, 0]) for columns, _ in recorded[0]]
    assert sorted(np.bincount(lanes).tolist()) == [6, 7, 7]


def test_an_episode_that_a_fault_cut_off_is_let_go():
    kept = []
    recorder = EpisodeRecorder(lambda columns, terminated: kept.append(columns["obs"].tolist()))

    def step(obs, valid, ended):
        flags = np.array([ended])
        recorder(np.array([0]), np.array([obs]), np.array([0]), type("Step", (), {
            "valid": np.array([valid]), "reward": np.array([1.0]), "terminated": flags, "truncated": ~flags & False,
            "obs": np.array([obs + 1]),
        }))  # fmt: skip

    step(10, True, False)
    step(99, False, False)  # a reset without an end: the episode was cut off
    step(20, True, False)
    step(21, True, True)
    step(22, False, False)
    step(30, True, True)
    assert kept == [[20, 21, 22], [30, 31]]


def test_an_idle_actor_serves_a_command_and_has_no_state():
    policy = FakePolicy(1).mode
    policy.get_setting_collect = lambda info: {"step": info["env_step"]}
    actor = IdleActor(policy)
    learner = type("Learner", (), {"get_current_info": lambda self: {"learner_step": 7}})()
    BaseSerialCommand({}, learner, actor, policy=policy).step()
    assert actor.policy_version == 7 and actor.env_step == 0 and actor.env is None
    assert actor.metrics() == {} == actor.state_dict()
    actor.load_state_dict({})
    actor.close()
