"""Trains the peers of our recipes with Stable-Baselines3 and keeps them in the ledger, one JSON per seed.

    python benchmarks/peers/sb3_learn.py halfcheetah_sac halfcheetah_td3 halfcheetah_ddpg --seeds 5

Runs in an environment of its own, without nerveX: ``pip install stable-baselines3==2.9.2 'gymnasium[mujoco]==1.4.0'
'mujoco==4.0.*'``. What is run stands in ``sb3_settings.json``, with the place where each setting comes from;
``NAME@VARIANT`` is another peer of recipe NAME. All recipes of one seed come before the next seed. A recorded seed is
not run again.

The deterministic policy is evaluated every ``eval_every`` env steps on 10 fresh episodes, and at the end on 100. Times
are of training with the evaluations on its way, without the final one. One PyTorch thread.
"""

import argparse
import json
import os
import platform
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import stable_baselines3
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.utils import update_learning_rate
from stable_baselines3.common.vec_env import VecNormalize

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from common import hardware  # noqa: E402

PACKAGES = ("stable-baselines3", "torch", "numpy", "gymnasium", "mujoco")


class Evaluation:
    """Plays episodes of the deterministic policy, no two of them with one seed.

    Args:
        env_id: of Gymnasium.
        seed: of the run; the episodes' seeds derive from it.
        env_num: episodes that are played side by side.
    """

    def __init__(self, env_id: str, seed: int, env_num: int = 10) -> None:
        self._envs = [gymnasium.make(env_id) for _ in range(env_num)]
        self._seed = seed
        self._count = 0

    def __call__(self, model: Any, episodes: int) -> dict[str, Any]:
        """Returns env step, mean, standard deviation and number of ``episodes`` returns."""
        seeds = np.random.SeedSequence((7919, self._seed, self._count)).generate_state(episodes)
        self._count += 1
        returns: list[float] = []
        for first in range(0, episodes, len(self._envs)):
            returns += self._batch(model, [int(seed) for seed in seeds[first : first + len(self._envs)]])
        return {
            "env_step": int(model.num_timesteps), "return_mean": float(np.mean(returns)),
            "return_std": float(np.std(returns)), "episodes": episodes,
        }  # fmt: skip

    def _batch(self, model: Any, seeds: list[int]) -> list[float]:
        normalizer = model.get_vec_normalize_env()
        envs = self._envs[: len(seeds)]
        obs = np.stack([env.reset(seed=seed)[0] for env, seed in zip(envs, seeds, strict=True)])
        total, live = np.zeros(len(envs)), np.ones(len(envs), dtype=bool)
        while live.any():
            shown = obs if normalizer is None else normalizer.normalize_obs(obs)
            action, _ = model.predict(shown, deterministic=True)
            for i in np.flatnonzero(live):
                obs[i], reward, terminated, truncated, _ = envs[i].step(action[i])
                total[i] += float(reward)
                live[i] = not (terminated or truncated)
        return [float(value) for value in total]


class Curve(BaseCallback):
    """Evaluates every ``every`` env steps."""

    def __init__(self, evaluation: Evaluation, every: int, episodes: int) -> None:
        super().__init__()
        self.points: list[dict[str, Any]] = []
        self._evaluation, self._every, self._episodes = evaluation, every, episodes

    def _on_step(self) -> bool:
        if self.num_timesteps % self._every == 0:
            self.points.append(self._evaluation(self.model, self._episodes))
            print(self.points[-1], flush=True)
        return True


def build(spec: dict[str, Any], seed: int) -> Any:
    """Returns the model of a specification, with its env."""
    settings = json.loads(json.dumps(spec["settings"]))
    own = {key: settings.pop(key) for key in ("normalize", "noise_std", "anneal") if key in settings}
    rates = {key: settings.pop(f"{key}_learning_rate", None) for key in ("critic", "ent")}
    env = make_vec_env(spec["env"], n_envs=1, seed=seed)
    if own.get("normalize"):
        env = VecNormalize(env, gamma=settings["gamma"])
    if "noise_std" in own:
        size = env.action_space.shape[0]
        settings["action_noise"] = NormalActionNoise(np.zeros(size), own["noise_std"] * np.ones(size))
    if own.get("anneal"):
        rate = settings["learning_rate"]
        settings["learning_rate"] = lambda remaining: remaining * rate
    if "activation" in settings["policy_kwargs"]:
        name = settings["policy_kwargs"].pop("activation")
        settings["policy_kwargs"]["activation_fn"] = getattr(torch.nn, name)
    model = getattr(stable_baselines3, spec["algorithm"])("MlpPolicy", env, seed=seed, device="cpu", **settings)
    if rates["critic"] is not None:  # Stable-Baselines3 has one rate for all optimizers of a model

        def set_rates(_optimizers: Any) -> None:
            update_learning_rate(model.critic.optimizer, rates["critic"])
            update_learning_rate(model.ent_coef_optimizer, rates["ent"])

        model._update_learning_rate = set_rates
    return model


def run(name: str, spec: dict[str, Any], seed: int, final_episodes: int) -> dict[str, Any]:
    """Trains one seed and returns its record."""
    started, wall, cpu = datetime.now(UTC), time.perf_counter(), time.process_time()
    model = build(spec, seed)
    evaluation = Evaluation(spec["env"], seed)
    curve = Curve(evaluation, spec["eval_every"], 10)
    model.learn(spec["steps"], callback=curve)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    final = evaluation(model, final_episodes)
    finished = datetime.now(UTC)
    packages = {package: version(package) for package in PACKAGES}
    return {
        "schema": 1,
        "name": name,
        "peer": f"{spec['peer']} {packages['stable-baselines3']} {spec['algorithm'].lower()}" if spec["peer"] == "sb3"
        else f"{spec['peer']}'s settings on sb3 {packages['stable-baselines3']} {spec['algorithm'].lower()}",
        "seed": seed,
        "source": spec["source"],
        "config": {"algorithm": spec["algorithm"], "env_id": spec["env"], **spec["settings"]},
        "env": spec["env"],
        "sessions": [
            {
                "started": started.isoformat(timespec="seconds"), "machine": hardware(),
                "versions": {"python": platform.python_version(), **packages},
            }
        ],
        "bar": None,
        "solved_env_step": None,
        "curve": curve.points,
        "final": final,
        "best": max([*curve.points, final], key=lambda point: point["return_mean"]),
        "env_step": int(model.num_timesteps),
        "train_iter": int(model._n_updates),
        "wall_s": round(wall, 1),
        "cpu_s": round(cpu, 1),
        "started": started.isoformat(timespec="seconds"),
        "finished": finished.isoformat(timespec="seconds"),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="NAME[@VARIANT]")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="env steps (default: the settings')")
    parser.add_argument("--final-episodes", type=int, default=100)
    parser.add_argument("--ledger", type=Path, default=HERE.parent / "ledger")
    args = parser.parse_args()
    torch.set_num_threads(1)
    specs = json.loads((HERE / "sb3_settings.json").read_text(encoding="utf-8"))
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        for full in args.names:
            spec = dict(specs[full], **({"steps": args.steps} if args.steps else {}))
            name = full.split("@")[0]
            path = args.ledger / name / f"peer_{spec['peer']}_seed_{seed}.json"
            if path.exists():
                print(f"{path} is there")
                continue
            print(f"{full} seed {seed}", flush=True)
            data = run(name, spec, seed, args.final_episodes)
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.{os.getpid()}")
            temporary.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
            os.replace(temporary, path)
            print(f"{path}: {data['final']}, {data['cpu_s']} CPU s", flush=True)


if __name__ == "__main__":
    main()
