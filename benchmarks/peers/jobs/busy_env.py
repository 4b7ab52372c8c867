"""``busy_env:Busy-v0``: a Gymnasium env whose step takes CPU time and nothing else; episodes of 200 steps."""

import time
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete


class Busy(gymnasium.Env):
    """Spends ``work_s`` seconds of CPU time in each step."""

    def __init__(self, work_s: float = 0.001) -> None:
        self.observation_space, self.action_space = Box(-1, 1, (4,), np.float32), Discrete(2)
        self._work_s = work_s

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(4, np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        end = time.thread_time() + self._work_s
        while time.thread_time() < end:
            pass
        return np.zeros(4, np.float32), 1.0, False, False, {}


gymnasium.register("Busy-v0", "busy_env:Busy", max_episode_steps=200)
