"""Gymnasium's vectors of envs."""

import time
from typing import Any

import gymnasium
import numpy as np
from driver import Clock, emit, settings
from managers import cases


def measure(given: dict[str, Any], kind: str, env_id: str, options: dict[str, Any], num: int, title: str) -> None:
    """Steps ``num`` envs in one vector and prints its figures."""
    vector = gymnasium.make_vec(env_id, num, vectorization_mode=kind, **options)
    vector.reset(seed=given["seed"])
    action, done = np.zeros(num, np.int64), np.zeros(num, bool)
    for _ in range(20):
        vector.step(action)
    clock, start, steps = Clock(), time.perf_counter(), 0
    while time.perf_counter() - start < given["least_s"]:
        steps += num - int(done.sum())  # a step after an episode's end is a reset
        _, _, terminated, truncated, _ = vector.step(action)
        done = terminated | truncated
    wall, _ = clock.read()
    vector.close()
    emit(given, title, steps, (wall, clock.read()[1]), "gymnasium", "numpy")


if __name__ == "__main__":
    given = settings()
    for case in cases(given, "sync", "async", "vector_entry_point"):
        measure(given, *case)
