"""Rows of Stable-Baselines3 for ``benchmarks/truncation.py``, for the interpreter that has it: a line of JSON each."""

import json
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3 import DQN, PPO

STATES, LIMIT, GAMMA = 4, 3, 0.8


class Ring(gymnasium.Env):
    """The ring of ``benchmarks/truncation.py``."""

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


def learned(kind: str, end: str) -> list[float]:
    """Trains, and returns the value of each state, [4]."""
    net = {"net_arch": [16]}
    obs = torch.eye(STATES)
    if kind == "dqn":
        model: Any = DQN("MlpPolicy", Ring(end), gamma=GAMMA, learning_rate=0.01, buffer_size=4000, learning_starts=64,
                         train_freq=4, target_update_interval=40, seed=0, policy_kwargs=net, device="cpu")  # fmt: skip
        model.learn(6000)
        with torch.no_grad():
            value = model.q_net(obs).max(-1).values
    else:
        model = PPO("MlpPolicy", Ring(end), gamma=GAMMA, learning_rate=0.01, n_steps=64, batch_size=32, n_epochs=4,
                    seed=0, policy_kwargs=net, device="cpu")  # fmt: skip
        model.learn(8000)
        with torch.no_grad():
            value = model.policy.predict_values(obs)[:, 0]
    return value.double().tolist()


def main() -> None:
    """Prints the rows."""
    torch.set_num_threads(1)
    for kind in ("dqn", "ppo"):
        for end in ("truncated", "terminated"):
            row = {"policy": f"Stable-Baselines3 {kind}", "convention": "its DummyVecEnv", "end": end}
            print(json.dumps({**row, "value": learned(kind, end)}), flush=True)


if __name__ == "__main__":
    main()
