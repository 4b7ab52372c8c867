"""Trolley on a rail of 20 m: stay near the mark at 0 in changing wind."""

import gymnasium as gym
import numpy as np


class TrolleyEnv(gym.Env):
    """Observation: position in m (the rail goes from -10 to 10), velocity in m/s (at most 2), wind."""

    metadata = {"render_modes": []}

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        high = np.array([10.0, 2.0, 1.0], np.float32)
        self.observation_space = gym.spaces.Box(-high, high, dtype=np.float32)
        self.action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position = self.np_random.uniform(-1.0, 1.0)
        self.velocity = 0.0
        self.wind = self.np_random.uniform(-1.0, 1.0)
        return self._obs(), {}

    def step(self, action):
        self.wind = float(np.clip(self.wind + self.np_random.normal(0.0, 0.05), -1.0, 1.0))
        self.velocity += 0.1 * (int(action) - 1) + 0.02 * self.wind
        self.velocity = float(np.clip(self.velocity, -2.0, 2.0))
        self.position += 0.05 * self.velocity
        reward = 1.0 - min(abs(self.position), 10.0) / 10.0
        return self._obs(), reward, False, False, {}

    def _obs(self):
        return np.array([self.position, self.velocity, self.wind], np.float32)


gym.register(id="Trolley-v0", entry_point=TrolleyEnv, max_episode_steps=600)
