"""TorchRL's replays; the one with priorities needs its C++ extension."""

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from driver import emit, per_call, settings
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, TensorDictPrioritizedReplayBuffer, TensorDictReplayBuffer

given = settings()
num, size, capacity = given["env_num"], given["batch_size"], given["capacity"]


def rows(number: int) -> TensorDict:
    obs, action = given["obs_dim"], given["action_dim"]
    return TensorDict(
        {"obs": torch.randn(number, obs), "next_obs": torch.randn(number, obs), "action": torch.randn(number, action),
         "reward": torch.randn(number), "done": torch.zeros(number, dtype=torch.bool)}, batch_size=[number],
    )  # fmt: skip


def filled(make: Any, **options: Any) -> Any:
    buffer = make(storage=LazyTensorStorage(capacity), batch_size=size, **options)
    block = rows(10_000)
    while len(buffer) < capacity:
        buffer.extend(block)
    return buffer


step, priority = rows(num), torch.rand(size)
plain = filled(TensorDictReplayBuffer)
calls: dict[str, Callable[[], Any]] = {
    f"{capacity:,} rows: add {num}": lambda: plain.extend(step),
    f"{capacity:,} rows: sample {size}": plain.sample,
}
with contextlib.suppress(NameError, ImportError, RuntimeError):
    prioritized = filled(TensorDictPrioritizedReplayBuffer, alpha=0.6, beta=0.4)

    def both() -> None:
        batch = prioritized.sample()
        batch["td_error"] = priority
        prioritized.update_tensordict_priority(batch)

    calls[f"prioritized, {capacity:,} rows: add {num}"] = lambda: prioritized.extend(step)
    calls[f"prioritized, {capacity:,} rows: sample {size} and update {size}"] = both
for name, call in calls.items():
    count, cost = per_call(call, given["least_s"])
    emit(given, name, count, cost, "torchrl", "tensordict", "torch")
