"""nerveX's env managers."""

import time
from typing import Any

import numpy as np
from driver import Clock, emit, settings
from managers import cases

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


if __name__ == "__main__":
    given = settings()
    for case in cases(given, "base", "sync_subprocess", "vector"):
        measure(given, *case)
