"""A small Gymnasium env under the contract, for the tests of the env managers."""

import time

import gymnasium
import numpy as np
from manager_envs import REWARD, TWO_ACTIONS

from nervex.envs.base_env import BaseEnv, BaseEnvInfo, BaseEnvTimestep, EnvElementInfo


class PoleEnv(BaseEnv):
    """CartPole with a short time limit; ``drift`` makes it depend on more than its seed."""

    def __init__(self, cfg):
        self.cfg = cfg
        self.env = None

    def reset(self):
        if self.env is None:
            self.env = gymnasium.make("CartPole-v1", max_episode_steps=20)
        obs, _ = self.env.reset(seed=self.next_seed)
        if self.cfg.get("drift"):
            obs = obs + np.float32(time.perf_counter() % 1)
        return obs

    def step(self, action):
        obs, reward, terminated, truncated, _ = self.env.step(action)
        info = {"terminated": terminated, "truncated": truncated and not terminated}
        return BaseEnvTimestep(obs, reward, terminated or truncated, info)

    def seed(self, seed):
        self.next_seed = seed

    def close(self):
        if self.env is not None:
            self.env.close()

    def info(self):
        return BaseEnvInfo(1, EnvElementInfo(4, {"dtype": np.float32}), TWO_ACTIONS, REWARD)

    def __repr__(self):
        return "PoleEnv"
