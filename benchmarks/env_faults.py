"""Breaks one of four envs in every way there is, and measures what the env managers make of it.

python benchmarks/env_faults.py

``found`` is the time from the fault to its detection; for a stopped or hanging env without ``step_timeout_s``, which is
1 s here. ``back`` is the time from there until the lane has stepped again, without the 0.1 s that the env takes to be
built. What peers do is measured by ``peers/env_faults.py``.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from breaking_env import BREAK_AT, ENV_NUM, FAULTS, Breaker, broke_at
from common import save, spread

from nervex.envs import BaseEnv, BaseEnvInfo, BaseEnvTimestep, EnvElementInfo
from nervex.utils.errors import EnvFault
from nervex.worker.actor.env_manager import create_env_manager
from nervex.worker.actor.env_manager.fault_budget import FaultBudget

BUILD_S, STEP_TIMEOUT_S = 0.1, 1.0
KINDS = ("sync_subprocess", "subprocess", "base")


class BreakingEnv(BaseEnv):
    """Endless episodes of zeros, until it breaks."""

    def __init__(self, cfg: dict[str, Any]) -> None:
        self._breaker = Breaker(cfg["fault"], cfg["mark"], BUILD_S)

    def reset(self) -> Any:
        return np.zeros(4, np.float32)

    def step(self, action: Any) -> BaseEnvTimestep:
        return BaseEnvTimestep(self._breaker.step(), 0.0, False, {})

    def seed(self, seed: int) -> None:
        pass

    def close(self) -> None:
        pass

    def info(self) -> BaseEnvInfo:
        obs, reward = EnvElementInfo(4, {"dtype": np.float32}), EnvElementInfo(1, {"dtype": np.float32})
        return BaseEnvInfo(1, obs, EnvElementInfo(2, {"dtype": np.int64}), reward)

    def __repr__(self) -> str:
        return "BreakingEnv"


def measure(kind: str, fault: str, mark: str, found_at: list[float]) -> tuple[float, float]:
    """Returns the seconds until the fault was found, and from there until the env stepped again."""
    found_at.clear()
    configs = [{"fault": fault if i == 0 else None, "mark": mark} for i in range(ENV_NUM)]
    options: dict[str, Any] = {"step_timeout_s": STEP_TIMEOUT_S}
    options |= {"worker_num": ENV_NUM} if kind != "base" else {}
    options |= {"wait_num": ENV_NUM} if kind == "subprocess" else {}
    with create_env_manager(kind, BreakingEnv, configs, **options) as manager:
        manager.seed(0)
        manager.launch()
        for _ in range(2 * BREAK_AT):
            block = manager.step_block(np.zeros(ENV_NUM, np.int64), np.arange(ENV_NUM))
            if found_at and block.valid[0]:
                limit_s = STEP_TIMEOUT_S if fault in ("stop", "hang") else 0.0
                return found_at[0] - broke_at(mark) - limit_s, time.monotonic() - found_at[0] - BUILD_S
    raise AssertionError(f"{kind} has not found the fault '{fault}'")


def note_when(found_at: list[float]) -> None:
    """Makes every manager note when it finds a fault."""
    spend = FaultBudget.spend

    def noted(budget: FaultBudget, fault: EnvFault) -> None:
        found_at.append(time.monotonic())
        spend(budget, fault)

    FaultBudget.spend = noted  # type: ignore[method-assign]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    found_at: list[float] = []
    note_when(found_at)
    figures: dict[str, Any] = {}
    print("| env manager | fault | found after, s | back after, s |\n|---|---|---|---|")
    for kind in KINDS:
        for fault in FAULTS if kind != "base" else ("raise", "nan", "shape", "dtype"):
            pairs = []
            for _ in range(args.runs):
                with tempfile.TemporaryDirectory() as folder:
                    pairs.append(measure(kind, fault, str(Path(folder) / "mark"), found_at))
            found, back = (spread(list(values), 4) for values in zip(*pairs, strict=True))
            figures[f"{kind} {fault}"] = {"found": found, "back": back}
            limit = " + limit" if fault in ("stop", "hang") else ""
            shown = [f"{v['median']:.3f} ({v['max']:.3f})" for v in (found, back)]
            print(f"| `{kind}` | {fault} | {shown[0]}{limit} | {shown[1]} |", flush=True)
    print(save("env_faults", {"unit": "s", "runs": args.runs, "figures": figures}))


if __name__ == "__main__":
    main()
