"""Tank: fill a tank from a pump and empty it by a valve, after orders that change."""

import gymnasium as gym
import numpy as np


class TankEnv(gym.Env):
    """Observation, float64 and without bounds: level in litres, its error, pressure in Pa. Costs are negative rewards.

    Action: pump from -0.2 (leaks back) to 3 litres a second, valve from 0 to 0.5.
    """

    metadata = {"render_modes": []}

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float64)
        self.action_space = gym.spaces.Box(np.array([-0.2, 0.0], np.float32), np.array([3.0, 0.5], np.float32))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.level = self.np_random.uniform(100.0, 300.0)
        self.order = self.np_random.uniform(100.0, 300.0)
        return self._obs(), {"order": self.order}

    def step(self, action):
        pump, valve = np.clip(np.asarray(action, np.float64), self.action_space.low, self.action_space.high)
        outflow = min(5.0 * valve, self.level)
        self.level += 2.0 * pump - outflow + self.np_random.normal(0.0, 0.2)
        if self.np_random.random() < 0.02:
            self.order = self.np_random.uniform(100.0, 300.0)
        reward = -((self.level - self.order) ** 2) / 1000.0 - pump**2
        return self._obs(), np.float64(reward), False, False, {"order": self.order}

    def _obs(self):
        return np.array([self.level, self.level - self.order, 9810.0 * self.level / 50.0])


gym.register(id="Tank-v0", entry_point=TankEnv, max_episode_steps=100)
