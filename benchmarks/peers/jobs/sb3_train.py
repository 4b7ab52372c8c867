"""Stable-Baselines3, and SBX, which has its API: any job that trains."""

import importlib
from typing import Any

from driver import Clock, Solver, emit, settings
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_atari_env, make_vec_env
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack


def envs(given: dict[str, Any]) -> VecEnv:
    if given.get("network") != "nature":
        return make_vec_env(given["env"], given["env_num"], seed=given["seed"])
    gymnasium, ale_py = (importlib.import_module(name) for name in ("gymnasium", "ale_py"))
    gymnasium.register_envs(ale_py)
    return VecFrameStack(make_atari_env(given["env"], given["env_num"], seed=given["seed"]), 4)


def off_policy(given: dict[str, Any]) -> dict[str, Any]:
    return {
        "buffer_size": given["buffer_size"], "learning_starts": given["learning_starts"],
        "batch_size": given["batch_size"], "train_freq": 1, "gradient_steps": given["updates"],
    }  # fmt: skip


def actor_critic(given: dict[str, Any]) -> dict[str, Any]:
    return {**off_policy(given), "tau": given["tau"], "policy_kwargs": {"net_arch": given["hidden"]}}


def dqn(given: dict[str, Any]) -> dict[str, Any]:
    network = {} if given["network"] == "nature" else {"policy_kwargs": {"net_arch": given["network"]}}
    return {
        **off_policy(given), **network,
        "target_update_interval": round(given["target_update_freq"] * given["env_num"] / given["updates"]),
        "exploration_initial_eps": given["eps_start"], "exploration_final_eps": given["eps_end"],
        "exploration_fraction": min(1.0, given["eps_step"] / total(given)),
    }  # fmt: skip


def ppo(given: dict[str, Any]) -> dict[str, Any]:
    network = {} if given["network"] == "nature" else {"policy_kwargs": {"net_arch": given["network"]}}
    return {
        **network, "n_steps": given["n_steps"], "batch_size": given["batch_size"], "n_epochs": given["epochs"],
        "gae_lambda": given["gae_lambda"], "clip_range": given["clip"], "ent_coef": given["entropy"],
        "vf_coef": given["value"], "max_grad_norm": given["max_grad_norm"],
    }  # fmt: skip


ALGORITHMS = {"sac": actor_critic, "td3": actor_critic, "dqn": dqn, "ppo": ppo}


def total(given: dict[str, Any]) -> int:
    """Env steps of the whole run."""
    first: int = given.get("learning_starts", 0)
    return int(given["max_steps"] if "goal" in given else first + given["warm_steps"] + given["steps"])


class Check(BaseCallback):
    """Asks the solver between collecting and learning."""

    def __init__(self) -> None:
        super().__init__()
        self.solver: Solver | None = None

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        assert self.solver is not None
        self.solver.check(self.num_timesteps)


def main() -> None:
    given = settings()
    name = "sbx" if given["peer"] == "sbx" else "stable_baselines3"
    algorithm = getattr(importlib.import_module(name), given["algorithm"].upper())
    options = {**ALGORITHMS[given["algorithm"]](given), "learning_rate": given["learning_rate"],
               "gamma": given["gamma"], "seed": given["seed"]}  # fmt: skip
    if name != "sbx":
        options["device"] = "cpu"
    kind = "CnnPolicy" if given.get("network") == "nature" else "MlpPolicy"
    model = algorithm(kind, envs(given), **options)
    packages = ("sbx-rl", "stable-baselines3", "jax") if name == "sbx" else ("stable-baselines3", "torch", "gymnasium")
    if "goal" in given:
        check = Check()
        check.solver = Solver(given, lambda obs: model.predict(obs, deterministic=True)[0])
        check.solver.run(lambda: model.learn(given["max_steps"], callback=check), *packages)
        return
    model.learn(total(given) - given["steps"])
    step, update, clock = model.num_timesteps, model._n_updates, Clock()
    model.learn(given["steps"], reset_num_timesteps=False)
    cost = clock.read()
    step, update = model.num_timesteps - step, model._n_updates - update
    if given["algorithm"] == "ppo":  # which counts epochs
        update *= -(-given["n_steps"] * given["env_num"] // given["batch_size"])
    emit(given, given["count"], update if given["count"] == "update" else step, cost, *packages, env_step=step,
         update=update)  # fmt: skip


if __name__ == "__main__":
    main()
