"""Stable-Baselines3's advantages."""

import torch
from driver import emit, per_call, settings
from gymnasium.spaces import Box, Discrete
from returns import rows
from stable_baselines3.common.buffers import RolloutBuffer

given = settings()
columns = rows(given)
buffer = RolloutBuffer(given["time"], Box(-1, 1, (4,)), Discrete(2), gamma=given["gamma"],
                       gae_lambda=given["lambda"], n_envs=given["lanes"])  # fmt: skip
buffer.rewards, buffer.values = columns["reward"], columns["value"]
buffer.episode_starts = columns["done"].astype("float32")
last = torch.from_numpy(columns["next_value"][-1])
count, cost = per_call(lambda: buffer.compute_returns_and_advantage(last, columns["done"][-1]), given["least_s"])
emit(given, "GAE", count, cost, "stable-baselines3", "torch", "numpy")
