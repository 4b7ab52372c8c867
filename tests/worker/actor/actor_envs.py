"""Envs of the tests of actor and evaluator; worker processes import this module, so that it needs no torch."""

import os
import signal
import sys
import time

import numpy as np

from nervex.envs.base_env import BaseEnv, BaseEnvInfo, BaseEnvTimestep, EnvElementInfo
from nervex.worker.actor.env_manager.env_runner import episode_seed

ACTION_NUM = 1000


def label_of(seed):
    """The number that an episode shows in its observations."""
    return seed % 4096


def long_label_of(seed):
    return seed % 2**22


def length_of(seed, longest=6):
    return 1 + seed // 4096 % longest


def ends_truncated(seed):
    return bool(seed >> 31)


def reward_of(seed, step):
    return float(label_of(seed) + step)


class SeededEnv(BaseEnv):
    """Observes (env, label of the episode, step, last action); an episode is a function of its seed.

    Config: ``env``, its number; ``longest`` episode; ``sleep_s`` before each step; ``nan_at`` a step.
    """

    def __init__(self, cfg):
        self.cfg = cfg

    def _obs(self, action):
        return np.array([self.cfg["env"], label_of(self.next_seed), self.step_count, action], np.float32)

    def reset(self):
        self.step_count = 0
        return self._obs(0)

    def step(self, action):
        time.sleep(self.cfg.get("sleep_s", 0))
        seed = self.next_seed
        reward = reward_of(seed, self.step_count)
        self.step_count += 1
        done = self.step_count >= length_of(seed, self.cfg.get("longest", 6))
        return BaseEnvTimestep(self._obs(action), reward, done, {"truncated": done and ends_truncated(seed)})

    def seed(self, seed):
        self.next_seed = seed

    def close(self):
        pass

    def info(self):
        return BaseEnvInfo(
            1,
            EnvElementInfo(4, {"dtype": np.float32}),
            EnvElementInfo(ACTION_NUM, {"dtype": np.int64}),
            EnvElementInfo(1, {"dtype": np.float32}),
        )

    def __repr__(self):
        return "SeededEnv"


def action_of(obs):
    """What the fake policy does: a function of the observation, and another one for each."""
    return (obs[..., 0] * 331 + obs[..., 1] * 7 + obs[..., 2] * 13 + obs[..., 3] * 17) % ACTION_NUM


def expected_rows(lane, seed, longest=6):
    """The rows of a lane without end, as the fake policy's actions make them; every one a dict."""
    episode = 0
    while True:
        episode_seed_ = episode_seed(seed, episode)
        length = length_of(episode_seed_, longest)
        obs = np.array([lane, label_of(episode_seed_), 0, 0], np.float32)
        for step in range(length + 1):
            valid = step < length
            action = int(action_of(obs))
            if valid:
                after = np.array([lane, label_of(episode_seed_), step + 1, action], np.float32)
            else:
                after = np.array([lane, label_of(episode_seed(seed, episode + 1)), 0, 0], np.float32)
            ended = step == length - 1
            truncated = ended and ends_truncated(episode_seed_)
            yield {
                "obs": obs.tolist(),
                "action": action,
                "next_obs": after.tolist(),
                "reward": reward_of(episode_seed_, step) if valid else 0.0,
                "done": ended and not truncated,
                "valid": valid,
                "terminated": ended and not truncated,
                "truncated": truncated,
                "lane_id": lane,
                "episode_id": episode,
                "episode_step": step,
                "since": step,
            }
            obs = after
        episode += 1


class FaultySeededEnv(SeededEnv):
    """Has the faults ``cfg['faults']``: ``{seed of an episode: (step, what)}``; step 0 is the reset.

    Its labels are long enough that no two episodes of a test share one.
    """

    def _obs(self, action):
        obs = super()._obs(action)
        obs[1] = long_label_of(self.next_seed)
        return obs

    def reset(self):
        return self._misbehave(0, super().reset())

    def step(self, action):
        obs, reward, done, info = super().step(action)
        return BaseEnvTimestep(self._misbehave(self.step_count, obs), reward, done, info)

    def _misbehave(self, step, obs):
        at, what = self.cfg.get("faults", {}).get(self.next_seed, (None, None))
        if step != at:
            return obs
        match what:
            case "raise":
                raise ZeroDivisionError("the physics exploded")
            case "exit":
                sys.exit(7)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "hang":
                time.sleep(1000)
            case "nan":
                return np.full_like(obs, np.nan)
            case "shape":
                return obs[:2]
            case "dtype":
                return obs.astype(np.float64)
        raise AssertionError(what)
