"""Which env manager and how many threads of torch are fastest here, found by trying them."""

import copy
import itertools
import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from nervex.envs.doctor.play import mask_of
from nervex.envs.doctor.spaces import draw
from nervex.torch_utils.device import pick_threads
from nervex.utils.errors import NerveXError
from nervex.utils.tree import tree_map
from nervex.worker.actor.env_manager.auto import pick_env_manager
from nervex.worker.actor.env_manager.env_manager import EnvManager
from nervex.worker.actor.env_manager.registry import create_env_manager

_TRY_S = 0.4  # of steps with a manager after its launch, or of updates with a number of threads
_UPDATES = 3  # timed at most
_HOPELESS = 10  # times slower in its first update: a number of threads that is tried no further
_GAIN = 1.1  # so much faster must be what is recommended over what is configured


def manager_advice(env_fn: Callable[[Any], Any], env_cfg: Sequence[Any], kind: str) -> str:
    """Returns a line on the managers: the env steps per second of each that the env has, and the fastest.

    Args:
        env_fn, env_cfg: the envs of the run.
        kind: what is configured.
    """
    kinds = ["base"]
    if hasattr(env_fn, "create_vector"):
        kinds.append("vector")
    choice = pick_env_manager(env_fn, env_cfg)
    if choice.kind == "sync_subprocess" or kind in ("sync_subprocess", "subprocess"):
        kinds.append("sync_subprocess")
    rates: dict[str, float] = {}
    for name in kinds:
        try:
            rates[name] = _rate(name, env_fn, env_cfg)
        except NerveXError:
            continue  # it does not serve this env; the run says so where it is configured
    if not rates:
        return "no manager could be tried"
    best = max(rates, key=lambda name: rates[name])
    shown = ", ".join(f"{name} {rate:,.0f}" for name, rate in rates.items())
    if len(rates) == 1:
        shown += f"; {choice.reason}"
    return f"{best} is the fastest for {len(env_cfg)} envs, in env steps per second: {shown}" + _change(
        rates, best, kind, "env.env_manager_type"
    )


def _rate(kind: str, env_fn: Callable[[Any], Any], env_cfg: Sequence[Any]) -> float:
    manager = create_env_manager(kind, env_fn, copy.deepcopy(list(env_cfg)))
    manager.seed(0)
    with manager:
        manager.launch()
        act = _random_actions(manager)
        steps, begin = 0, time.perf_counter()
        while time.perf_counter() - begin < _TRY_S:
            ready = manager.ready_block()
            manager.step_block(act(ready.obs, ready.lane_id), ready.lane_id)
            steps += len(ready.lane_id)
        return steps / (time.perf_counter() - begin)


def _random_actions(manager: EnvManager) -> Callable[[Any, np.ndarray], Any]:
    """Returns a function of observations [b, ...] and lanes [b] that gives actions [b, ...]; unless a mask has a say,
    they were drawn before, since drawing takes longer than many a step."""
    rng, spec = np.random.default_rng(0), manager.action_spec

    def stacked(rows: list[Any]) -> Any:
        return tree_map(lambda *leaves: np.stack(leaves), *(draw(spec, rng, "random", mask_of(r, spec)) for r in rows))

    if mask_of(manager.ready_block().obs, spec) is not None:
        return lambda obs, lane_id: stacked([tree_map(lambda x, i=i: x[i], obs) for i in range(len(lane_id))])
    blocks = itertools.cycle([stacked([None] * manager.lane_num) for _ in range(16)])
    return lambda obs, lane_id: tree_map(lambda x: x[lane_id], next(blocks))


def thread_advice(train: Callable[[], Any], param_num: int, batch_size: int) -> str:
    """Returns a line on the threads: the milliseconds of an update with one, two, ... of them, and the fastest.

    Args:
        train: makes one update.
        param_num: weights of the network.
        batch_size: rows of a batch.
    """
    configured = torch.get_num_threads()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    numbers = sorted({n for n in (1, 2, 4, 8, 16) if n <= cores} | {configured})
    taken: dict[str, float] = {}
    try:
        for number in numbers:
            torch.set_num_threads(number)
            first = _median_seconds(train, 1)  # warms up
            hopeless = first > _HOPELESS * min(taken.values(), default=math.inf)
            taken[str(number)] = first if hopeless else _median_seconds(train, _UPDATES)
    finally:
        torch.set_num_threads(configured)
    best = min(taken, key=lambda n: taken[n])
    shown = ", ".join(f"{n}: {seconds * 1e3:.3g}" for n, seconds in taken.items())
    speeds = {n: 1 / seconds for n, seconds in taken.items()}
    return (
        f"{best} of torch is the fastest for updates of {batch_size}, in ms per update: {shown} (by the network's "
        f"size: {pick_threads(param_num, batch_size)})" + _change(speeds, best, str(configured), "torch_threads")
    )


def _median_seconds(function: Callable[[], Any], most: int) -> float:
    taken: list[float] = []
    while len(taken) < most and sum(taken) < _TRY_S:
        begin = time.perf_counter()
        function()
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken)


def _change(speeds: Mapping[str, float], best: str, configured: str, key: str) -> str:
    now = speeds.get(configured)
    if best == configured or (now is not None and speeds[best] < _GAIN * now):
        return ""
    return f"; try {key}={best}"
