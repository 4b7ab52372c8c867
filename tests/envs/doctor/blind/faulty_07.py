"""Pursuit on a line. Velocities are not observed: stack frames to see them."""

import gymnasium as gym
import numpy as np


class PursuitEnv(gym.Env):
    """A hare runs on a ring; the hound must be where it is. Observation: hound and hare as cos and sin."""

    metadata = {"render_modes": []}

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Box(-1.0, 1.0, (4,), np.float32)
        self.action_space = gym.spaces.Discrete(3)
        self._obs = np.zeros(4, np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.hound, self.hare = self.np_random.uniform(0.0, 2.0 * np.pi, 2)
        self.speed = self.np_random.uniform(-0.25, 0.25)
        self._fill()
        return self._obs, {}

    def step(self, action):
        self.hound += 0.2 * (int(action) - 1)
        self.hare += self.speed
        if self.np_random.random() < 0.05:
            self.speed = -self.speed
        self._fill()
        reward = float(np.cos(self.hound - self.hare))
        return self._obs, reward, False, False, {}

    def _fill(self):
        self._obs[:] = (np.cos(self.hound), np.sin(self.hound), np.cos(self.hare), np.sin(self.hare))


gym.register(id="Pursuit-v0", entry_point=PursuitEnv, max_episode_steps=60)
