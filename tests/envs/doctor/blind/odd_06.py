"""Vault: a maze with a door, a key and one reward at the end. Nothing in it is random."""

import gymnasium as gym
import numpy as np

PLAN = (
    "#########",
    "#S..#..K#",
    "##.##.###",
    "#.......#",
    "#.#####.#",
    "#...#T.D#",
    "#########",
)
MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))


class VaultEnv(gym.Env):
    """Observation: the cell and whether the key is held, as one number. A move into a wall or a shut door does nothing.

    Every episode begins at S, whatever the seed. The vault (T, behind the door D) pays 1; nothing else pays.
    """

    metadata = {"render_modes": []}

    def __init__(self, time_limit=150, render_mode=None):
        self.render_mode = render_mode
        self.time_limit = time_limit
        self.width = len(PLAN[0])
        self.observation_space = gym.spaces.Discrete(2 * self.width * len(PLAN))
        self.action_space = gym.spaces.Discrete(4)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at, self.key, self.t = (1, 1), False, 0
        return self._obs(), {"plan": PLAN, "at": np.array(self.at)}

    def step(self, action):
        self.t += 1
        y, x = self.at[0] + MOVES[action][0], self.at[1] + MOVES[action][1]
        if PLAN[y][x] != "#" and (PLAN[y][x] != "D" or self.key):
            self.at = (y, x)
        self.key = self.key or PLAN[y][x] == "K"
        terminated = PLAN[self.at[0]][self.at[1]] == "T"
        truncated = self.t >= self.time_limit and not terminated
        return self._obs(), float(terminated), terminated, truncated, {"plan": PLAN, "at": np.array(self.at)}

    def _obs(self):
        return (self.at[0] * self.width + self.at[1]) * 2 + int(self.key)


gym.register(id="Vault-v0", entry_point=VaultEnv)
