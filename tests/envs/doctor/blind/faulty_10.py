"""Fishing: cast, wait or pull; a bite can be felt for two steps only."""

import numpy as np

from nervex.envs import BaseEnv, BaseEnvInfo, BaseEnvTimestep, EnvElementInfo, register_env


class FishingEnv(BaseEnv):
    """Ten casts make an episode. Observation: line in the water, bite felt, steps since the cast, casts left."""

    def __init__(self, cfg):
        self._casts = cfg.get("casts", 10)
        self._max_step = cfg.get("max_step", 120)
        self._rng = None
        self._seed = None
        self._score = 0.0

    def reset(self):
        if self._seed is not None or self._rng is None:
            self._rng = np.random.default_rng(self._seed)
            self._seed = None
        self._left = self._casts
        self._in_water = False
        self._wait = 0
        self._bite_at = 0
        self._step_count = 0
        return self._obs()

    def step(self, action):
        reward = -0.01
        if action == 1 and not self._in_water:  # cast
            self._in_water = True
            self._wait = 0
            self._bite_at = int(self._rng.integers(2, 8))
        elif action == 2 and self._in_water:  # pull
            reward = 1.0 if self._bites() else -0.2
            self._in_water = False
            self._left -= 1
        elif self._in_water:
            self._wait += 1
        self._step_count += 1
        self._score += reward
        terminated = self._left == 0
        truncated = not terminated and self._step_count >= self._max_step
        info = {"truncated": truncated}
        if terminated or truncated:
            info["final_eval_reward"] = self._score
        return BaseEnvTimestep(self._obs(), reward, terminated or truncated, info)

    def seed(self, seed):
        self._seed = seed

    def close(self):
        self._rng = None

    def info(self):
        return BaseEnvInfo(
            agent_num=1,
            obs_space=EnvElementInfo(4, {"min": 0.0, "max": 1.0, "dtype": np.float32}),
            act_space=EnvElementInfo(3, {"min": 0, "max": 2, "dtype": np.int64, "kind": "discrete"}),
            rew_space=EnvElementInfo(1, {"min": -0.2, "max": 1.0, "dtype": np.float32}),
        )

    def __repr__(self):
        return "FishingEnv()"

    def _bites(self):
        return self._in_water and self._bite_at <= self._wait < self._bite_at + 2

    def _obs(self):
        wait = min(self._wait, 10) / 10 if self._in_water else 0.0
        return np.array([self._in_water, self._bites(), wait, self._left / self._casts], np.float32)


register_env("fishing", FishingEnv)
