"""nerveX's replay: a vector step pushed, batches drawn, priorities given back; also at smaller sizes, for growth."""

from typing import Any

import numpy as np
import torch
from driver import emit, per_call, settings

from nervex.data import NStepWindow, Replay

PACKAGES = ("nervex", "torch", "numpy")


def columns(given: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Returns a row of every lane, [1, env_num, ...], as an actor hands it on."""
    num, generator = given["env_num"], torch.Generator().manual_seed(0)
    shape = (1, num)
    return {
        "obs": torch.randn(*shape, given["obs_dim"], generator=generator),
        "action": torch.randn(*shape, given["action_dim"], generator=generator),
        "reward": torch.randn(*shape, generator=generator),
        "valid": torch.ones(shape, dtype=torch.bool),
        "terminated": torch.zeros(shape, dtype=torch.bool),
        "truncated": torch.zeros(shape, dtype=torch.bool),
        "policy_version": torch.zeros(shape, dtype=torch.long),
        "lane_id": torch.arange(num)[None],
        "episode_id": torch.zeros(shape, dtype=torch.long),
        "episode_step": torch.zeros(shape, dtype=torch.long),
    }


def measure(given: dict[str, Any], capacity: int, sampler: str) -> None:
    """Fills a replay and prints its figures."""
    replay = Replay({"meta_maxlen": capacity, "sampler": sampler}, given["env_num"], NStepWindow(1, 0.99))
    row, lanes, size = columns(given), np.arange(given["env_num"]), given["batch_size"]
    for _ in range(max(capacity // given["env_num"], 10_000)):  # as in a long run: from then on they are compiled
        replay.push_data(row, lanes)
    title = f"{'' if sampler == 'uniform' else 'prioritized, '}{capacity:,} rows: "
    calls = {f"add {given['env_num']}": lambda: replay.push_data(row, lanes)}
    if sampler == "uniform":
        calls[f"sample {size}"] = lambda: replay.sample(size)
    else:
        priority = np.random.default_rng(0).random(size) + 0.1

        def both() -> None:
            batch = replay.sample(size)
            assert batch is not None
            replay.update({"index": batch["index"], "priority": priority})

        for _ in range(capacity // size // 4):  # so that priorities differ all over the tree
            both()
        calls[f"sample {size} and update {size}"] = both
    for name, call in calls.items():
        count, cost = per_call(call, given["least_s"])
        emit(given, title + name, count, cost, *PACKAGES)


if __name__ == "__main__":
    given = settings()
    for capacity in sorted({given["capacity"], *given.get("smaller", [])}, reverse=True):
        for sampler in ("uniform", "prioritized"):
            measure(given, capacity, sampler)
