"""One stock, three positions: short, flat, long."""

import gymnasium as gym
import numpy as np


class StockEnv(gym.Env):
    """Observation: the last five returns of the price and the present position. Reward: what the position earned."""

    metadata = {"render_modes": []}

    def __init__(self, volatility=0.02, render_mode=None):
        self.render_mode = render_mode
        self.volatility = volatility
        self.observation_space = gym.spaces.Box(-1.0, 1.0, (6,), np.float32)
        self.action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            np.random.seed(seed)
        self.trend = np.random.normal(0.0, 0.005)
        self.returns = np.random.normal(self.trend, self.volatility, 5)
        self.position = 0
        return self._obs(), {}

    def step(self, action):
        position = int(action) - 1
        cost = 0.001 * abs(position - self.position)
        self.position = position
        self.trend = 0.95 * self.trend + np.random.normal(0.0, 0.002)
        change = float(np.clip(np.random.normal(self.trend, self.volatility), -0.5, 0.5))
        self.returns = np.append(self.returns[1:], change)
        return self._obs(), position * change - cost, False, False, {}

    def _obs(self):
        return np.clip(np.append(self.returns, self.position), -1.0, 1.0).astype(np.float32)


gym.register(id="Stock-v0", entry_point=StockEnv, max_episode_steps=100)
