"""Stable-Baselines3's replay; it has none with priorities."""

from typing import Any

import numpy as np
from driver import emit, per_call, settings
from gymnasium.spaces import Box
from stable_baselines3.common.buffers import ReplayBuffer

given = settings()
num, size, capacity = given["env_num"], given["batch_size"], given["capacity"]
spaces = [Box(-1, 1, (given[key],)) for key in ("obs_dim", "action_dim")]
buffer = ReplayBuffer(capacity, *spaces, device="cpu", n_envs=num)
rng = np.random.default_rng(0)
obs, after = (rng.standard_normal((num, given["obs_dim"]), np.float32) for _ in range(2))
action = rng.standard_normal((num, given["action_dim"]), np.float32)
reward, done = rng.standard_normal(num, np.float32), np.zeros(num, bool)
info: list[dict[str, Any]] = [{} for _ in range(num)]


def add() -> None:
    buffer.add(obs, after, action, reward, done, info)


for _ in range(capacity // num):
    add()
for name, call in {f"add {num}": add, f"sample {size}": lambda: buffer.sample(size)}.items():
    count, cost = per_call(call, given["least_s"])
    emit(given, f"{capacity:,} rows: {name}", count, cost, "stable-baselines3", "torch", "numpy")
