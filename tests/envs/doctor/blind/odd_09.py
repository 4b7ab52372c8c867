"""Signal: a lamp lights one of two halves of a picture for a single step, now and then; press and aim."""

import gymnasium as gym
import numpy as np


class SignalEnv(gym.Env):
    """Observation: uint8 image [1, 48, 48], black most of the time. Action: side (1 or 2) and whether to press.

    Pressing the lit side pays 10 (an integer), pressing in the dark pays -1. Three hits end the task; 80 steps are the
    limit. The third hit in step 80 is both, as Gymnasium allows.
    """

    metadata = {"render_modes": []}

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Box(0, 255, (1, 48, 48), np.uint8)
        self.action_space = gym.spaces.MultiDiscrete([2, 2], start=[1, 0])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.lit, self.hits, self.t = 0, 0, 0
        return self._obs(), {}

    def step(self, action):
        side, press = int(action[0]), int(action[1])
        reward = 0
        if press:
            hit = self.lit == side
            reward = 10 if hit else -1
            self.hits += int(hit)
        self.lit = int(self.np_random.integers(1, 3)) if self.np_random.random() < 0.08 else 0
        self.t += 1
        return self._obs(), reward, self.hits >= 3, self.t >= 80, {"note": "lit" if self.lit else "dark"}

    def _obs(self):
        image = np.zeros((1, 48, 48), np.uint8)
        if self.lit:
            image[0, :, (self.lit - 1) * 24 : self.lit * 24] = 255
        return image


gym.register(id="Signal-v0", entry_point=SignalEnv)
