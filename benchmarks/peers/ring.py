"""The ring of ``benchmarks/truncation.py`` as Gymnasium has it, and how a peer's values of it are printed."""

import json
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch

STATES, LIMIT, GAMMA = 4, 3, 0.8


class Ring(gymnasium.Env):
    """State s of four pays s and leads to s + 1; episodes end at state 0, or are cut after three steps."""

    def __init__(self, end: str) -> None:
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (STATES,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(2)
        self._end = end

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        low, high = (1, STATES) if self._end == "terminated" else (0, 2)
        self._state = int(self.np_random.integers(low, high))
        self._count = 0
        return self._obs(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        reward = float(self._state)
        self._state = (self._state + 1) % STATES
        self._count += 1
        terminated = self._end == "terminated" and self._state == 0
        truncated = self._end == "truncated" and self._count == LIMIT
        return self._obs(), reward, terminated, truncated, {}

    def _obs(self) -> np.ndarray:
        return np.eye(STATES, dtype=np.float32)[self._state]


def report(peer: str, convention: str, learned: Callable[[str, str], list[float]]) -> None:
    """Prints a line of JSON for DQN and PPO, with either end.

    Args:
        peer: name of the library.
        convention: what resets its envs.
        learned: trains ``(kind, end)`` and returns the value of each state, [4].
    """
    torch.set_num_threads(1)
    for kind in ("dqn", "ppo"):
        for end in ("truncated", "terminated"):
            torch.manual_seed(0)
            np.random.seed(0)
            row = {"policy": f"{peer} {kind}", "convention": convention, "end": end}
            print(json.dumps({**row, "value": learned(kind, end)}), flush=True)
