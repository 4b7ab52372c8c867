"""Envs of nerveX's own kind for the doctor: a correct one, and ``BASES``, changes to it, by the kind of finding."""

from typing import Any

import numpy as np

from nervex.envs.base_env import BaseEnv, BaseEnvInfo, BaseEnvTimestep, EnvElementInfo


class Corridor(BaseEnv):
    """A ``BaseEnv`` that is correct: a cell that moves; the right end terminates, ``limit`` steps truncate."""

    limit = 30

    def __init__(self, cfg: Any) -> None:
        self.cfg = cfg
        self.rng = np.random.default_rng()

    def seed(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def reset(self) -> Any:
        self.cell, self.count, self.total = int(self.rng.integers(3)), 0, 0.0
        return self.obs()

    def obs(self) -> Any:
        return np.eye(8, dtype=np.float32)[self.cell]

    def step(self, action: Any) -> Any:
        self.cell = min(max(self.cell + (1 if action else -1), 0), 7)
        self.count += 1
        terminated = self.cell == 7
        truncated = not terminated and self.count >= self.limit
        reward = 1.0 if terminated else -0.1
        self.total += reward
        return BaseEnvTimestep(self.obs(), reward, terminated or truncated, self.ends(terminated, truncated))

    def ends(self, terminated: bool, truncated: bool) -> dict[str, Any]:
        info: dict[str, Any] = {"truncated": truncated}
        return {**info, "final_eval_reward": self.total} if terminated or truncated else info

    def close(self) -> None:
        pass

    def info(self) -> BaseEnvInfo:
        return BaseEnvInfo(
            1,
            EnvElementInfo(8, {"min": 0.0, "max": 1.0, "dtype": np.float32}),
            EnvElementInfo(2, {"min": 0, "max": 1, "dtype": np.int64, "kind": "discrete"}),
            EnvElementInfo(1, {"min": -0.1, "max": 1.0, "dtype": np.float32}),
        )

    def __repr__(self) -> str:
        return "Corridor()"


class NoTruncated(Corridor):
    def ends(self, terminated: bool, truncated: bool) -> dict[str, Any]:
        return {}


class OldTruncated(Corridor):
    def ends(self, terminated: bool, truncated: bool) -> dict[str, Any]:
        return {"TimeLimit.truncated": truncated}


class ScoreAddsUp(Corridor):
    every = 0.0

    def ends(self, terminated: bool, truncated: bool) -> dict[str, Any]:
        self.every += self.total if terminated or truncated else 0.0
        return {"truncated": truncated, "final_eval_reward": self.every}


class NoScore(Corridor):
    def ends(self, terminated: bool, truncated: bool) -> dict[str, Any]:
        return {"truncated": truncated}


class FlagsDisagree(Corridor):
    def ends(self, terminated: bool, truncated: bool) -> dict[str, Any]:
        return {"truncated": True}


class BaseFloat64(Corridor):
    def obs(self) -> Any:
        return np.eye(8)[self.cell]


class NoDtype(Corridor):
    def info(self) -> BaseEnvInfo:
        return super().info()._replace(obs_space=EnvElementInfo(8, {"min": 0.0, "max": 1.0}))


class ResetTuple(Corridor):
    def reset(self) -> Any:
        return super().reset(), {}


class RewardOutside(Corridor):
    def info(self) -> BaseEnvInfo:
        return super().info()._replace(rew_space=EnvElementInfo(1, {"min": 0.0, "max": 1.0, "dtype": np.float32}))


class Unsendable(Corridor):
    def __reduce__(self) -> Any:
        raise TypeError("holds a lock")


BASES: list[tuple[str, str, Any]] = [
    ("time-limit", "warning", NoTruncated),
    ("old-truncated", "warning", OldTruncated),
    ("score", "error", ScoreAddsUp),
    ("score", "note", NoScore),
    ("end-flags", "error", FlagsDisagree),
    ("obs-dtype", "error", BaseFloat64),
    ("space", "error", NoDtype),
    ("reset-return", "error", ResetTuple),
    ("reward-bounds", "warning", RewardOutside),
    ("pickle-env", "note", Unsendable),
]
