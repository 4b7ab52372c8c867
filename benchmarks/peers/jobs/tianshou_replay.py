"""Tianshou's replays."""

import numpy as np
from driver import emit, per_call, settings
from tianshou.data import Batch, PrioritizedVectorReplayBuffer, VectorReplayBuffer

given = settings()
num, size, capacity = given["env_num"], given["batch_size"], given["capacity"]
rng = np.random.default_rng(0)
done = np.zeros(num, bool)
row = Batch(
    obs=rng.standard_normal((num, given["obs_dim"]), np.float32),
    obs_next=rng.standard_normal((num, given["obs_dim"]), np.float32),
    act=rng.standard_normal((num, given["action_dim"]), np.float32),
    rew=rng.standard_normal(num, np.float32), terminated=done, truncated=done, done=done, info=Batch(),
)  # fmt: skip
plain = VectorReplayBuffer(capacity, num)
prioritized = PrioritizedVectorReplayBuffer(capacity, num, alpha=0.6, beta=0.4)
lanes, priority = np.arange(num), rng.random(size) + 0.1


def both() -> None:
    _, index = prioritized.sample(size)
    prioritized.update_weight(index, priority)


for _ in range(capacity // num):
    plain.add(row, buffer_ids=lanes)
    prioritized.add(row, buffer_ids=lanes)
calls = {
    f"{capacity:,} rows: add {num}": lambda: plain.add(row, buffer_ids=lanes),
    f"{capacity:,} rows: sample {size}": lambda: plain.sample(size),
    f"prioritized, {capacity:,} rows: add {num}": lambda: prioritized.add(row, buffer_ids=lanes),
    f"prioritized, {capacity:,} rows: sample {size} and update {size}": both,
}
for name, call in calls.items():
    count, cost = per_call(call, given["least_s"])
    emit(given, name, count, cost, "tianshou", "torch", "numpy")
