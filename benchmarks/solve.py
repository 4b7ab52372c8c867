"""Trains a recipe over seeds and records when each was solved.

    python benchmarks/solve.py cartpole_dqn --seeds 10

Solved: an evaluation at or above ``evaluator.stop_val``, confirmed at once by 100 fresh episodes with the same weights.
"""

import argparse
import tempfile
from pathlib import Path

from common import save, spread

from nervex.config.source import apply_overrides, read_source
from nervex.entry import serial_pipeline
from nervex.entry.catalog import find_config

KEYS = ("seed", "solved", "stop_reason", "env_step", "train_iter", "best_eval_return", "last_eval_return",
        "last_eval_episode", "wall_s", "cpu_s")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    args = parser.parse_args()
    runs = []
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        source = apply_overrides(read_source(find_config(args.config)), args.overrides)
        with tempfile.TemporaryDirectory() as folder:
            result = serial_pipeline(source, seed=seed, run_dir=Path(folder) / "run", show=False).result
        runs.append({key: result[key] for key in KEYS})
        print(runs[-1], flush=True)
    summary = {
        "solved": f"{sum(r['solved'] for r in runs)} of {len(runs)}",
        **{key: spread([r[key] for r in runs]) for key in ("env_step", "train_iter", "wall_s", "cpu_s")},
    }
    print(summary)
    name = Path(args.config).stem.removesuffix("_default_config")
    print(save(f"solve_{name}", {"config": name, "overrides": args.overrides, "summary": summary, "runs": runs}))


if __name__ == "__main__":
    main()
