"""What all drivers share: their settings, the clock, evaluation, the line of JSON for a figure.

A driver is called with its settings as one JSON argument, and runs in the environment of its peer, which need not have
more than NumPy and Gymnasium.
"""

import contextlib
import json
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

import numpy as np


def settings() -> dict[str, Any]:
    """Returns the settings of this run, and gives torch its threads where it is installed."""
    given: dict[str, Any] = json.loads(sys.argv[1])
    with contextlib.suppress(ImportError):
        import torch

        torch.set_num_threads(given["threads"])
    return given


def emit(given: dict[str, Any], metric: str, amount: float, cost: tuple[float, float], *packages: str,
         **more: Any) -> None:  # fmt: skip
    """Prints a figure: ``cost`` is (wall, CPU) seconds of ``amount`` units; none reached: 0 units."""
    versions = {"python": platform.python_version(), **{name: version(name) for name in packages}}
    line = {"metric": metric, "amount": amount, "wall_s": cost[0], "cpu_s": cost[1], "threads": given["threads"],
            "versions": versions, **more}  # fmt: skip
    print(json.dumps(line), flush=True)


def cpu_s() -> float:
    """Returns CPU seconds of this process and of its children that have ended."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


class Clock:
    """Wall and CPU seconds since it was made, without what is ``paused``."""

    def __init__(self) -> None:
        self._start = self._now()
        self._off = np.zeros(2)

    def read(self) -> tuple[float, float]:
        """Returns (wall, CPU) seconds."""
        wall, cpu = (self._now() - self._start - self._off).tolist()
        return wall, cpu

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves out what happens within."""
        before = self._now()
        yield
        self._off += self._now() - before

    def leave_out(self, cost: Any) -> None:
        """Leaves out (wall, CPU) seconds that were measured elsewhere."""
        self._off += cost

    def _now(self) -> np.ndarray:
        return np.array([time.perf_counter(), cpu_s()])


class Solved(Exception):
    """The goal is reached."""


class Solver:
    """Evaluates every ``eval_every`` env steps, off the clock, until the mean return reaches the goal.

    Args:
        given: settings with ``env``, ``goal``, ``eval_every``, ``eval_episodes``.
        act: maps observations float32 [b, ...] to greedy actions [b] or [b, A].
    """

    def __init__(self, given: dict[str, Any], act: Callable[[np.ndarray], Any]) -> None:
        import gymnasium

        self._given = given
        self._act = act
        self._envs = [gymnasium.make(given["env"]) for _ in range(given["eval_episodes"])]
        self._next = given["eval_every"]
        self.step = 0
        self.clock = Clock()

    def check(self, step: int) -> None:
        """Takes the number of env steps so far.

        Raises:
            Solved: the goal is reached.
        """
        self.step = step
        if step < self._next:
            return
        self._next += self._given["eval_every"] * (1 + (step - self._next) // self._given["eval_every"])
        with self.clock.paused():
            score = self._evaluate()
        if score >= self._given["goal"]:
            raise Solved

    def run(self, train: Callable[[], Any], *packages: str) -> None:
        """Runs ``train``, which calls :meth:`check`, and prints the figure."""
        amount = 0
        try:
            train()
        except Solved:
            amount = 1
        emit(self._given, f"to {self._given['goal']}", amount, self.clock.read(), *packages, env_step=self.step)

    def _evaluate(self) -> float:
        """Returns the mean return of one episode of each env, played side by side."""
        seeds = np.random.SeedSequence((self._given["seed"], self.step)).generate_state(len(self._envs))
        pairs = zip(self._envs, seeds.tolist(), strict=True)
        obs = np.stack([env.reset(seed=seed)[0] for env, seed in pairs]).astype(np.float32)
        total, live = np.zeros(len(self._envs)), np.ones(len(self._envs), dtype=bool)
        while live.any():
            action = np.asarray(self._act(obs))
            for i in np.flatnonzero(live):
                chosen = action[i].item() if action.ndim == 1 else action[i]
                obs[i], reward, terminated, truncated, _ = self._envs[i].step(chosen)
                total[i] += float(reward)
                live[i] = not (terminated or truncated)
        return float(total.mean())


def per_call(function: Callable[[], Any], least_s: float) -> tuple[int, tuple[float, float]]:
    """Returns calls and (wall, CPU) seconds of the middle of three blocks of calls that take ``least_s`` each."""
    function()
    blocks = []
    for _ in range(3):
        calls, clock = 0, Clock()
        while calls == 0 or time.perf_counter() - clock._start[0] < least_s:
            for _ in range(10):
                function()
            calls += 10
        blocks.append((calls, clock.read()))
    return sorted(blocks, key=lambda block: block[1][1] / block[0])[1]
