"""How much slower is training with a save every minute? SAC on HalfCheetah with a replay of a million rows.

    python benchmarks/saving_while_training.py --minutes 12

One run; every other minute begins with a save. Updates are counted minute by minute, so that a minute with a save
stands beside one without on the same machine in the same state. The rows that fill the replay are those of a first
stretch with noise upon them; what the actor brings in a minute comes on top, as in any run.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import machine, save

from nervex.config.source import apply_overrides, read_source
from nervex.data.replay import Replay
from nervex.entry.catalog import find_config
from nervex.entry.compile_config import compile_config
from nervex.entry.serial_parts import build_parts
from nervex.entry.serial_run import SerialRun
from nervex.worker.monitor.run_folder import RunFolder
from nervex.worker.monitor.sink import MetricLog

BLOCK = 1024
OVERRIDES = ["replay_buffer.meta_maxlen=1000000", "actor.random_collect_size=1000", "evaluator.eval_freq=1000000000",
             "learner.save_freq=1000000000", "max_env_step=inf"]  # fmt: skip


def fill(replay: Replay, generator: np.random.Generator) -> None:
    """Fills the replay with rows like those that it holds."""
    batch = replay.sample(BLOCK)
    rows = {k: torch.as_tensor(batch[k]) for k in ("obs", "action", "reward")}
    rows["reward"] = rows["reward"].reshape(BLOCK, -1)[:, 0]  # the first of n steps
    flag, number = torch.zeros((BLOCK, 1), dtype=torch.bool), torch.zeros((BLOCK, 1), dtype=torch.int32)
    marks = {"valid": ~flag, "terminated": flag, "truncated": flag, "policy_version": number.long(),
             "lane_id": number, "episode_id": number, "episode_step": number}  # fmt: skip
    while replay.count < replay.capacity - BLOCK:
        noisy = {
            k: v + 0.01 * torch.from_numpy(generator.standard_normal(v.shape, np.float32)) for k, v in rows.items()
        }
        replay.push_data({k: v.unsqueeze(1) for k, v in noisy.items()} | marks, np.zeros(1, np.int64))


class Minutes:
    """A hook that begins every other stretch with a save and counts the updates of each."""

    def __init__(self, run: SerialRun, seconds: float) -> None:
        self._run, self._seconds = run, seconds
        self.rate: dict[bool, list[float]] = {False: [], True: []}  # updates a second, of stretches without and with
        self._begin: tuple[float, int] | None = None
        self._saves = False

    def __call__(self, learner: Any) -> None:
        now, done = time.perf_counter(), learner.last_iter.val
        if self._begin is None:
            if done >= 2000:  # compiled, and warm
                fill(self._run.parts.replay, np.random.default_rng(0))
                self._run.save()  # the first one writes everything
                self._begin = (time.perf_counter(), done)
            return
        start, before = self._begin
        if now - start < self._seconds:
            return
        self.rate[self._saves].append((done - before) / (now - start))
        self._saves = not self._saves
        self._begin = (now, done)
        if self._saves:
            learner.save_checkpoint()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="halfcheetah_sac")
    parser.add_argument("--minutes", type=float, default=12.0)
    parser.add_argument("--seconds", type=float, default=60.0, help="length of a stretch")
    args = parser.parse_args()
    source = read_source(find_config(args.recipe))
    apply_overrides(source, [*OVERRIDES, f"max_wall_s={60 * args.minutes + 120}"])
    compiled = compile_config(source)
    parts = build_parts(compiled)
    with (
        tempfile.TemporaryDirectory() as folder,
        RunFolder.create(Path(folder) / "run", compiled.name, 0) as run_folder,
    ):
        run_folder.config_path.write_text("{}\n", encoding="utf-8")
        run = SerialRun(compiled, parts, run_folder, MetricLog())
        minutes = Minutes(run, args.seconds)
        parts.learner.register_hook(minutes)
        run.run()
    parts.close()
    without, with_save = minutes.rate[False], minutes.rate[True]
    slower = [100 * (1 - b / a) for a, b in zip(without, with_save, strict=False)]
    result = {"recipe": args.recipe, "stretch_s": args.seconds, "updates_per_s_without": without,
              "updates_per_s_with_save": with_save, "slower_percent": slower}  # fmt: skip
    print(f"{len(slower)} pairs: {statistics.median(without):.1f} updates/s without, "
          f"{statistics.median(with_save):.1f} with a save: slower by {statistics.median(slower):.2f} % "
          f"({min(slower):.2f} to {max(slower):.2f})")  # fmt: skip
    print(save("saving_while_training", {"torch_threads": torch.get_num_threads(), **result}), machine()["cpu"])


if __name__ == "__main__":
    main()
