"""Gymnasium's vectors of envs."""

import time

import gymnasium
import numpy as np
from driver import Clock, emit, settings


def main() -> None:
    given = settings()
    num = given["env_num"]
    envs = {given["env"]: {}, "busy_env:Busy-v0": {"work_s": given["work_s"]}}
    titles = {given["env"]: given["env"], "busy_env:Busy-v0": f"{1e3 * given['work_s']:g} ms of work a step"}
    for env_id, options in envs.items():
        for kind, place in (("sync", "in this process"), ("async", "in worker processes")):
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
            emit(given, f"{titles[env_id]}, {place}", steps, (wall, clock.read()[1]), "gymnasium", "numpy")


if __name__ == "__main__":
    main()
