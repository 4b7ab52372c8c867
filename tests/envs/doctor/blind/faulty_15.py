"""Elevator: serve the calls of a house of six floors."""

import time

import gymnasium as gym
import numpy as np


class ElevatorEnv(gym.Env):
    """Actions: down, stop (serves the floor), up. Observation: floor as one-hot, waiting calls."""

    metadata = {"render_modes": [], "render_fps": 20}
    floors = 6

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.dt = 1.0 / self.metadata["render_fps"]
        self.observation_space = gym.spaces.Box(0.0, 1.0, (2 * self.floors,), np.float32)
        self.action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.floor = int(self.np_random.integers(self.floors))
        self.calls = self.np_random.random(self.floors) < 0.3
        return self._obs(), {}

    def step(self, action):
        reward = -0.1 * float(self.calls.sum())
        if action == 1:
            reward += float(self.calls[self.floor])
            self.calls[self.floor] = False
        else:
            self.floor = min(max(self.floor + int(action) - 1, 0), self.floors - 1)
        self.calls |= self.np_random.random(self.floors) < 0.02
        time.sleep(self.dt)
        return self._obs(), reward, False, False, {"waiting": int(self.calls.sum())}

    def _obs(self):
        here = np.arange(self.floors) == self.floor
        return np.concatenate([here, self.calls]).astype(np.float32)


gym.register(id="Elevator-v0", entry_point=ElevatorEnv, max_episode_steps=40)
