"""Tower of Hanoi with three discs, from a random position to the last peg."""

import gymnasium as gym
import numpy as np

MOVES = [(a, b) for a in range(3) for b in range(3) if a != b]


class HanoiEnv(gym.Env):
    """Six moves from peg to peg; two or three are allowed, ``action_mask`` tells which. An illegal one is an error."""

    metadata = {"render_modes": []}

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Dict(
            {"pegs": gym.spaces.MultiDiscrete([3, 3, 3]), "action_mask": gym.spaces.MultiBinary(len(MOVES))}
        )
        self.action_space = gym.spaces.Discrete(len(MOVES))
        self.pegs = None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.pegs = np.full(3, 2)
        while (self.pegs == 2).all():
            self.pegs = self.np_random.integers(3, size=3)  # peg of each disc, the smallest disc first
        return self._obs(), {}

    def step(self, action):
        if not self._mask()[action]:
            raise ValueError(f"move {MOVES[action]} is not allowed with discs on pegs {self.pegs.tolist()}")
        source, target = MOVES[action]
        self.pegs[self._top(source)] = target
        solved = bool((self.pegs == 2).all())
        return self._obs(), 0.0 if solved else -1.0, solved, False, {}

    def _top(self, peg):
        """The smallest disc on the peg, 3 where it is empty."""
        return next((disc for disc in range(3) if self.pegs[disc] == peg), 3)

    def _mask(self):
        return np.array([self._top(a) < self._top(b) for a, b in MOVES], np.int8)

    def _obs(self):
        return {"pegs": self.pegs.copy(), "action_mask": self._mask()}


gym.register(id="Hanoi-v0", entry_point=HanoiEnv, max_episode_steps=100)
