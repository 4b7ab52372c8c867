"""Rows of Tianshou for ``benchmarks/truncation.py``, for the interpreter that has it: a line of JSON each."""

from typing import Any

import torch
from ring import GAMMA, STATES, Ring, report
from tianshou.algorithm import DQN, PPO
from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
from tianshou.algorithm.modelfree.reinforce import ProbabilisticActorPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Collector, VectorReplayBuffer
from tianshou.env import DummyVectorEnv
from tianshou.trainer import OffPolicyTrainerParams, OnPolicyTrainerParams
from tianshou.utils.net.common import Net
from tianshou.utils.net.discrete import DiscreteActor, DiscreteCritic


def learned(kind: str, end: str) -> list[float]:
    """Trains, and returns the value of each state, [4]."""
    env, optim, obs = Ring(end), AdamOptimizerFactory(lr=0.01), torch.eye(STATES)
    envs = DummyVectorEnv([lambda: Ring(end)])
    envs.seed(0)
    shown = {"max_epochs": 1, "test_collector": None, "verbose": False, "show_progress": False}
    net = Net(state_shape=(STATES,), action_shape=2 if kind == "dqn" else 0, hidden_sizes=[16])
    if kind == "dqn":
        policy: Any = DiscreteQLearningPolicy(model=net, action_space=env.action_space, eps_training=0.1)
        algorithm: Any = DQN(policy=policy, optim=optim, gamma=GAMMA, target_update_freq=10)
        collector = Collector(algorithm, envs, VectorReplayBuffer(4000, 1), exploration_noise=True)
        collector.reset()
        collector.collect(n_step=64, random=True)
        algorithm.run_training(
            OffPolicyTrainerParams(training_collector=collector, epoch_num_steps=15000, batch_size=32,
                                   collection_step_num_env_steps=4, update_step_num_gradient_steps_per_sample=0.25,
                                   **shown)
        )  # fmt: skip
        with torch.no_grad():
            value = net(obs)[0].max(-1).values
    else:
        critic_net = Net(state_shape=(STATES,), hidden_sizes=[16])
        actor = DiscreteActor(preprocess_net=Net(state_shape=(STATES,), hidden_sizes=[16]), action_shape=2,
                              softmax_output=False)  # fmt: skip
        critic = DiscreteCritic(preprocess_net=critic_net)
        policy = ProbabilisticActorPolicy(
            actor=actor, dist_fn=lambda logit: torch.distributions.Categorical(logits=logit),
            action_space=env.action_space, action_scaling=False,
        )  # fmt: skip
        algorithm = PPO(policy=policy, critic=critic, optim=optim, gamma=GAMMA)
        collector = Collector(algorithm, envs, VectorReplayBuffer(64, 1))
        collector.reset()
        algorithm.run_training(
            OnPolicyTrainerParams(training_collector=collector, epoch_num_steps=8000, batch_size=32,
                                  collection_step_num_env_steps=64, update_step_num_repetitions=4, **shown)
        )  # fmt: skip
        with torch.no_grad():
            value = critic(obs).reshape(STATES)
    return [float(v) for v in value.double()]


if __name__ == "__main__":
    report("Tianshou", "its DummyVectorEnv", learned)
