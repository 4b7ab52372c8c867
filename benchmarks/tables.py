"""Writes the small tables of README.md from the records in results/.

python benchmarks/tables.py
"""

import json
from pathlib import Path
from typing import Any

from common import RESULTS, put
from harness.summary import table

HERE = Path(__file__).parent


def record(name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return data


def main() -> None:
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
