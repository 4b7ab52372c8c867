"""What saving a large replay costs the training that goes on: how long it stands still, and CPU time.

    python benchmarks/saving.py flat 1000000        # rows of HalfCheetah's shapes
    python benchmarks/saving.py frames 100000       # stacks of 4 frames of noise

Between two saves as many rows come as training stores in about a minute.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from nervex.data import NStepWindow, Replay
from nervex.data.memory import human_bytes
from nervex.torch_utils.checkpoint import CheckpointManager
from nervex.torch_utils.checkpoint_writer import CheckpointWriter

LANES, ROWS = 8, 128
BLOCKS_A_MINUTE = {"flat": 6, "frames": 30}


def block(kind: str, generator: np.random.Generator) -> dict[str, torch.Tensor]:
    """Returns rows [ROWS, LANES, ...] as an actor hands them on."""
    shape = (ROWS, LANES)
    if kind == "frames":
        frame = generator.integers(0, 255, (ROWS + 3, LANES, 84, 84), dtype=np.uint8)
        obs = torch.from_numpy(np.stack([frame[i : i + ROWS] for i in range(4)], axis=2))
    else:
        obs = torch.from_numpy(generator.standard_normal((*shape, 17), dtype=np.float32))
    return {
        "obs": obs,
        "action": torch.from_numpy(generator.standard_normal((*shape, 6), dtype=np.float32)),
        "reward": torch.zeros(shape),
        "valid": torch.ones(shape, dtype=torch.bool),
        "terminated": torch.zeros(shape, dtype=torch.bool),
        "truncated": torch.zeros(shape, dtype=torch.bool),
        "policy_version": torch.zeros(shape, dtype=torch.long),
        **{k: torch.zeros(shape, dtype=torch.int32) for k in ("lane_id", "episode_id", "episode_step")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["flat", "frames"])
    parser.add_argument("rows", type=int)
    parser.add_argument("--saves", type=int, default=4)
    args = parser.parse_args()
    torch.set_num_threads(1)
    generator, lanes = np.random.default_rng(0), np.arange(LANES)
    replay = Replay({"meta_maxlen": args.rows}, LANES, NStepWindow(1, 0.99))
    while replay.count < args.rows - ROWS * LANES:
        replay.push_data(block(args.kind, generator), lanes)
    with tempfile.TemporaryDirectory() as folder:
        writer, seen = CheckpointWriter(CheckpointManager(Path(folder))), set[int]()
        for number in range(args.saves):
            wall, cpu = time.perf_counter(), time.process_time()
            writer.save(number, {"replay": replay.state_dict()}, wait=False)
            still = time.perf_counter() - wall
            writer.wait()
            files = {f.stat().st_ino: f.stat().st_size for f in Path(folder).rglob("*.*") if f.is_file()}
            written = sum(size for inode, size in files.items() if inode not in seen)
            seen |= files.keys()
            on_disk, used = time.perf_counter() - wall, time.process_time() - cpu
            print(
                f"save {number}: {still:.3f} s of standstill, on the disk after {on_disk:.2f} s, "
                f"{used:.2f} s of CPU time, {human_bytes(written)} written",
                flush=True,
            )
            for _ in range(BLOCKS_A_MINUTE[args.kind]):
                replay.push_data(block(args.kind, generator), lanes)


if __name__ == "__main__":
    main()
