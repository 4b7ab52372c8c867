"""Which env manager suits an env: a trial env is timed, and what each manager would take is estimated."""

import copy
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from nervex.envs.base_env import LeafSpec, spec_tree
from nervex.utils.errors import EnvFault, NerveXError
from nervex.worker.actor.env_manager.blocks import Blocks
from nervex.worker.actor.env_manager.env_runner import EnvRunner
from nervex.worker.actor.env_manager.worker_pool import usable_cores

AUTO = "auto"

_BUDGET_S = 0.005  # of timed steps; building and resetting the trial env comes on top
_WARM_UP = 5  # steps of cheap envs that are not counted
_LEAST = 3  # steps that are timed, however slow
_WAKE_UP_S = 100e-6  # per worker process and step: context switches and what Python does about them
_GAIN = 1.5  # worker processes must be so much faster: they cost memory and CPU time, and start slowly


class Choice(NamedTuple):
    """An env manager and why it was chosen.

    Attributes:
        kind: its name.
        reason: one line, with the measured time.
    """

    kind: str
    reason: str


def pick_env_manager(
    env_fn: Callable[[Any], Any],
    env_cfg: Sequence[Any],
    *,
    worker_num: int | None = None,
    cores: int | None = None,
    time_step: Callable[[Callable[[Any], Any], Any], tuple[float, int]] | None = None,
) -> Choice:
    """Returns the manager that steps the envs fastest among those whose rows are the same, bit for bit.

    That is ``vector`` where the env class says that its engine is exact (``exact_vector(cfgs)``); ``sync_subprocess``
    where worker processes are estimated to be clearly faster than one env after the other; else ``base``. The envs of
    the run are not touched, nor are Python's and NumPy's global generators.

    Args:
        env_fn: env class, or callable that takes a config and returns an env.
        env_cfg: one config per env.
        worker_num: processes that worker processes would be; None: one per core.
        cores: cores to reckon with; None: those that this process may use.
        time_step: returns the seconds of a step of an env and how many steps were timed; None: ``measured_step``.
    """
    num = len(env_cfg)
    exact = getattr(env_fn, "exact_vector", None)
    if exact is not None and hasattr(env_fn, "create_vector") and exact([copy.deepcopy(cfg) for cfg in env_cfg]):
        return Choice("vector", "the env has a native vector whose rows are those of single envs")
    cores = usable_cores() if cores is None else cores
    workers = min(num, worker_num or cores)
    if min(workers, cores) < 2:
        return Choice("base", f"there is nothing to share among processes with {num} env(s) on {cores} core(s)")
    try:
        step_s, count = (time_step or measured_step)(env_fn, env_cfg[0])
    except NerveXError as e:
        return Choice("base", f"a trial env failed, so that nothing was measured: {e}")
    in_turn_s = num * step_s
    pool_s = -(-num // min(workers, cores)) * step_s + workers * _WAKE_UP_S
    reason = (
        f"a step takes {_micros(step_s)} (median of {count}): {num} envs one after the other take "
        f"{_micros(in_turn_s)}, in {workers} worker processes about {_micros(pool_s)}"
    )
    return Choice("sync_subprocess" if pool_s * _GAIN < in_turn_s else "base", reason)


def measured_step(env_fn: Callable[[Any], Any], cfg: Any) -> tuple[float, int]:
    """Returns the median seconds of a step with random actions, of an env that is built for it and closed, and the
    number of timed steps.

    Raises:
        EnvFault: the env raised, or sent what it does not declare.
    """
    with _own_generators():
        try:
            declared = env_fn(copy.deepcopy(cfg))
            info = declared.info()
            declared.close()
        except Exception as e:
            raise EnvFault(f"a trial env raised {type(e).__name__}: {e}", 0, 0) from e
        specs = {"obs_spec": spec_tree(info.obs_space), "action_spec": spec_tree(info.act_space, is_action=True)}
        blocks = Blocks(**specs, env_num=1)
        runner = EnvRunner(0, env_fn, copy.deepcopy(cfg), blocks, **specs, seed=0)
        try:
            runner.reset(0)
            times = _timed(runner, blocks, specs["action_spec"])
        finally:
            runner.close()
    return statistics.median(times), len(times)


def _micros(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} µs" if seconds < 1e-4 else f"{seconds * 1e6:,.0f} µs"


def _timed(runner: EnvRunner, blocks: Blocks, action_spec: Any) -> list[float]:
    rng = np.random.default_rng(0)
    times: list[float] = []
    total = 0.0
    for t in range(10_000):
        obs = blocks.obs
        mask = obs["action_mask"][0, 0] if isinstance(obs, dict) and "action_mask" in obs else None
        _draw(blocks.action, action_spec, rng, mask)
        begin = time.perf_counter()
        runner.step(0)
        elapsed = time.perf_counter() - begin
        if t < _WARM_UP and elapsed < _BUDGET_S:
            continue
        times.append(elapsed)
        total += elapsed
        if total >= _BUDGET_S and len(times) >= _LEAST:
            break
    return times


def _draw(block: Any, spec: Any, rng: np.random.Generator, mask: Any) -> None:
    """Writes a random action into row 0."""
    if isinstance(spec, dict):
        for key, child in spec.items():
            _draw(block[key], child, rng, None)
    elif spec.kind == "discrete":
        allowed = np.flatnonzero(mask) if mask is not None else np.arange(spec.n)
        block[0] = rng.choice(allowed)
    elif spec.kind == "multi_discrete":
        block[0] = rng.integers(0, np.asarray(spec.n)) if mask is None else _allowed(spec, rng, mask)
    else:
        low, high = np.maximum(spec.low, -1.0), np.minimum(spec.high, 1.0)
        block[0] = low + (high - low) * rng.random(spec.shape)


def _allowed(spec: LeafSpec, rng: np.random.Generator, mask: np.ndarray) -> list[int]:
    heads = np.split(mask, np.cumsum(spec.n)[:-1])
    return [int(rng.choice(np.flatnonzero(head))) for head in heads]


@contextmanager
def _own_generators() -> Iterator[None]:
    """Puts Python's and NumPy's global generators back, which the trial env may have drawn from."""
    before = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
