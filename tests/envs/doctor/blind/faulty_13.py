"""Duel: two fighters, hit points from 0 to 20."""

import gymnasium as gym
import numpy as np


class DuelEnv(gym.Env):
    """Actions: strike, strike hard (and be open), guard. Reward: hit points taken minus hit points lost."""

    metadata = {"render_modes": []}

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Box(0.0, 1.0, (3,), np.float32)
        self.action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.hp = np.array([20, 20], np.uint8)  # own, enemy's
        self.enemy_ready = bool(self.np_random.integers(2))
        return self._obs(), {}

    def step(self, action):
        before = self.hp.copy()
        given = (2, 4, 0)[int(action)] if self.np_random.random() < 0.6 else 0
        taken = (2, 4, 0)[int(action)] if self.enemy_ready else int(action != 2)
        self.hp[1] -= min(given, int(self.hp[1]))
        self.hp[0] -= min(taken, int(self.hp[0]))
        self.enemy_ready = bool(self.np_random.integers(2))
        lost = before - self.hp
        reward = lost[1] - lost[0]
        terminated = bool((self.hp == 0).any())
        return self._obs(), reward, terminated, False, {}

    def _obs(self):
        return np.array([self.hp[0] / 20, self.hp[1] / 20, self.enemy_ready], np.float32)


gym.register(id="Duel-v0", entry_point=DuelEnv, max_episode_steps=100)
