"""Rover: two driven wheels on a line of sight to a beacon; motors get weaker as they get hot."""

import gymnasium as gym
import numpy as np


class RoverEnv(gym.Env):
    """Observation: offset to the beacon, velocity. Action: forces. The heat of the motors is not observed."""

    metadata = {"render_modes": []}

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.heat = 0.0
        self.offset = np.zeros(2)
        self.velocity = np.zeros(2)
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (4,), np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.offset = self.np_random.uniform(-2.0, 2.0, 2)
        self.velocity = np.zeros(2)
        return self._obs(), {}

    def step(self, action):
        force = np.clip(np.asarray(action, np.float64), -1.0, 1.0)
        power = 1.0 / (1.0 + 0.02 * self.heat)
        self.heat += float(np.abs(force).mean())
        self.velocity = 0.9 * self.velocity + 0.1 * power * force
        self.offset = self.offset - self.velocity
        distance = float(np.linalg.norm(self.offset))
        terminated = distance < 0.05
        reward = -0.1 * distance - 0.01 * float(np.square(force).sum()) + (5.0 if terminated else 0.0)
        return self._obs(), reward, terminated, False, {}

    def _obs(self):
        return np.concatenate([self.offset, self.velocity]).astype(np.float32)


gym.register(id="Rover-v0", entry_point=RoverEnv, max_episode_steps=80)
