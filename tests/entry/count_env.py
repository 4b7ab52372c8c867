"""An env whose observation says where it is; no torch here: processes of envs start quickly so."""

import numpy as np

from nervex.envs import BaseEnv, BaseEnvInfo, BaseEnvTimestep
from nervex.envs.base_env import EnvElementInfo


class CountEnv(BaseEnv):
    """Observation: number of the step, and 1. Reward: the action. Ends after 3 steps: by a time limit, or with
    ``terminal`` because the task is over."""

    def __init__(self, cfg):
        self.terminal = cfg.get("terminal", False)

    def reset(self):
        self.count = 0
        return self.obs()

    def obs(self):
        return np.array([self.count, 1.0], np.float32)

    def step(self, action):
        self.count += 1
        over = self.count == 3
        return BaseEnvTimestep(self.obs(), float(action), over, {"truncated": over and not self.terminal})

    def seed(self, seed):
        pass

    def close(self):
        pass

    def info(self):
        action = EnvElementInfo(2, {"min": 0, "max": 1, "dtype": np.int64})
        return BaseEnvInfo(
            1, EnvElementInfo(2, {"dtype": np.float32}), action, EnvElementInfo(1, {"dtype": np.float32})
        )

    def __repr__(self):
        return "CountEnv()"


class FaultyEnv(CountEnv):
    def step(self, action):
        raise RuntimeError("the engine is on fire")
