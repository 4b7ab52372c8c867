"""A replay of Atari transitions: how much memory a million take, how long a batch takes, and whether it is exact.

    python benchmarks/atari_replay.py                        # raw frames, then LZ4, a million transitions each
    python benchmarks/atari_replay.py --rows 100000 --env-id BreakoutNoFrameskip-v4 --codec lz4

Real games, played with random actions, are stored again and again until the replay is full, each time after a gap. The
batches are compared with what was played. Prints a table and writes ``results/atari_replay.json``.
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from common import save

from app_zoo.atari.envs.atari_env import AtariEnv
from nervex.data import NStepWindow, Replay
from nervex.data.memory import human_bytes
from nervex.worker.actor.env_manager.base_env_manager import BaseEnvManager

LANES, PLAYED, BLOCK, BATCH = 8, 2048, 64, 32


def played(env_id: str, steps: int) -> dict[str, np.ndarray]:
    """Returns what random actions lead to, columns [steps, LANES, ...]."""
    rng = np.random.default_rng(0)
    rows: dict[str, list[Any]] = {k: [] for k in ("obs", "action", "reward", "valid", "terminated", "truncated")}
    with BaseEnvManager(AtariEnv, [{"env_id": env_id}] * LANES, LANES) as manager:
        manager.seed(0)
        manager.launch()
        for _ in range(steps):
            ready = manager.ready_block()
            rows["obs"].append(ready.obs.copy())
            rows["action"].append(rng.integers(0, manager.action_spec.n, LANES))
            step = manager.step_block(rows["action"][-1], ready.lane_id)
            for name in ("reward", "valid", "terminated", "truncated"):
                rows[name].append(getattr(step, name).copy())
    return {k: np.stack(v) for k, v in rows.items()}


def blocks(columns: dict[str, np.ndarray]) -> Iterator[dict[str, Any]]:
    """Yields the rows as an actor hands them on; ``policy_version`` holds the number of each."""
    steps = len(columns["valid"])
    number = np.arange(steps * LANES).reshape(steps, LANES)
    zero = np.zeros((steps, LANES), np.int32)
    every = {**columns, "policy_version": number, "lane_id": zero, "episode_id": zero, "episode_step": zero}
    for first in range(0, steps, BLOCK):
        yield {k: torch.from_numpy(v[first : first + BLOCK]) for k, v in every.items()}


def wrong_rows(batch: dict[str, Any], columns: dict[str, np.ndarray]) -> int:
    """Returns how many rows of a batch are not bit by bit what was played."""
    time_step, lane = np.divmod(batch["policy_version"].numpy(), LANES)
    obs, after = columns["obs"][time_step, lane], columns["obs"][time_step + 1, lane]
    same = (batch["obs"].numpy() == obs).all(axis=(1, 2, 3)) & (batch["next_obs"].numpy() == after).all(axis=(1, 2, 3))
    return int(np.count_nonzero(~same))


def measured(columns: dict[str, np.ndarray], rows: int, lz4: bool) -> dict[str, Any]:
    """Fills a replay and reads it."""
    replay = Replay({"meta_maxlen": rows, "lz4": lz4}, LANES, NStepWindow(1, 0.99))
    lanes, added, begin = np.arange(LANES), 0, time.process_time()
    while added < rows:
        replay.mark_gap(lanes)
        for block in blocks(columns):
            replay.push_data(block, lanes)
            added += block["valid"].numel()
    fill_us = (time.process_time() - begin) / added * 1e6
    wrong, times = 0, []
    for i in range(1100):
        begin = time.perf_counter()
        batch = replay.sample(BATCH)
        times.append(time.perf_counter() - begin)
        assert batch is not None
        wrong += wrong_rows(batch, columns) if i < 100 else 0
    return {
        "rows": rows,
        "bytes": replay.storage.nbytes,
        "fill_us_per_row": round(fill_us, 2),
        "sample_ms": round(statistics.median(times[100:]) * 1e3, 3),
        "sample_p95_ms": round(statistics.quantiles(times[100:], n=20)[-1] * 1e3, 3),
        "compared": 100 * BATCH,
        "wrong": wrong,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env-id", default="PongNoFrameskip-v4")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--codec", nargs="*", default=["raw", "lz4"], choices=["raw", "lz4"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    columns = played(args.env_id, PLAYED)
    plain = 2 * columns["obs"][0, 0].nbytes * args.rows
    results = {}
    print(f"{args.env_id}, {args.rows:,} transitions; obs and next obs as arrays would take {human_bytes(plain)}")
    print("| frames | memory | add, µs CPU per row | sample 32, ms | p95 | rows compared, wrong |")
    print("| --- | --- | --- | --- | --- | --- |")
    for codec in args.codec:
        r = results[codec] = measured(columns, args.rows, codec == "lz4")
        print(
            f"| {codec} | {human_bytes(r['bytes'])} | {r['fill_us_per_row']} | {r['sample_ms']} | {r['sample_p95_ms']} "
            f"| {r['compared']:,}, {r['wrong']} |",
            flush=True,
        )
    save("atari_replay", {"env_id": args.env_id, "played": PLAYED * LANES, **results})


if __name__ == "__main__":
    main()
