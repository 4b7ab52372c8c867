"""Painter: paint as many fields of an 8x8 floor as possible without stepping on wet paint."""

import gymnasium as gym
import numpy as np

SIZE = 8
MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))


class PainterEnv(gym.Env):
    """Each new field pays 1. A move onto wet paint or into a wall is not allowed (``action_mask``) and does nothing."""

    metadata = {"render_modes": []}

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Dict(
            {
                "floor": gym.spaces.Box(0.0, 1.0, (2 * SIZE * SIZE,), np.float32),
                "action_mask": gym.spaces.MultiBinary(4),
            }
        )
        self.action_space = gym.spaces.Discrete(4)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.wet = np.zeros((SIZE, SIZE), bool)
        self.at = tuple(int(c) for c in self.np_random.integers(2, SIZE - 2, 2))
        self.wet[self.at] = True
        return self._obs(), {}

    def step(self, action):
        reward = 0.0
        if self._allowed()[action]:
            self.at = self._after(action)
            self.wet[self.at] = True
            reward = 1.0
        terminated = bool(self.wet.all())
        return self._obs(), reward, terminated, False, {}

    def _after(self, action):
        return self.at[0] + MOVES[action][0], self.at[1] + MOVES[action][1]

    def _allowed(self):
        mask = np.zeros(4, np.int8)
        for action in range(4):
            y, x = self._after(action)
            mask[action] = 0 <= y < SIZE and 0 <= x < SIZE and not self.wet[y, x]
        return mask

    def _obs(self):
        painter = np.zeros((SIZE, SIZE), np.float32)
        painter[self.at] = 1.0
        return {
            "floor": np.concatenate([self.wet.ravel(), painter.ravel()]).astype(np.float32),
            "action_mask": self._allowed(),
        }


gym.register(id="Painter-v0", entry_point=PainterEnv, max_episode_steps=22)
