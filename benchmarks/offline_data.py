"""What the mixed Pendulum set holds, and whether CQL and IQL learn more from it than BC and 10 %-BC.

    python benchmarks/offline_data.py

Reads ``datasets/pendulum_mixed``, which any of the recipes makes (``nervex train pendulum_iql``), and the records
that there are of ``nervex bench learn NAME`` for pendulum_bc, pendulum_bc10, pendulum_cql and pendulum_iql; writes
``results/offline_data.json`` and ``results/offline_data.png``. Differences are of the mean final return over seeds,
with 95 % bootstrap intervals.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nervex.data.offline import OfflineData, open_dataset
from nervex.entry.ledger import machine, read_ledger, recipes
from nervex.utils.statistics import bootstrap_interval, difference_interval

HERE = Path(__file__).resolve().parent
RECIPES = ("pendulum_bc", "pendulum_bc10", "pendulum_cql", "pendulum_iql")
BASELINES = RECIPES[:2]


def mean(score: np.ndarray) -> np.ndarray:
    return score.mean(axis=-1)


def described(data: OfflineData) -> dict:
    """Returns the returns of each part of the set, in the order in which they were collected."""
    parts, begin = [], 0
    for part in data.info["collect"]:
        returns = data.episode_return[begin : begin + part["episodes"]]
        begin += part["episodes"]
        quartiles = np.quantile(returns, (0, 0.25, 0.5, 0.75, 1)).round(1).tolist()
        parts.append({**part, "mean": round(float(returns.mean()), 1), "min, quartiles, max": quartiles})
    return {"episodes": data.episode_num, "transitions": data.transition_num, "digest": data.digest, "parts": parts}


def compared(ledger: Path) -> dict:
    """Returns the final returns of each recipe, and how much better the offline policies are than the clones."""
    final = {
        name: np.array([record.final.return_mean for record in read_ledger(ledger, name) if not record.peer])
        for name in RECIPES
        if name in recipes(ledger)
    }
    means = {name: [round(x, 1) for x in bootstrap_interval(final[name], mean)] for name in final}
    differences = {
        f"{name} - {other}": [round(x, 1) for x in difference_interval(final[name], final[other], mean)]
        for name in RECIPES[2:]
        for other in BASELINES
        if name in final and other in final
    }
    seeds = {name: final[name].round(1).tolist() for name in final}
    return {"final return by seed": seeds, "mean [95 %]": means, "difference [95 %]": differences}


def draw(data: OfflineData, path: Path) -> None:
    """Draws the histogram of returns, part upon part."""
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    ends = np.cumsum([part["episodes"] for part in data.info["collect"]])
    parts = np.split(data.episode_return, ends[:-1])
    names = [" ".join([part["recipe"], part["act"], *part["overrides"]]) for part in data.info["collect"]]
    axes.hist(parts, bins=np.arange(-1900, 50, 50).tolist(), stacked=True, label=names)
    axes.set_xlabel("episode return")
    axes.set_ylabel("episodes")
    axes.set_title(f"{Path(str(data.path)).name}: {data.episode_num} episodes", loc="left")
    figure.legend(loc="outside lower center", frameon=False)
    figure.savefig(path, dpi=150, facecolor="white")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, default=Path("datasets") / "pendulum_mixed")
    parser.add_argument("--ledger", type=Path, default=HERE / "ledger")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    args = parser.parse_args()
    data = open_dataset(args.data)
    draw(data, args.out / "offline_data.png")
    result = {"data": described(data), **compared(args.ledger), "machine": machine()}
    (args.out / "offline_data.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: value for key, value in result.items() if key != "machine"}, indent=1))


if __name__ == "__main__":
    main()
