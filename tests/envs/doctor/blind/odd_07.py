"""Bakery: how much bread and how much cake to bake, hour by hour; the score is the till, the reward is bounded."""

import numpy as np

from nervex.envs import BaseEnv, BaseEnvInfo, BaseEnvTimestep, EnvElementInfo, register_env


class BakeryEnv(BaseEnv):
    """Two integers are the action. The reward is the sign of the hour's profit, as games of Atari are often learned.

    ``final_eval_reward`` is the money in the till at the end, which is what the baker looks at; it is not the sum of
    the rewards. The shop shuts after 12 hours or when the till is empty; the hour is not observed, so that 12 hours are
    a time limit.
    """

    def __init__(self, cfg):
        self._rng = None
        self._seed = None

    def reset(self):
        if self._seed is not None or self._rng is None:
            self._rng = np.random.default_rng(self._seed)
            self._seed = None
        self._till = 40
        self._demand = self._rng.integers(0, 6, 2)
        self._hour = 0
        return self._obs()

    def step(self, action):
        bread, cake = int(action[0]), int(action[1])
        profit = 3 * min(bread, int(self._demand[0])) - 2 * bread + 8 * min(cake, int(self._demand[1])) - 6 * cake
        self._till += profit
        self._demand = np.clip(self._demand + self._rng.integers(-1, 2, 2), 0, 5)
        self._hour += 1
        broke = self._till <= 0
        truncated = not broke and self._hour == 12
        info = {"truncated": truncated, "profit": profit}
        if broke or truncated:
            info["final_eval_reward"] = float(self._till)
        return BaseEnvTimestep(self._obs(), int(np.sign(profit)), broke or truncated, info)

    def seed(self, seed):
        self._seed = seed

    def close(self):
        self._rng = None

    def info(self):
        return BaseEnvInfo(
            agent_num=1,
            obs_space={
                "demand": EnvElementInfo(2, {"min": 0.0, "max": 5.0, "dtype": np.float32}),
                "till": EnvElementInfo(1, {"min": -np.inf, "max": np.inf, "dtype": np.float32}),
            },
            act_space=EnvElementInfo((6, 4), {"min": 0, "max": 5, "dtype": np.int64, "kind": "multi_discrete"}),
            rew_space=EnvElementInfo(1, {"min": -1.0, "max": 1.0, "dtype": np.float32}),
        )

    def __repr__(self):
        return "BakeryEnv()"

    def _obs(self):
        return {"demand": self._demand.astype(np.float32), "till": np.array([self._till / 100.0], np.float32)}


register_env("bakery", BakeryEnv)
