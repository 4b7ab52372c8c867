"""cpprb's replays."""

import numpy as np
from cpprb import PrioritizedReplayBuffer, ReplayBuffer
from driver import emit, per_call, settings

given = settings()
num, size, capacity = given["env_num"], given["batch_size"], given["capacity"]
rng = np.random.default_rng(0)
shapes = {"obs": given["obs_dim"], "next_obs": given["obs_dim"], "action": given["action_dim"]}
columns = {**{name: {"shape": dim} for name, dim in shapes.items()}, "reward": {}, "done": {}}


def rows(number: int) -> dict[str, np.ndarray]:
    arrays = {name: rng.standard_normal((number, dim), np.float32) for name, dim in shapes.items()}
    return {**arrays, "reward": rng.standard_normal(number, np.float32), "done": np.zeros(number, np.float32)}


step, block, priority = rows(num), rows(10_000), rng.random(size) + 0.1
for title, kind in (("", ReplayBuffer), ("prioritized, ", PrioritizedReplayBuffer)):
    buffer = kind(capacity, columns)
    for _ in range(capacity // 10_000):
        buffer.add(**block)

    def both(buffer: PrioritizedReplayBuffer = buffer) -> None:
        buffer.update_priorities(buffer.sample(size)["indexes"], priority)

    calls = {f"add {num}": lambda buffer=buffer: buffer.add(**step)}
    calls |= (
        {f"sample {size} and update {size}": both} if title else {f"sample {size}": lambda b=buffer: b.sample(size)}
    )
    for name, call in calls.items():
        count, cost = per_call(call, given["least_s"])
        emit(given, f"{title}{capacity:,} rows: {name}", count, cost, "cpprb", "numpy")
