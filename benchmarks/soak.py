"""Does the memory of a run stay flat? Trains a recipe for a while and looks at its processes' memory.

    python benchmarks/soak.py cartpole_dqn --minutes 30 env.env_manager_type=sync_subprocess

Writes ``results/soak.json`` and ``results/soak.png``; the slope is that of a straight line through the second half, by
which the replay is full if ``replay_buffer.meta_maxlen`` is small enough.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from common import RESULTS, hardware, put
from matplotlib.figure import Figure

HERE = Path(__file__).resolve().parent
EVERY_S = 5.0
MIB = 1 << 20
_HELD = ("Pss_Anon:", "Pss_Shmem:")


def tree_rss(pid: int) -> int:
    """Returns the bytes of memory that a process and its descendants hold: what they allocated, and shared memory.

    Pages of libraries are left out; how they are shared changes with what else runs on the machine.
    """
    total, waiting = 0, [pid]
    while waiting:
        number = waiting.pop()
        try:
            rollup = Path(f"/proc/{number}/smaps_rollup").read_text(encoding="utf-8")
            for task in Path(f"/proc/{number}/task").iterdir():
                waiting += map(int, (task / "children").read_text(encoding="utf-8").split())
        except OSError:
            continue  # it has just ended
        total += sum(int(line.split()[1]) << 10 for line in rollup.splitlines() if line.startswith(_HELD))
    return total


def sample(recipe: str, overrides: list[str], seconds: float) -> tuple[list[float], list[int], list[int]]:
    """Trains, and returns the times in s, the bytes held, and the env steps made by then."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        budgets = [f"max_wall_s={seconds}", "max_env_step=inf", "evaluator.stop=false"]
        command = [sys.executable, "-m", "nervex", "train", recipe, *overrides, *budgets, "--run-dir", str(run)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        start, times, held, steps = time.monotonic(), [], [], []
        while process.poll() is None:
            now = time.monotonic() - start
            if now < seconds:  # afterwards the run ends, and its processes one by one
                times.append(now)
                held.append(tree_rss(process.pid))
                steps.append(_last_step(run / "metrics.jsonl"))
            time.sleep(EVERY_S)
    if process.returncode:
        raise SystemExit(f"the run ended with exit code {process.returncode}; try: {' '.join(command)}")
    return times, held, steps


def _last_step(metrics: Path) -> int:
    try:
        return int(json.loads(metrics.read_bytes().splitlines()[-1])["env_step"])
    except (OSError, IndexError, ValueError):
        return 0


def slope(times: list[float], held: list[int]) -> tuple[float, float]:
    """Returns MiB per hour of the second half, and the standard error."""
    half = len(times) // 2
    t, m = np.array(times[half:]) / 3600, np.array(held[half:]) / MIB
    (rate, _), covariance = np.polyfit(t, m, 1, cov=True)
    return float(rate), float(np.sqrt(covariance[0, 0]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--minutes", type=float, default=30.0)
    args = parser.parse_intermixed_args()
    times, held, steps = sample(args.recipe, args.overrides, 60 * args.minutes)
    rate, error = slope(times, held)
    half = len(times) // 2
    data = {
        "recipe": args.recipe, "overrides": args.overrides, "minutes": args.minutes, "mib_per_hour": round(rate, 3),
        "standard_error": round(error, 3), "mib_at_half": round(held[half] / MIB, 1),
        "mib_last": round(held[-1] / MIB, 1), "env_step": steps[-1], "env_step_at_half": steps[half],
        "date": datetime.now(UTC).date().isoformat(), "machine": hardware(),
    }  # fmt: skip
    (RESULTS / "soak.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot(np.array(times) / 60, np.array(held) / MIB)
    axes.set(xlabel="minutes", ylabel="MiB", ylim=(0, None), title=f"memory of {args.recipe} and its env processes")
    figure.savefig(RESULTS / "soak.png", dpi=120)
    text = (
        f"{args.minutes:g} minutes, {steps[-1]:,} env steps: {data['mib_at_half']:,} MiB at half time, "
        f"{data['mib_last']:,} MiB at the end; the second half grows by {rate:.2f} ± {error:.2f} MiB an hour.\n\n"
        "![memory over time](../benchmarks/results/soak.png)"
    )
    put(HERE.parent / "docs" / "reliability.md", "soak", text)
    print(json.dumps(data))
    return 0


if __name__ == "__main__":
    sys.exit(main())
