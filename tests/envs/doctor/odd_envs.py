"""Envs for the doctor that are odd and correct, and a few whose fault lies below wrappers or in what they wait for."""

import time
from typing import Any

import gymnasium
import numpy as np
from doctor_envs import Masked, Push, Walk
from gymnasium import spaces


class SlowReset(Walk):
    def begin(self) -> None:
        time.sleep(0.01)
        super().begin()


class Endless(Walk):
    limit = 10**9

    def step(self, action: Any) -> Any:
        obs, reward, _, _, info = super().step(action)
        self.x = float(np.clip(self.x, -3, 3))
        return obs, reward, False, False, info


class Bandit(Walk):
    def step(self, action: Any) -> Any:
        return self.obs(), float(action == 1), True, False, {}


class Deterministic(Walk):
    def begin(self) -> None:
        self.count, self.x, self.v = 0, 0.0, 0.0

    def move(self, action: Any) -> None:
        self.v = 2.0 * int(action) - 1.0
        self.x += self.v
        self.count += 1


class Unbounded(Push):
    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.action_space = spaces.Box(-np.inf, np.inf, (1,), np.float64)

    def obs(self) -> Any:
        return np.array([self.x, self.v])


class Nested(Walk):
    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Dict(
            {
                "x": self.observation_space,
                "side": spaces.Discrete(2, start=1),
                "more": spaces.Tuple([spaces.MultiBinary(2)]),
            }
        )
        self.action_space = spaces.MultiDiscrete([2, 3])

    def move(self, action: Any) -> None:
        super().move(action[0])

    def obs(self) -> Any:
        more = (np.array([self.x > 1, self.x < -1], np.int8),)
        return {"x": super().obs(), "side": np.int64(1 + (self.x > 0)), "more": more}


class Negative(Walk):
    def step(self, action: Any) -> Any:
        obs, _, *rest = super().step(action)
        return obs, -abs(self.x), *rest


class Countdown(Walk):
    """A game of 12 rounds, which the observation counts: its end is no time limit."""

    def step(self, action: Any) -> Any:
        self.move(action)
        return self.obs(), float(self.x), self.count == 12, False, {}

    def obs(self) -> Any:
        return np.array([np.tanh(self.x), self.count / 12], np.float32)


class RaisesOutside(Walk):
    """Steps after an end are an error of the caller."""

    done = True

    def begin(self) -> None:
        super().begin()
        self.done = False

    def step(self, action: Any) -> Any:
        assert not self.done
        result = super().step(action)
        self.done = result[2] or result[3]
        return result


CORRECT = [Walk, Push, Masked, SlowReset, Endless, Bandit, Deterministic, Unbounded, Nested, Negative, Countdown,
           RaisesOutside]  # fmt: skip


class Sleeps(Walk):
    def step(self, action: Any) -> Any:
        time.sleep(0.005)
        return super().step(action)


class WrappingReward(Walk):
    def step(self, action: Any) -> Any:
        obs, _, *rest = super().step(action)
        return obs, np.uint8(0) - np.uint8(self.x > 0), *rest


class OneArray(Walk):
    def begin(self) -> None:
        super().begin()
        self.array = np.zeros(2, np.float32)

    def obs(self) -> Any:
        self.array[:] = self.x, self.v
        return self.array


def stacked_one_array() -> Any:
    """Four times the newest observation."""
    return gymnasium.wrappers.FrameStackObservation(OneArray(), 4)


#: kind of finding -> level, env
INSIDE: list[tuple[str, str, Any]] = [
    ("sleeps", "warning", Sleeps),
    ("reward-wraps", "warning", WrappingReward),
    ("obs-alias", "warning", stacked_one_array),
]
