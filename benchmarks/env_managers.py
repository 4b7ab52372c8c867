"""Times the env managers against the bare env loop and against Gymnasium's own vector envs, interleaved.

python benchmarks/env_managers.py --runs 5

Two tables. In one process, CPU time: the bare loop over ``gymnasium.make(id).step``, the same through nerveX's adapter
(``GymnasiumEnv``), and the managers ``base`` and ``vector``. Several processes, wall time (and CPU time of this
process): ``base``, ``sync_subprocess``, and Gymnasium's ``AsyncVectorEnv``, for CartPole and for an env whose step
takes 1 ms of CPU. Wake-ups are voluntary context switches per worker and step.
"""

import argparse
import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from common import save, spread

from nervex.envs import BaseEnv, BaseEnvInfo, BaseEnvTimestep, EnvElementInfo
from nervex.envs.gymnasium_env import GymnasiumEnv
from nervex.worker.actor.env_manager import create_env_manager
from nervex.worker.actor.env_manager.worker_pool import usable_cores

ENV_NUM = 8
Step = Callable[[Any], Any]
Close = Callable[[], Any]


class IdleEnv(BaseEnv):
    """Does nothing: what is left is the manager."""

    def __init__(self, cfg: dict[str, Any]) -> None:
        self._timestep = BaseEnvTimestep(np.zeros(4, np.float32), 1.0, False, {})

    def reset(self) -> Any:
        return self._timestep.obs

    def step(self, action: Any) -> BaseEnvTimestep:
        return self._timestep

    def seed(self, seed: int) -> None:
        pass

    def close(self) -> None:
        pass

    def info(self) -> BaseEnvInfo:
        obs, reward = EnvElementInfo(4, {"dtype": np.float32}), EnvElementInfo(1, {"dtype": np.float32})
        return BaseEnvInfo(1, obs, EnvElementInfo(2, {"dtype": np.int64}), reward)

    def __repr__(self) -> str:
        return type(self).__name__


class BusyEnv(IdleEnv):
    """A step takes 1 ms of CPU time."""

    def step(self, action: Any) -> BaseEnvTimestep:
        end = time.thread_time() + 1e-3
        while time.thread_time() < end:
            pass
        return self._timestep


def random_actions(space: Any) -> list[Any]:
    """Returns 256 actions for ``ENV_NUM`` envs, array ``[ENV_NUM, ...]`` each."""
    rng = np.random.default_rng(0)
    if isinstance(space, gymnasium.spaces.Discrete):
        return list(rng.integers(0, space.n, (256, ENV_NUM)))
    return list(rng.uniform(space.low, space.high, (256, ENV_NUM, *space.shape)).astype(np.float32))


def closed(envs: list[Any]) -> None:
    """Closes envs."""
    for env in envs:
        env.close()


def bare(env_id: str) -> tuple[Step, Close]:
    """Returns ``(step, close)`` of a plain loop over envs."""
    envs = [gymnasium.make(env_id, disable_env_checker=True) for _ in range(ENV_NUM)]
    for i, env in enumerate(envs):
        env.reset(seed=i)

    def step(action: np.ndarray) -> None:
        for env, a in zip(envs, action.tolist() if action.ndim == 1 else action, strict=True):
            _, _, terminated, truncated, _ = env.step(a)
            if terminated or truncated:
                env.reset()

    return step, lambda: closed(envs)


def adapted(env_id: str) -> tuple[Step, Close]:
    """The same through ``GymnasiumEnv``, which seeds every episode."""
    envs = [GymnasiumEnv({"env_id": env_id}) for _ in range(ENV_NUM)]
    for i, env in enumerate(envs):
        env.seed(i)
        env.reset()

    def step(action: np.ndarray) -> None:
        for env, a in zip(envs, action.tolist() if action.ndim == 1 else action, strict=True):
            if env.step(a).done:
                env.seed(1)
                env.reset()

    return step, lambda: closed(envs)


def managed(kind: str, env_fn: Any, cfg: dict[str, Any], **options: Any) -> tuple[Step, Close, list[int]]:
    """A manager; further the ids of its worker processes."""
    manager = create_env_manager(kind, env_fn, [dict(cfg) for _ in range(ENV_NUM)], **options)
    manager.seed(0)
    manager.launch()
    pids = [worker.pid for worker in getattr(manager, "_workers", [])]
    return lambda a: manager.step_block(a, manager.ready_block().lane_id), manager.close, pids


def gymnasium_async(env_id: str) -> tuple[Step, Close]:
    """Gymnasium's vector of processes, one per env, with shared memory for observations (its default)."""
    env = gymnasium.make_vec(env_id, ENV_NUM, vectorization_mode="async")
    env.reset(seed=0)
    return env.step, env.close


def wake_ups(pids: list[int]) -> int:
    """Returns the voluntary context switches of processes so far; 0 where the system does not tell."""
    total = 0
    for pid in pids:
        status = Path(f"/proc/{pid}/status")
        lines = status.read_text().splitlines() if status.exists() else []
        total += sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))
    return total


def timed(made: tuple[Any, ...], actions: list[Any], steps: int) -> dict[str, float]:
    """Returns microseconds of wall and of CPU time per vector step, and wake-ups per worker and step."""
    step, close, pids = made if len(made) == 3 else (*made, [])
    for t in range(20):
        step(actions[t])
    gc.collect()
    before, wall, cpu = wake_ups(pids), time.perf_counter(), time.process_time()
    for t in range(steps):
        step(actions[t % 256])
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    woken = (wake_ups(pids) - before) / max(len(pids), 1)
    close()
    return {"wall_us": 1e6 * wall / steps, "cpu_us": 1e6 * cpu / steps, "wake_ups": woken / steps}


def interleaved(variants: dict[str, Callable[[], Any]], actions: list[Any], steps: int, runs: int) -> dict[str, Any]:
    """Returns the spread of every figure of every variant over the runs."""
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in variants}
    for _ in range(runs):
        for name, make in variants.items():
            figures[name].append(timed(make(), actions, steps))
    return {name: {key: spread([f[key] for f in rows]) for key in rows[0]} for name, rows in figures.items()}


def in_process(env_id: str, steps: int, runs: int) -> dict[str, Any]:
    """The table of one env in one process."""
    cfg = {"env_id": env_id}
    variants: dict[str, Callable[[], Any]] = {
        "bare": lambda: bare(env_id),
        "adapter": lambda: adapted(env_id),
        "base": lambda: managed("base", GymnasiumEnv, cfg),
    }
    if gymnasium.spec(env_id).vector_entry_point is not None and env_id.startswith("CartPole"):
        variants["vector"] = lambda: managed("vector", GymnasiumEnv, cfg)
    actions = random_actions(gymnasium.make(env_id).action_space)
    table = interleaved(variants, actions, steps, runs)
    for name in ("bare", "adapter"):
        ratio = table["base"]["cpu_us"]["median"] / table[name]["cpu_us"]["median"]
        table["base"][f"over {name}"] = round(ratio, 3)
    return table


def processes(runs: int, scale: float) -> dict[str, Any]:
    """The tables of several processes."""
    cartpole = {"env_id": "CartPole-v1"}
    cores = min(ENV_NUM, usable_cores())
    pole: dict[str, Callable[[], Any]] = {
        "base": lambda: managed("base", GymnasiumEnv, cartpole),
        f"sync_subprocess, {cores} workers": lambda: managed("sync_subprocess", GymnasiumEnv, cartpole),
        "gymnasium AsyncVectorEnv": lambda: gymnasium_async("CartPole-v1"),
    }
    busy: dict[str, Callable[[], Any]] = {
        "base": lambda: managed("base", BusyEnv, {}),
        f"sync_subprocess, {cores} workers": lambda: managed("sync_subprocess", BusyEnv, {}),
        f"sync_subprocess, {ENV_NUM} workers": lambda: managed("sync_subprocess", BusyEnv, {}, worker_num=ENV_NUM),
    }
    actions = random_actions(gymnasium.spaces.Discrete(2))
    tables = {
        "CartPole-v1": interleaved(pole, actions, int(1500 * scale), runs),
        "1 ms of CPU": interleaved(busy, actions, int(60 * scale), runs),
    }
    for title, (over, against) in {"CartPole-v1": (1, 2), "1 ms of CPU": (1, 0)}.items():
        rows = list(tables[title].values())
        gain = rows[against]["wall_us"]["median"] / rows[over]["wall_us"]["median"]
        rows[over][f"times faster than {list(tables[title])[against]}"] = round(gain, 2)
    return tables


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of steps")
    args = parser.parse_args()
    actions = random_actions(gymnasium.spaces.Discrete(2))
    steps = int(2000 * args.scale)
    idle: dict[str, Callable[[], Any]] = {"base": lambda: managed("base", IdleEnv, {})}
    tables = {"one process": {"do nothing": interleaved(idle, actions, steps, args.runs)}}
    for env_id in ("CartPole-v1", "HalfCheetah-v5"):
        tables["one process"][env_id] = in_process(env_id, steps, args.runs)
    tables["processes"] = processes(args.runs, args.scale)
    for part, envs in tables.items():
        for env, rows in envs.items():
            for name, row in rows.items():
                print(f"{part:<12} {env:<15} {name:<32} {row}", flush=True)
    print(save("env_managers", {"env_num": ENV_NUM, "runs": args.runs, "unit": "µs per step of all envs",
                                "figures": tables}))  # fmt: skip


if __name__ == "__main__":
    main()
