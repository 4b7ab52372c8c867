"""Times a run of the tutorial's own policy class against the built-in DQN with the same options, interleaved.

python benchmarks/tutorial_overhead.py --runs 5
"""

import argparse
import tempfile
from pathlib import Path

from common import save, spread

from nervex.config.source import apply_overrides, read_source
from nervex.entry import serial_pipeline
from nervex.entry.catalog import find_config

TUTORIAL = Path(__file__).parent.parent / "tests" / "policy" / "tutorial_dqn.py"


def seconds_per_step(overrides: list[str], seed: int, steps: int) -> tuple[float, float]:
    """Returns wall and CPU milliseconds per env step, evaluation left out."""
    fixed = [f"max_env_step={steps}", "evaluator.eval_freq=1000000", "evaluator.n_episode=1", "evaluator.stop_val=1000",
             "learner.save_freq=1000000"]  # fmt: skip
    source = apply_overrides(read_source(find_config("cartpole_dqn")), fixed + overrides)
    with tempfile.TemporaryDirectory() as folder:
        result = serial_pipeline(source, seed=seed, run_dir=Path(folder) / "run", show=False).result
    return 1e3 * result["wall_s"] / result["env_step"], 1e3 * result["cpu_s"] / result["env_step"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8000)
    args = parser.parse_args()
    table = {}
    for nstep in (1, 3):
        step = [f"policy.learn.algo.nstep={nstep}", f"policy.collect.algo.nstep={nstep}"]
        both: dict[str, list[tuple[float, float]]] = {"built-in": [], "tutorial": []}
        seconds_per_step(step, 0, 1000)  # caches
        for run in range(args.runs):
            both["built-in"].append(seconds_per_step(step, run, args.steps))
            both["tutorial"].append(seconds_per_step([*step, f"policy.import_names=[{TUTORIAL}]"], run, args.steps))
        rows = {
            f"{name} {unit} ms per env step": spread([figure[i] for figure in figures])
            for name, figures in both.items()
            for i, unit in enumerate(("wall", "CPU"))
        }
        pairs = list(zip(both["tutorial"], both["built-in"], strict=True))
        rows["ratio wall"] = spread([t[0] / b[0] for t, b in pairs])
        rows["ratio CPU"] = spread([t[1] / b[1] for t, b in pairs])
        table[f"nstep {nstep}"] = rows
        print(f"nstep {nstep}", rows, flush=True)
    print(save("tutorial_overhead", {"runs": args.runs, "env_steps": args.steps, "figures": table}))


if __name__ == "__main__":
    main()
