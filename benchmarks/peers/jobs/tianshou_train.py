"""Tianshou: SAC, PPO and DQN through its trainers."""

from typing import Any

import gymnasium
import numpy as np
import torch
from driver import Clock, Solver, emit, settings
from tianshou.algorithm import DQN, PPO, SAC
from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
from tianshou.algorithm.modelfree.reinforce import ProbabilisticActorPolicy
from tianshou.algorithm.modelfree.sac import AutoAlpha, SACPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Collector, VectorReplayBuffer
from tianshou.env import DummyVectorEnv
from tianshou.trainer import OffPolicyTrainerParams, OnPolicyTrainerParams
from tianshou.utils.net.common import Net
from tianshou.utils.net.continuous import ContinuousActorProbabilistic, ContinuousCritic
from tianshou.utils.net.discrete import DiscreteActor, DiscreteCritic

PACKAGES = ("tianshou", "torch", "gymnasium")


def sac(given: dict[str, Any], env: Any) -> tuple[Any, Any]:
    """Returns the algorithm and its greedy action."""
    obs, action, hidden = env.observation_space.shape, env.action_space.shape, given["hidden"]
    optim = AdamOptimizerFactory(lr=given["learning_rate"])
    actor = ContinuousActorProbabilistic(
        preprocess_net=Net(state_shape=obs, hidden_sizes=hidden), action_shape=action, unbounded=True,
        conditioned_sigma=True,
    )  # fmt: skip
    critics = [
        ContinuousCritic(preprocess_net=Net(state_shape=obs, action_shape=action, hidden_sizes=hidden, concat=True))
        for _ in range(2)
    ]
    algorithm = SAC(
        policy=SACPolicy(actor=actor, action_space=env.action_space), policy_optim=optim, critic=critics[0],
        critic_optim=optim, critic2=critics[1], critic2_optim=optim, tau=given["tau"], gamma=given["gamma"],
        alpha=AutoAlpha(-float(action[0]), 0.0, optim),
    )  # fmt: skip
    return algorithm, None


def ppo(given: dict[str, Any], env: Any) -> tuple[Any, Any]:
    """Returns the algorithm and its greedy action."""
    nets = [
        Net(state_shape=env.observation_space.shape, hidden_sizes=given["network"], activation=torch.nn.Tanh)
        for _ in range(2)
    ]
    actor = DiscreteActor(preprocess_net=nets[0], action_shape=env.action_space.n, softmax_output=False)
    critic = DiscreteCritic(preprocess_net=nets[1])
    for module in (*actor.modules(), *critic.modules()):
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.orthogonal_(module.weight, 2**0.5)
            torch.nn.init.zeros_(module.bias)
    policy = ProbabilisticActorPolicy(
        actor=actor, dist_fn=lambda logit: torch.distributions.Categorical(logits=logit),
        action_space=env.action_space, action_scaling=False, deterministic_eval=True,
    )  # fmt: skip
    algorithm = PPO(
        policy=policy, critic=critic, optim=AdamOptimizerFactory(lr=given["learning_rate"], eps=1e-5),
        eps_clip=given["clip"], value_clip=False, vf_coef=given["value"], ent_coef=given["entropy"],
        max_grad_norm=given["max_grad_norm"], gae_lambda=given["gae_lambda"], gamma=given["gamma"],
        advantage_normalization=True,
    )  # fmt: skip
    return algorithm, lambda obs: actor(obs)[0].argmax(1)


def dqn(given: dict[str, Any], env: Any) -> tuple[Any, Any]:
    """Returns the algorithm and its greedy action."""
    net = Net(state_shape=env.observation_space.shape, action_shape=env.action_space.n, hidden_sizes=given["network"])
    policy = DiscreteQLearningPolicy(
        model=net, action_space=env.action_space, eps_training=given["eps_start"], eps_inference=0.0
    )
    algorithm = DQN(
        policy=policy, optim=AdamOptimizerFactory(lr=given["learning_rate"]), gamma=given["gamma"],
        target_update_freq=given["target_update_freq"], is_double=False,
    )  # fmt: skip
    return algorithm, lambda obs: net(obs)[0].argmax(1)


def main() -> None:
    given = settings()
    name, num = given["algorithm"], given["env_num"]
    np.random.seed(given["seed"])
    torch.manual_seed(given["seed"])
    envs = DummyVectorEnv([lambda: gymnasium.make(given["env"]) for _ in range(num)])
    envs.seed(given["seed"])
    algorithm, greedy = {"sac": sac, "ppo": ppo, "dqn": dqn}[name](given, gymnasium.make(given["env"]))
    rows = given["n_steps"] * num if name == "ppo" else num
    size = rows if name == "ppo" else given["buffer_size"]
    collector = Collector(algorithm, envs, VectorReplayBuffer(size, num), exploration_noise=name == "dqn")
    collector.reset()
    if name != "ppo":
        collector.collect(n_step=given["learning_starts"], random=True)
    warm = 0 if "goal" in given else -(-given["warm_steps"] // rows) * rows
    total = given["max_steps"] if "goal" in given else warm + -(-given["steps"] // rows) * rows
    common = {"training_collector": collector, "max_epochs": 1, "epoch_num_steps": total,
              "collection_step_num_env_steps": rows, "batch_size": given["batch_size"], "test_collector": None,
              "verbose": False, "show_progress": False}  # fmt: skip
    if name == "ppo":
        make, own = OnPolicyTrainerParams, {"update_step_num_repetitions": given["epochs"]}
    else:
        make, own = OffPolicyTrainerParams, {"update_step_num_gradient_steps_per_sample": given["updates"] / num}
    clocks: list[Clock] = []
    solver = Solver(given, lambda obs: acted(greedy, obs)) if "goal" in given else None

    def each(_epoch: int, step: int) -> None:  # called before each collection
        if name == "dqn":
            part = min(step / given["eps_step"], 1.0)
            algorithm.policy.set_eps_training(given["eps_start"] + part * (given["eps_end"] - given["eps_start"]))
        if solver is not None:
            solver.check(step)
        elif step >= warm and not clocks:
            clocks.append(Clock())

    parameters = make(**common, **own, training_fn=each)
    if solver is not None:
        solver.run(lambda: algorithm.run_training(parameters), *PACKAGES)
        return
    algorithm.run_training(parameters)
    cost, step = clocks[0].read(), total - warm
    updates = step // rows * (given["epochs"] * -(-rows // given["batch_size"]) if name == "ppo" else given["updates"])
    amount = updates if given["count"] == "update" else step
    emit(given, given["count"], amount, cost, *PACKAGES, env_step=step, update=updates)


@torch.no_grad()
def acted(greedy: Any, obs: np.ndarray) -> np.ndarray:
    """Returns greedy actions."""
    action: np.ndarray = greedy(torch.from_numpy(obs)).numpy()
    return action


if __name__ == "__main__":
    main()
