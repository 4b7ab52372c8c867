"""Sled in a valley with a flag on the ridge."""

import gymnasium as gym
import numpy as np


class SledEnv(gym.Env):
    """Observation: position and velocity. Action: thrust. The flag at position 1 ends the episode."""

    metadata = {"render_modes": []}

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        high = np.array([1.2, 1.0], np.float32)
        self.observation_space = gym.spaces.Box(-high, high, dtype=np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.position = 0.0
        self.velocity = 0.0
        self.finished = True

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if self.finished:
            self.position = self.np_random.uniform(-0.3, 0.3)
            self.velocity = 0.0
            self.finished = False
        return self._obs(), {}

    def step(self, action):
        thrust = float(np.clip(action[0], -1.0, 1.0))
        self.velocity += 0.03 * thrust - 0.05 * self.position
        self.velocity = float(np.clip(0.99 * self.velocity, -1.0, 1.0))
        self.position += self.velocity
        if self.position <= -1.2:
            self.position, self.velocity = -1.2, 0.0
        self.finished = self.position >= 1.0
        self.position = min(self.position, 1.2)
        reward = 10.0 if self.finished else -0.1 * thrust**2
        return self._obs(), reward, self.finished, False, {}

    def _obs(self):
        return np.array([self.position, self.velocity], np.float32)


gym.register(id="Sled-v0", entry_point=SledEnv, max_episode_steps=60)
