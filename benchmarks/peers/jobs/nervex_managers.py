"""nerveX's env managers."""

import time
from typing import Any

import numpy as np
from driver import Clock, emit, settings

from nervex.envs.gymnasium_env import GymnasiumEnv
from nervex.worker.actor.env_manager.registry import create_env_manager


def measure(given: dict[str, Any], kind: str, env_id: str, options: dict[str, Any], num: int, title: str) -> None:
    """Steps ``num`` envs in one manager and prints its figures."""
    manager = create_env_manager(kind, GymnasiumEnv, [{"env_id": env_id, "make_kwargs": options}] * num)
    manager.seed(given["seed"])
    manager.launch()
    action, lanes = np.zeros(num, np.int64), manager.ready_block().lane_id
    for _ in range(20):
        manager.step_block(action, lanes)
    clock, start, steps = Clock(), time.perf_counter(), 0
    while time.perf_counter() - start < given["least_s"]:
        steps += int(manager.step_block(action, lanes).valid.sum())
    wall, _ = clock.read()
    manager.close()  # so that the CPU time of the workers is known
    emit(given, title, steps, (wall, clock.read()[1]), "nervex", "gymnasium")


def main() -> None:
    given = settings()
    num, busy = given["env_num"], {"work_s": given["work_s"]}
    for kind, place in (("base", "in this process"), ("sync_subprocess", "in worker processes")):
        measure(given, kind, given["env"], {}, num, f"{given['env']}, {place}")
        measure(given, kind, "busy_env:Busy-v0", busy, num, f"{1e3 * given['work_s']:g} ms of work a step, {place}")
    for num in given.get("growth", []):
        measure(given, "base", given["env"], {}, num, f"{given['env']}, {num} env(s) in this process")
        measure(given, "vector", given["env"], {}, num, f"{given['env']}, {num} env(s) in its native vector")


if __name__ == "__main__":
    main()
