"""Writes the tables of README.md files from the records in results/.

python benchmarks/tables.py
"""

import json
import re
from pathlib import Path
from typing import Any

from common import RESULTS

HERE = Path(__file__).parent
Row = list[str]


def record(name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return data


def table(head: Row, rows: list[Row]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def put(path: Path, marker: str, text: str) -> None:
    page = path.read_text(encoding="utf-8")
    block = re.compile(rf"(<!-- {marker}:start -->\n).*?(<!-- {marker}:end -->)", re.DOTALL)
    assert block.search(page), f"{path} has no place for {marker}"
    path.write_text(block.sub(lambda m: m[1] + text + "\n" + m[2], page), encoding="utf-8")


def solve_summary(data: dict[str, Any]) -> str:
    summary = data["summary"]
    rows = [["seeds solved", summary["solved"], "", ""]]
    for name, key, form in (("env steps", "env_step", ",.0f"), ("updates", "train_iter", ",.0f"),
                            ("wall seconds", "wall_s", ".1f"), ("CPU seconds", "cpu_s", ".1f")):  # fmt: skip
        rows.append([name, *(format(summary[key][k], form) for k in ("median", "min", "max"))])
    return table(["CartPole-v1, DQN", "median", "min", "max"], rows)


def main() -> None:
    solved = record("solve_cartpole_dqn")
    runs = [
        [str(r["seed"]), f"{r['env_step']:,}", f"{r['train_iter']:,}", f"{r['last_eval_return']:.1f}",
         f"{r['wall_s']:.1f}", f"{r['cpu_s']:.1f}"]
        for r in solved["runs"]
    ]  # fmt: skip
    each = table(["seed", "env steps", "updates", "return over 100 episodes", "wall s", "CPU s"], runs)
    put(HERE / "README.md", "solve", f"{solve_summary(solved)}\n\n{each}")
    put(HERE.parent / "README.md", "measured", "Measured on 2 cores without a GPU, by `python benchmarks/solve.py "
        f"cartpole_dqn --seeds {len(runs)}` ([more](benchmarks/README.md)):\n\n{solve_summary(solved)}")  # fmt: skip
    overhead = record("tutorial_overhead")["figures"]
    rows = [
        [nstep, name, *(f"{figures[k]:.3f}" for k in ("median", "min", "max"))]
        for nstep, group in overhead.items()
        for name, figures in group.items()
    ]
    put(HERE / "README.md", "tutorial", table(["", "", "median", "min", "max"], rows))
    startup = record("startup")["figures"]
    rows = [[name, *(f"{f[k]:.2f}" for k in ("median", "min", "max"))] for name, f in startup.items()]
    put(HERE / "README.md", "startup", table(["seconds", "median", "min", "max"], rows))


if __name__ == "__main__":
    main()
