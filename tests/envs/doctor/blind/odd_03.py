"""Buy or wait: six numbered rounds of a price that nobody can move."""

import numpy as np

from nervex.envs import BaseEnv, BaseEnvInfo, BaseEnvTimestep, EnvElementInfo, register_env

ROUNDS = 6


class AuctionEnv(BaseEnv):
    """A price is shown, the bid is the action; the price of the next round does not depend on it.

    The sixth round is the last one of the game, which is its rule and no time limit: the observation has the round, so
    that it tells the end, and what follows is worth 0.
    """

    def __init__(self, cfg):
        self._rng = None
        self._seed = None

    def reset(self):
        if self._seed is not None or self._rng is None:
            self._rng = np.random.default_rng(self._seed)
            self._seed = None
        self._round = 0
        self._price = float(self._rng.uniform(-1.0, 1.0))
        self._return = 0.0
        return self._obs()

    def step(self, action):
        bid = float(np.clip(action[0], -1.0, 1.0))
        reward = -((bid - self._price) ** 2)
        self._round += 1
        self._price = float(self._rng.uniform(-1.0, 1.0))
        self._return += reward
        terminated = self._round == ROUNDS
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
            obs_space=EnvElementInfo(1 + ROUNDS + 1, {"min": -1.0, "max": 1.0, "dtype": np.float32}),
            act_space=EnvElementInfo(1, {"min": -1.0, "max": 1.0, "dtype": np.float32, "kind": "box"}),
            rew_space=EnvElementInfo(1, {"min": -4.0, "max": 0.0, "dtype": np.float32}),
        )

    def __repr__(self):
        return "AuctionEnv()"

    def _obs(self):
        obs = np.zeros(1 + ROUNDS + 1, np.float32)
        obs[0] = self._price
        obs[1 + self._round] = 1.0
        return obs  # [8]


register_env("auction", AuctionEnv)
