"""Courier: ride between four towns, whose distances are in a database, to where a parcel has to go."""

import sqlite3

import numpy as np

from nervex.envs import BaseEnv, BaseEnvInfo, BaseEnvTimestep, EnvElementInfo, register_env

TOWNS = 4
DATABASE = sqlite3.connect(":memory:", check_same_thread=False)
DATABASE.execute("CREATE TABLE road (a INTEGER, b INTEGER, hours REAL)")
DATABASE.executemany(
    "INSERT INTO road VALUES (?, ?, ?)", [(0, 1, 1.0), (0, 2, 2.5), (0, 3, 4.0), (1, 2, 1.0), (1, 3, 2.0), (2, 3, 0.5)]
)


class CourierEnv(BaseEnv):
    """Observation: own town, town of the parcel's address (one-hot each), hours left. A delivery pays 1."""

    def __init__(self, cfg):
        self._hours = cfg.get("hours", 24.0)
        self._rng = None
        self._seed = None

    def reset(self):
        if self._seed is not None or self._rng is None:
            self._rng = np.random.default_rng(self._seed)
            self._seed = None
        self._at = int(self._rng.integers(TOWNS))
        self._left = self._hours
        self._return = 0.0
        self._new_parcel()
        return self._obs()

    def step(self, action):
        to = int(action)
        self._left -= self._ride(self._at, to)
        self._at = to
        terminated = self._left <= 0.0  # the shift is over; the observation tells the hours left
        reward = 0.0
        if not terminated and self._at == self._address:
            reward = 1.0
            self._new_parcel()
        self._return += reward
        info = {"truncated": False}
        if terminated:
            info["final_eval_reward"] = self._return
        return BaseEnvTimestep(self._obs(), reward, terminated, info)

    def seed(self, seed):
        self._seed = seed

    def close(self):
        self._rng = None

    def info(self):
        return BaseEnvInfo(
            agent_num=1,
            obs_space=EnvElementInfo(2 * TOWNS + 1, {"min": 0.0, "max": 1.0, "dtype": np.float32}),
            act_space=EnvElementInfo(TOWNS, {"min": 0, "max": TOWNS - 1, "dtype": np.int64, "kind": "discrete"}),
            rew_space=EnvElementInfo(1, {"min": 0.0, "max": 1.0, "dtype": np.float32}),
        )

    def __repr__(self):
        return "CourierEnv()"

    def _ride(self, a, b):
        if a == b:
            return 0.5
        row = DATABASE.execute("SELECT hours FROM road WHERE a = ? AND b = ?", (min(a, b), max(a, b))).fetchone()
        return row[0]

    def _new_parcel(self):
        self._address = (self._at + 1 + int(self._rng.integers(TOWNS - 1))) % TOWNS

    def _obs(self):
        obs = np.zeros(2 * TOWNS + 1, np.float32)
        obs[self._at] = obs[TOWNS + self._address] = 1.0
        obs[-1] = max(self._left, 0.0) / self._hours
        return obs  # [9]


register_env("courier", CourierEnv)
