"""Rod balancing: push a light rod left or right so that it stays upright."""

import gymnasium as gym
import numpy as np


class RodEnv(gym.Env):
    """Observation: angle and angular velocity. The episode ends when the rod has fallen, or after 200 steps."""

    metadata = {"render_modes": []}
    limit = 0.5

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        high = np.array([3.2, 8.0], np.float32)
        self.observation_space = gym.spaces.Box(-high, high, dtype=np.float32)
        self.action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.angle, self.velocity = self.np_random.uniform(-0.05, 0.05, 2)
        self.steps = 0
        return self._obs(), {}

    def step(self, action):
        push = 1.0 if action == 1 else -1.0
        self.velocity += 0.05 * (9.0 * np.sin(self.angle) + 3.0 * push)
        self.velocity = float(np.clip(self.velocity, -8.0, 8.0))
        self.angle += 0.05 * self.velocity
        self.steps += 1
        terminated = bool(abs(self.angle) > self.limit)
        truncated = not terminated and self.steps >= 200
        reward = 0.0 if terminated else 1.0
        if terminated or truncated:
            obs, info = self.reset()
        else:
            obs, info = self._obs(), {}
        return obs, reward, terminated, truncated, info

    def _obs(self):
        return np.array([self.angle, self.velocity], np.float32)


gym.register(id="Rod-v0", entry_point=RodEnv)
