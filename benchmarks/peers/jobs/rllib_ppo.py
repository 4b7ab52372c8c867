"""RLlib: PPO on vectors, in this process."""

import logging

import ray
import torch
from driver import Clock, emit, settings
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig


def main() -> None:
    given = settings()
    rows = given["n_steps"] * given["env_num"]
    ray.init(num_cpus=1, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    config = (
        PPOConfig()
        .environment(given["env"])
        .env_runners(num_env_runners=0, num_envs_per_env_runner=given["env_num"],
                     rollout_fragment_length=given["n_steps"])
        .learners(num_learners=0)
        .training(
            lr=given["learning_rate"], gamma=given["gamma"], lambda_=given["gae_lambda"], clip_param=given["clip"],
            entropy_coeff=given["entropy"], vf_loss_coeff=given["value"], vf_clip_param=1e9,
            grad_clip=given["max_grad_norm"], use_kl_loss=False, train_batch_size_per_learner=rows,
            minibatch_size=given["batch_size"], num_epochs=given["epochs"],
        )
        .rl_module(model_config=DefaultModelConfig(fcnet_hiddens=given["network"], fcnet_activation="tanh",
                                                   vf_share_layers=False))
        .debugging(seed=given["seed"], log_level="ERROR")
    )  # fmt: skip
    algorithm = config.build_algo()
    torch.set_num_threads(given["threads"])
    for _ in range(-(-given["warm_steps"] // rows)):
        algorithm.train()
    clock, rollouts = Clock(), -(-given["steps"] // rows)
    for _ in range(rollouts):
        algorithm.train()
    cost = clock.read()
    emit(given, given["count"], rollouts * rows, cost, "ray", "torch", "gymnasium", env_step=rollouts * rows)
    ray.shutdown()


if __name__ == "__main__":
    main()
