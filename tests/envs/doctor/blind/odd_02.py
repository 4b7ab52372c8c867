"""Windfarm: a large wind field is computed anew at each reset; steps only look into it."""

import time

import gymnasium as gym
import numpy as np


class WindfarmEnv(gym.Env):
    """Turn a turbine into the wind. Observation: cos and sin of the wind's direction off the axis, wind speed."""

    metadata = {"render_modes": []}

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.field = None
        self.observation_space = gym.spaces.Box(
            np.array([-1, -1, 0], np.float32), np.array([1, 1, 30], np.float32), dtype=np.float32
        )
        self.action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if self.field is None:
            self.field = np.empty((2, 2_000_000), np.float32)  # 16 MB, kept for all episodes
        self.np_random.standard_normal(out=self.field, dtype=np.float32)
        time.sleep(1.3)  # the solver that spins the field up
        self.axis, self.wind, self.speed, self.t = 0.0, 0.0, 10.0, 0
        return self._obs(), {}

    def step(self, action):
        self.axis += 0.1 * (int(action) - 1)
        self.t += 1
        self.wind += 0.05 * float(self.field[0, self.t])
        self.speed = min(max(self.speed + 0.3 * float(self.field[1, self.t]), 0.0), 30.0)
        reward = float(np.cos(self.wind - self.axis)) * self.speed / 30.0
        return self._obs(), reward, False, False, {}

    def _obs(self):
        off = self.wind - self.axis
        return np.array([np.cos(off), np.sin(off), self.speed], np.float32)


gym.register(id="Windfarm-v0", entry_point=WindfarmEnv, max_episode_steps=50)
