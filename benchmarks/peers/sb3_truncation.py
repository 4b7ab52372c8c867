"""Rows of Stable-Baselines3 for ``benchmarks/truncation.py``, for the interpreter that has it: a line of JSON each."""

from typing import Any

import torch
from ring import GAMMA, STATES, Ring, report
from stable_baselines3 import DQN, PPO


def learned(kind: str, end: str) -> list[float]:
    """Trains, and returns the value of each state, [4]."""
    net = {"net_arch": [16]}
    obs = torch.eye(STATES)
    if kind == "dqn":
        model: Any = DQN("MlpPolicy", Ring(end), gamma=GAMMA, learning_rate=0.01, buffer_size=4000, learning_starts=64,
                         train_freq=4, target_update_interval=40, seed=0, policy_kwargs=net, device="cpu")  # fmt: skip
        model.learn(15000)
        with torch.no_grad():
            value = model.q_net(obs).max(-1).values
    else:
        model = PPO("MlpPolicy", Ring(end), gamma=GAMMA, learning_rate=0.01, n_steps=64, batch_size=32, n_epochs=4,
                    seed=0, policy_kwargs=net, device="cpu")  # fmt: skip
        model.learn(8000)
        with torch.no_grad():
            value = model.policy.predict_values(obs)[:, 0]
    return value.double().tolist()


if __name__ == "__main__":
    report("Stable-Baselines3", "its DummyVecEnv", learned)
