"""Irrigation: water a field so that its soil stays moist through dry and rainy days."""

import gymnasium as gym
import numpy as np


class FieldEnv(gym.Env):
    """Observation: moisture, forecast of rain. Action: how much to water. A season has 90 days."""

    metadata = {"render_modes": []}

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Box(0.0, 1.0, (2,), np.float32)
        self.action_space = gym.spaces.Box(0.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.day = 0
        self.moisture = self.np_random.uniform(0.2, 0.8)
        self.forecast = self.np_random.uniform()
        return self._obs(), {}

    def step(self, action):
        self.day += 1
        water = float(np.clip(action[0], 0.0, 1.0))
        rain = 0.3 if self.np_random.random() < self.forecast**2 else 0.0
        self.moisture = float(np.clip(0.85 * self.moisture + 0.3 * water + rain, 0.0, 1.0))
        self.forecast = float(np.clip(self.forecast + self.np_random.normal(0.0, 0.15), 0.0, 1.0))
        reward = 1.0 - 2.0 * abs(self.moisture - 0.6) - 0.1 * water
        print(
            f"day {self.day:3d}: water {water:.2f}, rain {rain:.1f}, moisture {self.moisture:.2f}, reward {reward:.3f}"
        )
        return self._obs(), reward, False, False, {"rain": rain}

    def _obs(self):
        return np.array([self.moisture, self.forecast], np.float32)


gym.register(id="Field-v0", entry_point=FieldEnv, max_episode_steps=90)
