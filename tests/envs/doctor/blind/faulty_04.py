"""Point reacher: drive a point on a table to a goal."""

import gymnasium as gym
import numpy as np


class PointReachEnv(gym.Env):
    """Observation: position and goal. Action: a displacement. Reaching the goal ends the episode."""

    metadata = {"render_modes": []}

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.rng = np.random.default_rng()
        self.observation_space = gym.spaces.Box(-1.0, 1.0, (4,), np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position = self.rng.uniform(-1.0, 1.0, 2)
        self.goal = self.rng.uniform(-0.9, 0.9, 2)
        return self._obs(), {}

    def step(self, action):
        move = 0.1 * np.clip(np.asarray(action, np.float64), -1.0, 1.0)
        self.position = np.clip(self.position + move, -1.0, 1.0)
        distance = float(np.linalg.norm(self.position - self.goal))
        terminated = distance < 0.1
        return self._obs(), 1.0 if terminated else -0.1 * distance, terminated, False, {"distance": distance}

    def _obs(self):
        return np.concatenate([self.position, self.goal]).astype(np.float32)


gym.register(id="PointReach-v0", entry_point=PointReachEnv, max_episode_steps=100)
