"""Catch: fruit falls, the basket has to be below it."""

from enum import Enum

import gymnasium as gym
import numpy as np


class Move(Enum):
    LEFT = 0
    STAY = 1
    RIGHT = 2


class CatchEnv(gym.Env):
    """A field of 7 columns and 10 rows; the fruit drifts a little. Observation: fruit column, row, basket column."""

    metadata = {"render_modes": []}
    columns, rows = 7, 10

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Box(0.0, 1.0, (3,), np.float32)
        self.action_space = gym.spaces.Discrete(len(Move))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.fruit = [int(self.np_random.integers(self.columns)), int(self.np_random.integers(5))]
        self.basket = int(self.np_random.integers(self.columns))
        return self._obs(), {}

    def step(self, action):
        if action == Move.LEFT:
            self.basket = max(self.basket - 1, 0)
        elif action == Move.RIGHT:
            self.basket = min(self.basket + 1, self.columns - 1)
        drift = int(self.np_random.integers(-1, 2)) if self.np_random.random() < 0.3 else 0
        self.fruit[0] = min(max(self.fruit[0] + drift, 0), self.columns - 1)
        self.fruit[1] += 1
        landed = self.fruit[1] == self.rows - 1
        reward = 0.0
        if landed:
            reward = 1.0 if self.fruit[0] == self.basket else -1.0
        return self._obs(), reward, landed, False, {}

    def _obs(self):
        column, row = self.fruit
        scale = self.columns - 1
        return np.array([column / scale, row / (self.rows - 1), self.basket / scale], np.float32)


gym.register(id="CatchFruit-v0", entry_point=CatchEnv)
