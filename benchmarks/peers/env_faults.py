"""What vector envs of other libraries make of an env that breaks: one line a fault.

python benchmarks/peers/env_faults.py gymnasium
python benchmarks/peers/env_faults.py sb3      # or tianshou, torchrl: by an interpreter that has it

Every case runs in a process of its own, which has ``--patience-s`` after the fault to go on; one that does not hangs.
"""

import argparse
import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
from breaking_env import BREAK_AT, ENV_NUM, FAULTS, Breaker, broke_at


class BreakingEnv(gymnasium.Env):
    """Endless episodes of zeros, until it breaks."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (4,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, fault: str | None, mark: str) -> None:
        self._breaker = Breaker(fault, mark, 0.0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return np.zeros(4, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self._breaker.step(), 0.0, False, False, {}


def stepper(peer: str, fault: str, mark: str) -> Callable[[], Any]:
    """Starts the peer's vector env in processes and returns a function that steps it and gives the observations."""
    makers = [lambda i=i: BreakingEnv(fault if i == 0 else None, mark) for i in range(ENV_NUM)]
    if peer == "torchrl":
        return _torchrl_stepper(makers)
    if peer == "gymnasium":
        envs: Any = gymnasium.vector.AsyncVectorEnv(makers)
    elif peer == "sb3":
        envs = importlib.import_module("stable_baselines3.common.vec_env").SubprocVecEnv(makers, "fork")
    else:
        envs = importlib.import_module("tianshou.env").SubprocVectorEnv(makers)
    envs.reset()
    return lambda: envs.step(np.zeros(ENV_NUM, np.int64))[0]


def _torchrl_stepper(makers: list[Callable[[], Any]]) -> Callable[[], Any]:
    library = importlib.import_module("torchrl.envs")
    envs = library.ParallelEnv(ENV_NUM, [lambda make=make: library.GymWrapper(make()) for make in makers])
    data = envs.rand_action(envs.reset())

    def step() -> Any:
        return envs.step(data.clone())["next", "observation"].numpy()

    return step


def play(peer: str, fault: str, mark: str) -> dict[str, Any]:
    """Steps past the fault and returns what happened."""
    step = stepper(peer, fault, mark)
    try:
        for _ in range(2 * BREAK_AT):
            obs = np.asarray(step())
            if obs.dtype == object:
                return {"outcome": "hands the wrong shape on"}
            if not np.isfinite(obs).all():
                return {"outcome": "hands the NaN on"}
    except Exception as e:
        return {"outcome": f"ends with {type(e).__name__}", "found_s": round(time.monotonic() - broke_at(mark), 3)}
    return {"outcome": "goes on unaware"}


def case(peer: str, fault: str, patience_s: float) -> dict[str, Any]:
    """Runs one case in a process group of its own, of which nothing is left afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        mark, said = Path(folder) / "mark", Path(folder) / "said"
        command = [sys.executable, __file__, peer, "--fault", fault, "--mark", str(mark)]
        with said.open("w") as out:  # no pipe: workers that outlive their parent would hold it open
            process = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            while process.poll() is None and not mark.exists():
                time.sleep(0.1)
            process.wait(patience_s)
            lines = said.read_text().splitlines() if process.returncode == 0 else []
            return json.loads(lines[-1]) if lines else {"outcome": f"ends with exit code {process.returncode}"}
        except subprocess.TimeoutExpired:
            return {"outcome": f"hangs (for {patience_s:g} s and more)"}
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=("gymnasium", "sb3", "tianshou", "torchrl"))
    parser.add_argument("--patience-s", type=float, default=60.0)
    parser.add_argument("--fault", choices=FAULTS)
    parser.add_argument("--mark")
    args = parser.parse_args()
    if args.fault:
        print(json.dumps(play(args.peer, args.fault, args.mark)), flush=True)
        os._exit(0)  # closing a vector env whose worker is gone may hang
    for fault in FAULTS:
        print(json.dumps({"peer": args.peer, "fault": fault, **case(args.peer, fault, args.patience_s)}), flush=True)


if __name__ == "__main__":
    main()
