"""Where the time of a run goes: trains a short stretch with timers around its parts, and measures its limit beside."""

import os
import platform
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml

from nervex.config.source import ConfigSource
from nervex.entry.compile_config import CompiledConfig, compile_config
from nervex.entry.profile_limit import (
    UPDATES,
    Cost,
    acting_products,
    env_cost,
    learning_products,
    products_cost,
    update_cost,
)
from nervex.entry.profile_meter import REST, Meter, Totals, descendants_cpu_s
from nervex.entry.serial_parts import SerialParts, build_parts
from nervex.entry.serial_run import SerialRun
from nervex.utils.errors import ConfigError
from nervex.worker.monitor.jsonl_sink import JsonlSink
from nervex.worker.monitor.run_folder import RunFolder
from nervex.worker.monitor.sink import MetricLog

PARTS = ("env", "act", "replay", "update", "evaluation", REST)
WARM_UPDATE = 32  # updates before the stretch: caches, allocator, compilation
DEFAULT_S = 10.0  # length of the stretch unless it is given
_PACKAGES = ("nervex", "torch", "numpy", "gymnasium")


@dataclass(frozen=True)
class Share:
    """What one part took of the stretch. All but ``calls`` and ``percent`` are milliseconds per env step.

    Attributes:
        percent: of the wall time of all parts.
        beside_ms: on the clock, in other threads, while the run did something else.
        calls: of functions of the part, in the whole stretch.
    """

    wall_ms: float
    cpu_ms: float
    percent: float
    beside_ms: float
    calls: int


@dataclass(frozen=True)
class Limit:
    """The run without anything but its envs and the products of its network.

    Attributes:
        wall_ms, cpu_ms: ``env``, ``act``, ``update`` and their ``total`` -> milliseconds per env step.
        wall_ratio, cpu_ratio: the limit's time as a part of what training took (evaluation left out).
        act_products, update_products: products and convolutions of one act, and of one update on average.
    """

    wall_ms: dict[str, float]
    cpu_ms: dict[str, float]
    wall_ratio: float
    cpu_ratio: float
    act_products: int
    update_products: float


@dataclass(frozen=True)
class Profile:
    """A measured stretch of training.

    Attributes:
        name: of the configuration.
        env_step, update: in the stretch.
        wall_s, cpu_s: of the stretch.
        env_step_per_s, update_per_s: by the clock, evaluation left out.
        worker_cpu_ms: CPU milliseconds per env step of the processes that the run has started.
        torch_threads: threads of torch.
        shares: part -> share.
        limit: how fast it could be.
        versions: of Python and packages.
        cores: of the machine.
    """

    name: str
    env_step: int
    update: int
    wall_s: float
    cpu_s: float
    env_step_per_s: float
    update_per_s: float
    worker_cpu_ms: float
    torch_threads: int
    shares: dict[str, Share]
    limit: Limit
    versions: dict[str, str]
    cores: int

    def as_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Returns what ``nervex profile`` prints."""
        limit = self.limit
        table = [f"{'':<12}{'wall ms':>10}{'CPU ms':>10}{'%':>7}{'limit ms':>10}   per env step"]
        for part, share in self.shares.items():
            bound = f"{limit.wall_ms[part]:.4f}" if part in limit.wall_ms else ""
            beside = f"   and {share.beside_ms:.4f} in other threads" if share.beside_ms else ""
            table.append(
                f"{part:<12}{share.wall_ms:>10.4f}{share.cpu_ms:>10.4f}{share.percent:>7.1f}{bound:>10}{beside}"
            )
        wall, cpu = (sum(getattr(share, key) for share in self.shares.values()) for key in ("wall_ms", "cpu_ms"))
        table.append(f"{'total':<12}{wall:>10.4f}{cpu:>10.4f}{100:>7.1f}{limit.wall_ms['total']:>10.4f}")
        if self.worker_cpu_ms:
            table.append(f"{'workers':<12}{'':>10}{self.worker_cpu_ms:>10.4f}          processes of the envs")
        packages = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        return [
            f"{self.name}: {self.env_step:,} env steps and {self.update:,} updates in {self.wall_s:.1f} s "
            f"({self.cpu_s:.1f} CPU s)",
            *table,
            f"{self.env_step_per_s:,.0f} env steps/s, {self.update_per_s:,.0f} updates/s (evaluation left out)",
            f"{limit.wall_ratio:.0%} of the limit by the clock, {limit.cpu_ratio:.0%} in CPU time; the limit: the bare "
            f"env, {limit.act_products} products per act, {limit.update_products:g} per update",
            f"torch threads: {self.torch_threads} ({self.cores} cores); {packages}",
        ]


def profile_config(source: ConfigSource, step_num: int | None = None) -> Profile:
    """Trains until a stretch of env steps is measured and returns where its time went.

    The run is the one that ``nervex train`` would make, in a folder of its own that is removed, without the evaluation
    at its very beginning. The stretch begins after ``WARM_UPDATE`` updates and holds whole loops. The timers stand
    around the parts' methods, and training takes no notice of them.

    Args:
        source: the configuration, with overrides applied.
        step_num: env steps of the stretch, at least; None: as many as take ``DEFAULT_S`` seconds, or as the budget has.

    Raises:
        ConfigError: a wrong configuration, or its budget ends before the stretch does.
    """
    if step_num is not None and step_num < 1:
        raise ConfigError(f"--steps is {step_num}; expected at least 1 env step")
    compiled = compile_config(source)
    if compiled.policy_class.data_path == "dataset":
        raise ConfigError(f"nervex profile measures runs that make env steps; {compiled.name} learns from a data set")
    parts = build_parts(compiled)
    try:
        stretch = Stretch(parts, step_num)
        with tempfile.TemporaryDirectory(prefix="nervex_profile_") as path:
            reason = _train(compiled, parts, stretch, Path(path) / "run")
        stretch.require(reason)
        return _profile(compiled, parts, stretch)
    finally:
        parts.close()


class Over(Exception):
    """The stretch is measured."""


class Stretch:
    """Puts a meter around the parts of a run and watches its loops, each of which begins with the command.

    Args:
        parts: of the run.
        step_num: env steps to measure; None: ``DEFAULT_S`` seconds.
    """

    def __init__(self, parts: SerialParts, step_num: int | None) -> None:
        self._parts = parts
        self._step_num = step_num
        self._begin: Moment | None = None
        self._now: Moment | None = None
        self._meter = meter = Meter()
        self._command = parts.command.step
        parts.command.step = self._loop  # type: ignore[method-assign]
        for name in ("ready_block", "step_block"):
            meter.wrap(parts.actor.env, name, "env")
        mode = parts.actor.policy
        timed = {"data_preprocess": "act", "forward": "act", "process_transition": "replay",
                 "get_train_sample": "replay"}  # fmt: skip
        parts.actor.policy = mode._replace(**{k: meter.timed(getattr(mode, k), part, k) for k, part in timed.items()})
        for name in ("push_data", "sample", "draw", "fetch", "received", "take_back", "update", "batches", "clear"):
            meter.wrap(parts.store, name, "replay")
        meter.wrap(parts.learner, "train", "update")
        meter.wrap(parts.evaluator, "eval", "evaluation")

    @property
    def env_step(self) -> int:
        """Env steps measured."""
        return 0 if self._begin is None or self._now is None else self._now.env_step - self._begin.env_step

    @property
    def update(self) -> int:
        """Updates measured."""
        assert self._begin is not None and self._now is not None
        return self._now.update - self._begin.update

    @property
    def totals(self) -> Totals:
        """What the meter has counted in the stretch."""
        assert self._begin is not None and self._now is not None
        return self._now.totals.since(self._begin.totals)

    @property
    def worker_cpu_s(self) -> float:
        """CPU seconds of the run's processes in the stretch."""
        assert self._begin is not None and self._now is not None
        return max(self._now.worker_cpu_s - self._begin.worker_cpu_s, 0.0)

    def require(self, reason: str | None) -> None:
        """Raises ConfigError where the run ended, for ``reason``, with too little measured; None: it did not end."""
        if reason == "interrupted":
            raise KeyboardInterrupt
        if reason is None or (self._step_num is None and self.env_step):
            return
        wanted = "one loop" if self._step_num is None else f"{self._step_num} env steps"
        raise ConfigError(
            f"the run ended ({reason}) after {self._parts.actor.env_step} env steps with {self.env_step} of them "
            f"measured, expected {wanted} after a warm-up of {WARM_UPDATE} updates; raise max_env_step"
            + ("" if self._step_num is None else ", or lower --steps")
        )

    def _loop(self) -> Any:
        """Stands in for the command at the beginning of a loop."""
        if self._parts.learner.last_iter.val >= WARM_UPDATE:
            self._read()
        return self._command()

    def _read(self) -> None:
        begins = self._begin is None
        p = self._parts
        wall = time.perf_counter()
        over = not begins and self._enough(wall)
        worker = descendants_cpu_s(os.getpid()) if begins or over else 0.0
        self._now = Moment(self._meter.read(), p.actor.env_step, p.learner.last_iter.val, wall, worker)
        if begins:
            self._begin = self._now
        if over:
            raise Over

    def _enough(self, wall: float) -> bool:
        assert self._begin is not None
        if self._step_num is None:
            return wall - self._begin.wall >= DEFAULT_S
        return self._parts.actor.env_step - self._begin.env_step >= self._step_num


@dataclass(frozen=True)
class Moment:
    """A run at the beginning of a loop."""

    totals: Totals
    env_step: int
    update: int
    wall: float
    worker_cpu_s: float


def _train(compiled: CompiledConfig, parts: SerialParts, stretch: Stretch, path: Path) -> str | None:
    """Runs until the stretch is over, and returns None, or why the run ended before."""
    folder = RunFolder.create(path, compiled.name, compiled.cfg.seed)
    with folder, MetricLog([JsonlSink(folder.metrics_path)]) as log:
        folder.write_config(yaml.safe_dump(compiled.cfg.to_dict(), sort_keys=False))
        run = SerialRun(compiled, parts, folder, log)
        run.evaluated_iter = parts.learner.last_iter.val  # no evaluation of the weights as they are made
        try:
            return run.run()
        except Over:
            return None
        finally:
            run.settle()  # or the folder would be removed while a checkpoint is written to it


def _profile(compiled: CompiledConfig, parts: SerialParts, stretch: Stretch) -> Profile:
    totals, steps = stretch.totals, stretch.env_step
    wall_s, cpu_s = sum(totals.wall_s.values()), sum(totals.cpu_s.values())
    shares = {}
    for part in PARTS:
        seconds = [source.get(part, 0.0) for source in (totals.wall_s, totals.cpu_s, totals.beside_s)]
        wall, cpu, beside = (1e3 * value / steps for value in seconds)
        calls = sum(count for (owner, _), count in totals.calls.items() if owner == part)
        shares[part] = Share(wall, cpu, 100 * seconds[0] / wall_s, beside, calls)
    training = Cost(wall_s - totals.wall_s.get("evaluation", 0.0), cpu_s - totals.cpu_s.get("evaluation", 0.0))
    workers = stretch.worker_cpu_s
    return Profile(
        name=compiled.name,
        env_step=steps,
        update=stretch.update,
        wall_s=wall_s,
        cpu_s=cpu_s,
        env_step_per_s=steps / training.wall_s,
        update_per_s=stretch.update / training.wall_s,
        worker_cpu_ms=1e3 * workers / steps,
        torch_threads=torch.get_num_threads(),
        shares=shares,
        limit=_limit(compiled, parts, stretch, Cost(training.wall_s, training.cpu_s + workers)),
        versions={"python": platform.python_version(), **_versions()},
        cores=os.cpu_count() or 1,
    )


def _limit(compiled: CompiledConfig, parts: SerialParts, stretch: Stretch, training: Cost) -> Limit:
    steps = stretch.env_step
    act, update = acting_products(parts), learning_products(parts)
    costs = {
        "env": env_cost(compiled, parts),
        "act": products_cost(act).times(stretch.totals.calls["act", "forward"] / steps),
        "update": update_cost(update).times(stretch.update / steps),
    }
    costs["total"] = Cost(*(sum(values) for values in zip(*costs.values(), strict=True)))
    return Limit(
        wall_ms={part: 1e3 * cost.wall_s for part, cost in costs.items()},
        cpu_ms={part: 1e3 * cost.cpu_s for part, cost in costs.items()},
        wall_ratio=costs["total"].wall_s * steps / training.wall_s,
        cpu_ratio=costs["total"].cpu_s * steps / training.cpu_s,
        act_products=len(act),
        update_products=len(update) / UPDATES,
    )


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
