"""Dosing: one question, one answer. Choose one of three doses for a patient; the loss is known at once."""

import gymnasium as gym
import numpy as np


class DosingEnv(gym.Env):
    """A contextual bandit: an episode is one step. Rewards are losses, never above 0."""

    metadata = {"render_modes": []}

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Box(0.0, 1.0, (4,), np.float32)
        self.action_space = gym.spaces.Discrete(3, start=1)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.patient = self.np_random.random(4).astype(np.float32)
        return self.patient.copy(), {}

    def step(self, action):
        best = 1.0 + 2.0 * float(self.patient.mean())
        reward = -abs(float(action) - best) - 0.1 * float(self.np_random.random())
        return self.patient.copy(), reward, True, False, {"best": best}


gym.register(id="Dosing-v0", entry_point=DosingEnv)
