"""nerveX's env managers."""

import time

import numpy as np
from driver import Clock, emit, settings

from nervex.envs.gymnasium_env import GymnasiumEnv
from nervex.worker.actor.env_manager.registry import create_env_manager


def main() -> None:
    given = settings()
    num = given["env_num"]
    envs = {given["env"]: {}, "busy_env:Busy-v0": {"work_s": given["work_s"]}}
    titles = {given["env"]: given["env"], "busy_env:Busy-v0": f"{1e3 * given['work_s']:g} ms of work a step"}
    for env_id, options in envs.items():
        cfg = {"env_id": env_id, "make_kwargs": options}
        for kind, place in (("base", "in this process"), ("sync_subprocess", "in worker processes")):
            manager = create_env_manager(kind, GymnasiumEnv, [cfg] * num)
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
            emit(given, f"{titles[env_id]}, {place}", steps, (wall, clock.read()[1]), "nervex", "gymnasium")


if __name__ == "__main__":
    main()
