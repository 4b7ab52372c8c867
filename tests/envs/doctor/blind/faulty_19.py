"""Harbour: a ferry crosses among drifting boats and sees the nearest of them."""

import numpy as np

from nervex.envs import BaseEnv, BaseEnvInfo, BaseEnvTimestep, EnvElementInfo, register_env

BOATS = 9
SEEN = 4
SIGHT = 0.45


class FerryEnv(BaseEnv):
    """Observation: own position (2) and the offsets of the boats in sight (4 places, zeros where none is)."""

    def __init__(self, cfg):
        self._max_step = cfg.get("max_step", 80)
        self._rng = None
        self._seed = None

    def reset(self):
        if self._seed is not None or self._rng is None:
            self._rng = np.random.default_rng(self._seed)
            self._seed = None
        self._ferry = np.array([0.5, 0.0])
        self._boats = self._rng.uniform((0.0, 0.15), (2.0, 1.0), (BOATS, 2))
        self._drift = self._rng.normal(0.0, 0.01, (BOATS, 2))
        self._step_count = 0
        self._return = 0.0
        return self._obs()

    def step(self, action):
        move = ((-0.03, 0.0), (0.0, 0.03), (0.03, 0.0), (0.0, -0.03))[int(action)]
        self._ferry = np.clip(self._ferry + move, (0.0, 0.0), (2.0, 1.0))
        self._boats = self._boats + self._drift
        outside = (self._boats < 0.0) | (self._boats > (2.0, 1.0))
        self._drift = np.where(outside, -self._drift, self._drift)
        self._boats = np.clip(self._boats, 0.0, (2.0, 1.0))
        self._step_count += 1
        crashed = bool((np.linalg.norm(self._boats - self._ferry, axis=1) < 0.03).any())
        arrived = not crashed and bool(self._ferry[1] >= 1.0)
        truncated = not (crashed or arrived) and self._step_count >= self._max_step
        reward = 1.0 if arrived else -1.0 if crashed else -0.005
        self._return += reward
        done = crashed or arrived or truncated
        info = {"truncated": truncated}
        if done:
            info["final_eval_reward"] = self._return
        return BaseEnvTimestep(self._obs(), reward, done, info)

    def seed(self, seed):
        self._seed = seed

    def close(self):
        self._rng = None

    def info(self):
        return BaseEnvInfo(
            agent_num=1,
            obs_space=EnvElementInfo(2 + 2 * SEEN, {"min": -2.0, "max": 2.0, "dtype": np.float32}),
            act_space=EnvElementInfo(4, {"min": 0, "max": 3, "dtype": np.int64, "kind": "discrete"}),
            rew_space=EnvElementInfo(1, {"min": -1.0, "max": 1.0, "dtype": np.float32}),
        )

    def __repr__(self):
        return "FerryEnv()"

    def _obs(self):
        offset = self._boats - self._ferry
        distance = np.linalg.norm(offset, axis=1)
        order = np.argsort(distance)
        seen = offset[[i for i in order if distance[i] < SIGHT]]
        obs = np.concatenate([self._ferry, seen.ravel()])
        missing = 2 + 2 * SEEN - len(obs)
        return np.pad(obs, (0, max(missing, 0))).astype(np.float32)


register_env("ferry", FerryEnv)
