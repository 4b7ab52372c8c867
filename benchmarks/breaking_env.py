"""What an env does that breaks; for nerveX and its peers, so that it needs NumPy only."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

FAULTS = ("kill", "exit", "raise", "nan", "shape", "dtype", "stop", "hang")
ENV_NUM, BREAK_AT = 4, 20


class Breaker:
    """Breaks an env once: a file that it writes tells the env's successor that it happened, and others when.

    Args:
        fault: one of ``FAULTS``; None: none.
        mark: path of that file.
        build_s: seconds that building the env takes.
    """

    def __init__(self, fault: str | None, mark: str, build_s: float) -> None:
        time.sleep(build_s)
        self._fault, self._mark, self._step = fault, Path(mark), 0

    def step(self) -> Any:
        """Returns the observation of the next step."""
        obs = np.zeros(4, np.float32)
        self._step += 1
        if self._fault is None or self._step != BREAK_AT or self._mark.exists():
            return obs
        self._mark.write_text(str(time.monotonic()))
        match self._fault:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "exit":
                os._exit(7)
            case "raise":
                raise ZeroDivisionError("the physics exploded")
            case "hang":
                time.sleep(10_000)
            case "nan":
                obs[0] = np.nan
            case "shape":
                return obs[:3]
            case "dtype":
                return obs.astype(np.float64)
        return obs


def broke_at(mark: str) -> float:
    """Returns when the fault happened, by the clock that all processes of a machine share."""
    return float(Path(mark).read_text())
