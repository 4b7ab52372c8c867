"""Greenhouse: a season of 5,000 steps; at night nothing is measured."""

from collections import deque

import gymnasium as gym
import numpy as np


class GreenhouseEnv(gym.Env):
    """Observation: light, and mean temperature of the last 24 steps; both are 0 through the nights of 200 steps.

    The env counts its steps and cuts the season off itself: that is a truncation. Nothing terminates it.
    """

    metadata = {"render_modes": []}
    season, day = 5_000, 400

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Box(0.0, 1.0, (2,), np.float32)
        self.action_space = gym.spaces.Discrete(2)
        self.log = deque(maxlen=2_000)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.log.clear()
        self.recent = deque([0.5] * 24, maxlen=24)
        self.heat = 0.5
        self.t = int(self.np_random.integers(self.day))
        self.left = self.season
        return self._obs(), {}

    def step(self, action):
        self.t += 1
        self.left -= 1
        outside = 0.3 + 0.4 * self._light() + 0.05 * float(self.np_random.random())
        self.heat = min(0.98 * self.heat + 0.02 * outside + 0.01 * int(action), 1.0)
        self.recent.append(self.heat)
        self.log.append((self.t, self.heat))  # the last days, for the gardener
        reward = 1.0 - abs(self.heat - 0.7) - 0.1 * int(action)
        return self._obs(), reward, False, self.left == 0, {}

    def _light(self):
        return max(float(np.sin(2.0 * np.pi * self.t / self.day)), 0.0)

    def _obs(self):
        light = self._light()
        if light <= 0.0:
            return np.zeros(2, np.float32)
        return np.array([light, sum(self.recent) / 24], np.float32)


gym.register(id="Greenhouse-v0", entry_point=GreenhouseEnv)
