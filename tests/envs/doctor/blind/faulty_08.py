"""Dowser: walk over a field with a compass that points to the spring, and dig where it is."""

import gymnasium as gym
import numpy as np

MOVES = np.array([(-1, 0), (1, 0), (0, -1), (0, 1)])


class DowserEnv(gym.Env):
    """A field of 13x13. Actions: four moves, dig. Observation: direction of the spring (unit vector) and distance."""

    metadata = {"render_modes": []}
    size = 13

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Box(
            np.array([-1, -1, 0], np.float32), np.array([1, 1, 2], np.float32), dtype=np.float32
        )
        self.action_space = gym.spaces.Discrete(5)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        here, spring = self.np_random.choice(self.size**2, 2, replace=False)
        self.here = np.array(divmod(int(here), self.size))
        self.spring = np.array(divmod(int(spring), self.size))
        return self._obs(), {}

    def step(self, action):
        if action == 4:
            found = bool((self.here == self.spring).all())
            return self._obs(), 1.0 if found else -0.1, found, False, {}
        self.here = np.clip(self.here + MOVES[action], 0, self.size - 1)
        return self._obs(), -0.01, False, False, {}

    def _obs(self):
        offset = (self.spring - self.here) / self.size
        distance = np.linalg.norm(offset)
        return np.append(offset / distance, distance).astype(np.float32)


gym.register(id="Dowser-v0", entry_point=DowserEnv, max_episode_steps=60)
