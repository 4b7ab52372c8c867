"""Shows that runs of a recipe that are killed and resumed equal one that was not, bit for bit."""

import contextlib
import itertools
import math
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from nervex.config.source import apply_overrides, read_source
from nervex.entry.catalog import find_config
from nervex.entry.compile_config import CompiledConfig, compile_config
from nervex.entry.nursery import Nursery
from nervex.entry.serial_parts import settle_env_manager
from nervex.entry.state_diff import PartDiff, compare_states
from nervex.torch_utils.checkpoint import CHECKPOINTS, CheckpointManager
from nervex.utils.errors import ConfigError, NerveXError, RunFolderError
from nervex.utils.files import is_temporary
from nervex.worker.monitor.jsonl_sink import read_metrics
from nervex.worker.monitor.sink import without_time

_UPDATES, _ROLLOUTS = 300, 6  # of the run, unless --steps says otherwise
_SAVES, _ROWS = 8, 24  # in it
_POLL_S = 0.002
_KINDS = ("progress", "save", "start")
_NOT_EXACT = "not exactly: "
_LATE = "came too late, the run had ended"


class Kill(NamedTuple):
    """One SIGKILL.

    Attributes:
        kind: ``'progress'`` (between two rows of metrics), ``'save'`` (while a checkpoint is written) or ``'start'``
            (while the run starts or resumes).
        fraction: of the rows of metrics, after which it may come.
        delay: how far into that stretch, of its usual length.
    """

    kind: str
    fraction: float
    delay: float


@dataclass
class Watched:
    """What was seen of a run from outside.

    Attributes:
        start_s: seconds before the first row of metrics.
        row_s: mean seconds between two rows.
        save_s: mean seconds of a save that was seen.
        row_num: rows of metrics.
    """

    start_s: float = 1.0
    row_s: float = 0.1
    save_s: float = 0.01
    row_num: int = 0


@dataclass
class ResumeReport:
    """What ``verify_resume`` found.

    Attributes:
        kills: one line for each.
        parts: comparison of the final checkpoints, and of the metrics.
        not_exact: why the envs cannot be brought back, so that other things were checked; None: they can.
        problems: what is not as promised, one line each.
    """

    kills: list[str] = field(default_factory=list)
    parts: list[PartDiff] = field(default_factory=list)
    not_exact: str | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether everything is as promised."""
        return not self.problems

    def lines(self) -> list[str]:
        """Returns the report as text."""
        width = max((len(p.part) for p in self.parts), default=0)
        table = [
            f"{p.part:<{width}}  {p.leaf_num:>5} leaves  {p.digest[:16]}  "
            f"{'identical' if p.first is None else f'{p.different_num} differ: {p.first}'}"
            for p in self.parts
        ]
        if self.not_exact is not None:
            table = [f"not compared bit for bit: {self.not_exact}"]
        return [*table, *(f"problem: {p}" for p in self.problems)]


def verify_resume(
    config: str | Path,
    overrides: Iterable[str] = (),
    *,
    kills: int = 5,
    seed: int = 0,
    steps: int | None = None,
    run_dir: str | Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> ResumeReport:
    """Trains a short run twice, once undisturbed and once killed and resumed, and compares what the two leave.

    Args:
        config: YAML file or shipped name.
        overrides: ``key=value`` texts; sizes that they do not give are made small.
        kills: SIGKILLs.
        seed: of both runs, and of the instants of the kills.
        steps: env steps of the run; None: about 300 updates.
        run_dir: folder to keep both runs in; None: they are removed.
        say: is given lines as things happen.

    Raises:
        ConfigError: the configuration is wrong, or ``kills`` is less than 1.
        RunFolderError: ``run_dir`` holds something.
        NerveXError: the undisturbed run failed.
    """
    if kills < 1:
        raise ConfigError(f"--kills is {kills}; expected at least 1")
    words = list(overrides)
    compiled = settle_env_manager(compile_config(apply_overrides(read_source(find_config(config)), words)))
    words += _short(compiled, words, steps)
    with _folder(run_dir) as folder, contextlib.ExitStack() as stack:
        request = {"config": str(config), "overrides": words, "seed": seed}
        nurseries = [stack.enter_context(contextlib.closing(Nursery())) for _ in range(2)]
        verifier = _Verifier(request, folder, nurseries, say)
        return verifier.verify(_draw(kills, seed), compiled.cfg.env.get("env_manager_type", "base") == "subprocess")


class _Verifier:
    def __init__(
        self, request: dict[str, Any], folder: Path, nurseries: Sequence[Nursery], say: Callable[[str], None]
    ) -> None:
        self._request = request
        self._reference = folder / "uninterrupted"
        self._killed = folder / "killed"
        self._log = folder / "output.txt"
        self._nurseries = nurseries
        self._say = say
        self._usual = Watched()
        self._report = ResumeReport()
        self._left: set[str] = set()  # what earlier kills have left of their saves

    def verify(self, kills: Sequence[Kill], asynchronous: bool) -> ResumeReport:
        """Makes both runs and compares them."""
        start = time.monotonic()
        nursery = self._start(self._reference, 0)
        self._usual = watched = _watch(nursery, self._reference)
        rows = read_metrics(self._reference / "metrics.jsonl")
        self._say(f"uninterrupted: {rows[-1]['env_step']:,} env steps, {rows[-1]['train_iter']:,} iterations, "
                  f"{watched.row_num} rows of metrics, {time.monotonic() - start:.1f} s")  # fmt: skip
        for number, kill in enumerate(kills, start=1):
            nursery = self._start(self._killed, number)
            line = f"kill {number}: {self._kill(nursery, kill)}"
            self._report.kills.append(line)
            self._say(line)
        if kills and all(_LATE in line for line in self._report.kills):
            self._report.problems.append("no kill hit the run before it had ended; give more --steps")
        code = None
        nursery = self._start(self._killed, 0)
        while code is None:
            code = nursery.ended(1.0)
        if code != 0:
            self._report.problems.append(f"the killed run could not be resumed: {self._last_line()}")
            return self._report
        self._compare(asynchronous)
        return self._report

    def _start(self, run_dir: Path, number: int) -> Nursery:
        self._left = _saves(run_dir)
        nursery = self._nurseries[number % len(self._nurseries)]
        # killed so early that there is nothing to resume: the same command begins it
        resume = (run_dir / "config.yaml").is_file()
        nursery.start({**self._request, "run_dir": str(run_dir), "resume": resume}, self._log)
        return nursery

    def _kill(self, nursery: Nursery, kill: Kill) -> str:
        """Waits for the instant, kills, and returns what happened."""
        usual, metrics = self._usual, self._killed / "metrics.jsonl"
        wait_s = kill.delay * {"progress": usual.row_s, "save": 1.5 * usual.save_s, "start": usual.start_s}[kill.kind]
        least = 0 if kill.kind == "start" else int(kill.fraction * usual.row_num)
        code = None
        while code is None and _row_num(metrics) < least:
            code = nursery.ended(_POLL_S)
        if kill.kind == "save":
            while code is None and not _saves(self._killed) - self._left:
                code = nursery.ended(_POLL_S)
        if code is None:
            code = nursery.ended(wait_s)
        saving = _saves(self._killed) - self._left
        if code is None:
            code = nursery.kill()
        if code == 0:
            return _LATE
        if code != -9:
            self._report.problems.append(f"the run failed by itself before a kill: {self._last_line()}")
        where = "while it saved" if saving else {"start": "while it started"}.get(kill.kind, "between saves")
        return f"after {_row_num(metrics)} rows of metrics, {where}"

    def _compare(self, asynchronous: bool) -> None:
        report = self._report
        report.not_exact = "the env manager 'subprocess' is asynchronous, so that runs of one seed differ" if (
            asynchronous
        ) else self._reason_of_new_episodes()  # fmt: skip
        if report.not_exact is not None:
            report.problems += _accounts(read_metrics(self._killed / "metrics.jsonl"))
            return
        one, other = (CheckpointManager(d / CHECKPOINTS).load_latest() for d in (self._reference, self._killed))
        trees = [{"weights": c.weights, **c.tree} for c in (one, other)]
        for tree, run in zip(trees, (self._reference, self._killed), strict=True):
            tree["metrics"] = without_time(read_metrics(run / "metrics.jsonl"))
        report.parts = compare_states(*trees)
        different = [p.part for p in report.parts if p.first is not None]
        if different:
            report.problems.append(f"the resumed run differs from the uninterrupted one in {', '.join(different)}")

    def _reason_of_new_episodes(self) -> str | None:
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if _NOT_EXACT in line]
        return lines[0].split(_NOT_EXACT, 1)[1] if lines else None

    def _last_line(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


def _draw(count: int, seed: int) -> list[Kill]:
    """Returns kills in the order of their fractions, the kinds in turn but shuffled; of several the first is while the
    run starts, before any checkpoint is there."""
    rng = random.Random(seed)
    kinds = [_KINDS[i % len(_KINDS)] for i in range(count)]
    rng.shuffle(kinds)
    fractions = sorted(rng.uniform(0.0, 0.9) for _ in range(count))
    return [Kill(kind, fraction, rng.random()) for kind, fraction in zip(kinds, fractions, strict=True)]


def _short(compiled: CompiledConfig, words: Sequence[str], steps: int | None) -> list[str]:
    """Returns overrides that make a run short and let it save often, but for keys that the user has given."""
    cfg = compiled.cfg
    if compiled.policy_class.data_path == "dataset":
        return _shortened(
            compiled, words, math.ceil(_UPDATES / cfg.policy.learn.train_step), cfg.policy.learn.train_step
        )
    learn, actor = cfg.policy.learn, cfg.actor
    rows = actor.n_sample or 200 * actor.n_episode
    if "epoch_per_collect" in learn:
        first = 0
        updates = learn.train_step or learn.epoch_per_collect * math.ceil(rows / learn.batch_size)
        loops = _ROLLOUTS
    else:
        first = min(actor.random_collect_size, 500) + learn.batch_size * learn.get("unroll_len", 1)
        updates = learn.train_step
        loops = math.ceil(_UPDATES / updates)
    if steps is not None:
        loops = max(1, (steps - first) // rows)
    budget = {
        "max_env_step": steps or first + loops * rows,
        "actor.random_collect_size": min(actor.random_collect_size, 500),
    }
    return _shortened(compiled, words, loops, updates, budget)


def _shortened(
    compiled: CompiledConfig, words: Sequence[str], loops: int, updates: int, budget: dict[str, Any] | None = None
) -> list[str]:
    """Returns overrides for a run of so many loops, each of so many updates; without ``budget``, that is its budget."""
    cfg = compiled.cfg
    total = max(1, loops * updates)
    wanted = {
        **({"max_train_iter": total} if budget is None else budget),
        "evaluator.eval_freq": loops,
        "evaluator.n_episode": min(cfg.evaluator.n_episode, 2),
        "evaluator.stop": "false",
        "learner.save_freq": max(1, total // _SAVES),
        "learner.log_freq": max(1, total // _ROWS),
        "env.env_manager_type": cfg.env.get("env_manager_type", "base"),
    }
    given = {word.partition("=")[0] for word in words}
    return [f"{key}={value}" for key, value in wanted.items() if key not in given]


@contextlib.contextmanager
def _folder(run_dir: str | Path | None) -> Iterator[Path]:
    if run_dir is None:
        with tempfile.TemporaryDirectory(prefix="nervex-verify-") as name:
            yield Path(name)
        return
    folder = Path(run_dir)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunFolderError(f"{folder} is not empty; give another --run-dir, or none to keep nothing")
    folder.mkdir(parents=True, exist_ok=True)
    yield folder


def _watch(nursery: Nursery, run_dir: Path) -> Watched:
    """Follows the undisturbed run to its end."""
    start = time.monotonic()
    seen, saves, saving_since, first = Watched(), [], 0.0, 0.0
    code = None
    while code is None:
        code = nursery.ended(_POLL_S)
        now = time.monotonic()
        if not first and _row_num(run_dir / "metrics.jsonl"):
            first = now
        saving = bool(_saves(run_dir))
        if saving and not saving_since:
            saving_since = now
        elif saving_since and not saving:
            saves.append(now - saving_since)
            saving_since = 0.0
    if code != 0:
        log = (run_dir.parent / "output.txt").read_text(errors="replace").strip().splitlines()
        raise NerveXError(f"the run to compare with failed: {log[-1] if log else f'exit code {code}'}")
    seen.row_num = _row_num(run_dir / "metrics.jsonl")
    seen.start_s = (first or time.monotonic()) - start
    seen.row_s = (time.monotonic() - start - seen.start_s) / max(seen.row_num, 1)
    seen.save_s = sum(saves) / len(saves) if saves else seen.save_s
    return seen


def _row_num(metrics: Path) -> int:
    with contextlib.suppress(OSError):
        return metrics.read_bytes().count(b"\n")
    return 0


def _saves(run_dir: Path) -> set[str]:
    """Returns the hidden names of what is being written in ``checkpoints``, or was when a kill came."""
    with contextlib.suppress(OSError):
        return {entry.name for entry in os.scandir(run_dir / CHECKPOINTS) if is_temporary(Path(entry.name))}
    return set()


def _accounts(rows: list[dict[str, Any]]) -> list[str]:
    """Returns what is wrong with the order of the rows of a run that was resumed."""
    problems = []
    for key in ("env_step", "train_iter"):
        values = [row[key] for row in rows]
        if values != sorted(values):
            problems.append(f"metrics.jsonl goes back in {key}")
    trained = [row["train_iter"] for row in rows if row["kind"] == "train"]
    if len(trained) != len(set(trained)) or any(b - a != trained[0] for a, b in itertools.pairwise(trained)):
        problems.append(f"metrics.jsonl repeats or lacks rows: iterations {trained}")
    return problems
