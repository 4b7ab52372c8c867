"""Probes of what an env does to its process: memory, files, threads, copies for other processes."""

import contextlib
import copy
import gc
import inspect
import io
import os
import pickle
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from types import ModuleType
from typing import Any

import cloudpickle
import numpy as np

from nervex.envs.doctor.finding import NOTE, WARNING, Broken
from nervex.envs.doctor.play import playing
from nervex.envs.doctor.trial import SEEDS, Trial

_SEGMENTS = 5
_LEAK_PER_STEP = 24  # bytes: a float in a list
_SLOW_S = 0.002  # of a step, from where on it is asked what it waits for
_LEAK_PER_SEGMENT = 2000  # bytes that interning and caches may add


def memory(trial: Trial) -> None:
    """Memory does not grow with steps, counted after resets, so that the record of an episode may be kept."""
    step_num = max(20, 2 * trial.prefix)
    with trial.fresh() as subject:
        held, played = [], []
        trial.clock.on = False  # its lists grow
        gc.freeze()  # what there is already need not be looked through each time
        tracemalloc.start()
        try:
            for segment in range(_SEGMENTS + 1):
                count = number = 0
                while count < step_num and (number == 0 or trial.left_s() > 0):
                    limit = step_num - count
                    for record in playing(subject, SEEDS[0] + number, segment, "random", limit, keep=False):  # noqa: B007
                        pass
                    count += max(subject.count, 1)
                    number += 1
                    record.actions.clear()
                subject.reset(SEEDS[0])
                gc.collect()
                held.append(tracemalloc.get_traced_memory()[0])
                played.append(count)
                if trial.left_s() < 0:
                    break
        finally:
            tracemalloc.stop()
            gc.unfreeze()
            trial.clock.on = True
    growth = np.diff(held)[1:]  # the first segment fills caches
    steps = np.asarray(played[2:])
    if len(growth) >= 3 and (growth > np.maximum(_LEAK_PER_SEGMENT, _LEAK_PER_STEP * steps)).all():
        trial.findings.add(
            WARNING,
            "memory",
            f"memory grows by {growth.mean() / steps.mean():,.0f} bytes a step over "
            f"{int(steps.sum())} steps, across resets",
            "empty in reset() what collects steps or episodes (lists, logs, caches)",
        )


def closing(trial: Trial) -> None:
    """``close`` works, also twice and before the first reset, and leaves no file or thread behind."""
    subject = trial.make()
    subject.close()
    before = _held()
    gc.freeze()
    for _ in range(2):
        with trial.fresh() as subject:
            subject.reset(SEEDS[0])
    with contextlib.suppress(Broken):
        subject.close()
    gc.collect()
    gc.unfreeze()
    after = _held()
    for name, (old, new) in {k: (before[k], after[k]) for k in before}.items():
        if new - old >= 2:
            trial.findings.add(
                WARNING,
                "close",
                f"two envs that were opened and closed left {new - old} {name} behind",
                "free in close() what reset() or __init__ opened",
            )


def _held() -> dict[str, int]:
    descriptors = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    return {"open file(s)": descriptors, "thread(s)": threading.active_count()}


def sending(trial: Trial, env_fn: Any, cfg: Any, send: Callable[[Any], bytes] = cloudpickle.dumps) -> None:
    """What makes the env can be sent to a worker process, and an env can be copied."""
    if env_fn is not None:
        try:
            send(env_fn)
            send(cfg)
        except Exception as e:  # whatever a reducer raises
            trial.findings.add(
                WARNING,
                "pickle-class",
                f"what makes the env cannot be sent to a worker process: {type(e).__name__}: {e}",
                "keep locks, files and simulators out of the class, its "
                "module and its config; env.env_manager_type: base needs no sending",
            )
            return
    with trial.fresh() as subject:
        subject.reset(SEEDS[0])
        try:
            pickle.dumps(subject.env)
        except Exception as e:  # whatever a reducer raises
            try:
                copy.deepcopy(subject.env)
            except Exception:
                trial.findings.add(
                    NOTE,
                    "pickle-env",
                    f"a running env can be neither pickled nor copied ({type(e).__name__}: {e})",
                    "nothing: workers build envs of their own; a saved env comes back by replaying its actions",
                )


def imports(trial: Trial) -> None:
    """The env's module does not load torch."""
    if trial.subject is None:
        return
    module = sys.modules.get(type(trial.subject.bare).__module__)
    held = vars(module).values() if module is not None else ()
    names = [value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None) for value in held]
    if any(isinstance(name, str) and name.partition(".")[0] == "torch" for name in names):
        where = inspect.getsourcefile(type(trial.subject.bare)) or module
        trial.findings.add(
            NOTE,
            "torch",
            f"the env's module imports torch ({where}): every worker process loads it",
            "use NumPy in envs, or import torch elsewhere",
        )


def surroundings(trial: Trial, before: dict[str, Any]) -> None:
    """The env leaves the working directory and NumPy's error handling as they were."""
    for name, value in surrounding_state().items():
        if value != before[name]:
            trial.findings.add(
                WARNING,
                "surroundings",
                f"it changed the {name} of its process from {before[name]} to {value}",
                "put it back, or use a context manager",
            )


def surrounding_state() -> dict[str, Any]:
    """Returns what an env should leave alone."""
    return {"working directory": os.getcwd(), "numpy error state": np.geterr()}


class Printed(io.TextIOBase):
    """Takes what is printed, and keeps the number of lines and the first of them."""

    def __init__(self) -> None:
        self.line_num = 0
        self.first = ""

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, text: str) -> int:
        """Takes a text."""
        self.line_num += sum(bool(line.strip()) for line in text.splitlines())
        self.first = self.first or text.strip().partition("\n")[0][:60]
        return len(text)


def printed(trial: Trial, out: Printed) -> None:
    """The env prints nothing."""
    if out.line_num:
        trial.findings.add(
            WARNING,
            "prints",
            f"it printed {out.line_num} line(s) to stdout, such as '{out.first}'",
            "use logging, at a level that is off by default",
        )


def slow(trial: Trial) -> None:
    """Says so where resets or single steps take much longer than steps."""
    step, reset = trial.clock.step, trial.clock.reset
    if not step or not reset:
        return
    median, slow_reset = float(np.median(step)), float(np.median(reset))
    per_episode = sum(map(len, trial.episodes)) / max(len(trial.episodes), 1)
    if slow_reset > 0.5 * per_episode * median and slow_reset > 0.02:
        trial.findings.add(
            NOTE,
            "slow-reset",
            f"a reset takes {slow_reset:.3g} s, a step {median:.3g} s: resets are much "
            f"of an episode of {per_episode:.0f} steps",
            "keep what can be reused from episode to episode; env_manager_type: subprocess serves the others meanwhile",
        )


def waiting(trial: Trial) -> None:
    """A step computes, and does not wait for a clock."""
    median = float(np.median(trial.clock.step)) if trial.clock.step else 0.0
    if median < _SLOW_S:
        return
    slept: list[float] = []
    sleep = time.sleep

    def counted(seconds: Any) -> None:
        slept.append(seconds)
        sleep(seconds)

    with trial.fresh() as subject:
        subject.reset(SEEDS[0])
        time.sleep = counted
        try:
            begin, cpu = time.perf_counter(), time.process_time()
            for _ in playing(subject, SEEDS[0], 0, "random", 3, keep=False):
                pass
            wall, computed = time.perf_counter() - begin, time.process_time() - cpu
        finally:
            time.sleep = sleep
    if sum(slept) > 0.5 * wall:
        trial.findings.add(
            WARNING,
            "sleeps",
            f"step() calls time.sleep, for {1e3 * sum(slept) / len(slept):.3g} ms; a step takes {1e3 * median:.3g} ms",
            "let render() keep the frame rate, and step() return at once",
        )
    elif computed < 0.2 * wall:
        trial.findings.add(
            NOTE,
            "waits",
            f"a step takes {1e3 * median:.3g} ms and computes for a part of it only ({100 * computed / wall:.0f} %)",
            "nothing, if it waits for a simulator; a frame rate belongs into render()",
        )
