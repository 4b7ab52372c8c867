"""Coins on a 5x5 board: walk over them before the time is up."""

import numpy as np

from nervex.envs import BaseEnv, BaseEnvInfo, BaseEnvTimestep, EnvElementInfo, register_env

SIZE = 5
MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))


class CoinEnv(BaseEnv):
    """Four coins at random cells. Observation: two planes (coins, walker), flattened."""

    coins = np.zeros((SIZE, SIZE), np.float32)

    def __init__(self, cfg):
        self._max_step = cfg.get("max_step", 40)
        self._rng = None
        self._seed = None

    def reset(self):
        if self._seed is not None or self._rng is None:
            self._rng = np.random.default_rng(self._seed)
            self._seed = None
        cells = self._rng.choice(SIZE * SIZE, 5, replace=False)
        self.coins[:] = 0.0
        self.coins.ravel()[cells[:4]] = 1.0
        self._at = divmod(int(cells[4]), SIZE)
        self._step_count = 0
        self._return = 0.0
        return self._obs()

    def step(self, action):
        dy, dx = MOVES[int(action)]
        y, x = self._at
        self._at = (min(max(y + dy, 0), SIZE - 1), min(max(x + dx, 0), SIZE - 1))
        reward = float(self.coins[self._at]) - 0.01
        self.coins[self._at] = 0.0
        self._step_count += 1
        self._return += reward
        terminated = not self.coins.any()
        truncated = not terminated and self._step_count >= self._max_step
        info = {"truncated": truncated}
        if terminated or truncated:
            info["final_eval_reward"] = self._return
        return BaseEnvTimestep(self._obs(), reward, terminated or truncated, info)

    def seed(self, seed):
        self._seed = seed

    def close(self):
        self._rng = None

    def info(self):
        return BaseEnvInfo(
            agent_num=1,
            obs_space=EnvElementInfo(2 * SIZE * SIZE, {"min": 0.0, "max": 1.0, "dtype": np.float32}),
            act_space=EnvElementInfo(4, {"min": 0, "max": 3, "dtype": np.int64, "kind": "discrete"}),
            rew_space=EnvElementInfo(1, {"min": -0.01, "max": 0.99, "dtype": np.float32}),
        )

    def __repr__(self):
        return "CoinEnv()"

    def _obs(self):
        walker = np.zeros((SIZE, SIZE), np.float32)
        walker[self._at] = 1.0
        return np.concatenate([self.coins.ravel(), walker.ravel()])  # [50]


register_env("coins", CoinEnv)
