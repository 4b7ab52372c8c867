"""Plate spinning: give the plate a push before it gets slow, but not while it wobbles."""

import numpy as np

from nervex.envs import BaseEnv, BaseEnvInfo, BaseEnvTimestep, EnvElementInfo, register_env


class PlateEnv(BaseEnv):
    """Observation: spin and wobble. The plate falls below a spin of 0.2 or above a wobble of 1."""

    def __init__(self, cfg):
        self._max_step = cfg.get("max_step", 60)
        self._rng = None
        self._seed = None

    def reset(self):
        if self._seed is not None or self._rng is None:
            self._rng = np.random.default_rng(self._seed)
            self._seed = None
        self._spin = float(self._rng.uniform(0.7, 1.0))
        self._wobble = 0.0
        self._step_count = 0
        self._return = 0.0
        return self._obs()

    def step(self, action):
        self._spin *= 0.97
        self._wobble = 0.8 * self._wobble + float(np.abs(self._rng.normal(0.0, 0.02)))
        if action == 1:
            self._wobble += 0.25 * self._wobble + 0.05
            self._spin = min(self._spin + 0.1, 1.5)
        self._step_count += 1
        fallen = self._spin < 0.2 or self._wobble > 1.0
        time_up = self._step_count >= self._max_step
        reward = 0.0 if fallen else 1.0
        self._return += reward
        info = {}
        if fallen or time_up:
            info["TimeLimit.truncated"] = not fallen
            info["final_eval_reward"] = self._return
        return BaseEnvTimestep(self._obs(), reward, fallen or time_up, info)

    def seed(self, seed):
        self._seed = seed

    def close(self):
        self._rng = None

    def info(self):
        return BaseEnvInfo(
            agent_num=1,
            obs_space=EnvElementInfo(2, {"min": 0.0, "max": 2.0, "dtype": np.float32}),
            act_space=EnvElementInfo(2, {"min": 0, "max": 1, "dtype": np.int64, "kind": "discrete"}),
            rew_space=EnvElementInfo(1, {"min": 0.0, "max": 1.0, "dtype": np.float32}),
        )

    def __repr__(self):
        return "PlateEnv()"

    def _obs(self):
        return np.array([self._spin, self._wobble], np.float32)


register_env("plate", PlateEnv)
