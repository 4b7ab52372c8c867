"""What every benchmark here shares: the machine, and where results go."""

import json
import os
import platform
import re
import statistics
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def hardware() -> dict[str, Any]:
    """Returns the machine; what runs here uses no accelerator."""
    model = "unknown"
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return {"cpu": model, "cores": os.cpu_count(), "accelerator": None, "system": platform.platform()}


def machine() -> dict[str, Any]:
    """Returns what a figure depends on."""
    packages = {name: version(name) for name in ("nervex", "torch", "numpy", "gymnasium")}
    return {**hardware(), "python": platform.python_version(), **packages}


def save(name: str, data: dict[str, Any]) -> Path:
    """Writes ``results/NAME.json``."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), **data}, indent=1) + "\n", encoding="utf-8")
    return path


def spread(values: list[float], digits: int = 3) -> dict[str, float]:
    """Returns minimum, median and maximum."""
    return {k: round(f(values), digits) for k, f in (("min", min), ("median", statistics.median), ("max", max))}


def put(path: Path, marker: str, text: str) -> None:
    """Writes ``text`` between the markers of a page."""
    page = path.read_text(encoding="utf-8")
    block = re.compile(rf"(<!-- {marker}:start -->\n).*?(<!-- {marker}:end -->)", re.DOTALL)
    assert block.search(page), f"{path} has no place for {marker}"
    path.write_text(block.sub(lambda m: m[1] + text + "\n" + m[2], page), encoding="utf-8")
