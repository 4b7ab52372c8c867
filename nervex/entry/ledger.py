"""The ledger of learning results: one JSON file per finished seed, under version control.

``LEDGER/NAME/seed_N.json`` is our seed N of recipe NAME; ``LEDGER/NAME/peer_WHO_seed_N.json`` is a seed of another
library on the same task, of the same form. Tables and pictures are made from these files alone.
"""

import dataclasses
import hashlib
import json
import math
import os
import platform
import subprocess
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import nervex
from nervex.utils.config_helper import flatten_dict
from nervex.utils.errors import RunFolderError
from nervex.utils.files import atomic_write_text, is_temporary, write_failure
from nervex.worker.monitor.run_folder import versions

SCHEMA = 1
_FREE_KEYS = (
    "seed", "common", "torch_threads", "learner/log_freq", "learner/save_freq", "learner/check_finite_freq",
)  # fmt: skip
_EXTRAS = ("mujoco", "ale-py", "envpool")


@dataclass(frozen=True)
class Point:
    """One evaluation: mean and standard deviation of the return over ``episodes``, after ``env_step`` env steps (or,
    where a run makes none, learner iterations)."""

    env_step: int
    return_mean: float
    episodes: int
    return_std: float | None = None


@dataclass(frozen=True)
class Record:
    """A finished seed.

    Attributes:
        name: recipe.
        seed: seed of the run.
        env: env of the recipe.
        curve: the evaluations on the way.
        final: the evaluation of the last weights, at the full budget.
        bar: mean return that solves the task; None: it has no such bar.
        solved_env_step: env step (learner iteration of a run without any) at which fresh episodes confirmed the bar
            first; None: never.
        env_step, train_iter: what the run took, in env steps and learner iterations.
        wall_s, cpu_s: the same in seconds, with the evaluations of ``curve`` and without the final one.
        peer: name, version and algorithm of the other library; empty: ours.
        source: where a peer's settings come from.
        config_hash: of the resolved configuration, see :func:`config_hash`.
        overrides: settings that were given beside the recipe's.
        config: resolved configuration.
        sessions: the stretches of the run, of which there are several where it was interrupted; each with its start
            (UTC), commit (None: unknown), whether code was changed since the commit, machine and versions.
        started, finished: UTC, ISO 8601.
    """

    name: str
    seed: int
    env: str
    curve: tuple[Point, ...]
    final: Point
    env_step: int
    wall_s: float
    cpu_s: float
    train_iter: int = 0
    bar: float | None = None
    solved_env_step: int | None = None
    peer: str = ""
    source: str = ""
    config_hash: str = ""
    overrides: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    sessions: tuple[Mapping[str, Any], ...] = ()
    started: str = ""
    finished: str = ""

    @property
    def offline(self) -> bool:
        """Whether the run made no env steps, so that its points lie over learner iterations."""
        return self.env_step == 0 < self.train_iter

    @property
    def best(self) -> Point:
        """The best evaluation, the final one included."""
        return max((*self.curve, self.final), key=lambda point: point.return_mean)


def record_path(ledger: Path, name: str, seed: int) -> Path:
    """Returns the file of one of our seeds."""
    return ledger / name / f"seed_{seed}.json"


def write_record(path: Path, record: Record) -> None:
    """Writes a record, whole or not at all.

    Raises:
        RunFolderError: it cannot be written.
    """
    data = {"schema": SCHEMA, **dataclasses.asdict(record), "best": dataclasses.asdict(record.best)}
    text = json.dumps(_plain(data), indent=1, allow_nan=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(path, text)
    except OSError as error:
        raise RunFolderError(write_failure(path, len(text.encode()), error)) from error


def read_record(path: Path) -> Record:
    """Reads a record.

    Raises:
        RunFolderError: the file cannot be read, is damaged, or is of a newer form.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["schema"] != SCHEMA:
            raise RunFolderError(f"{path} has schema {data['schema']}, expected {SCHEMA}; update nervex")
        known = {f.name for f in dataclasses.fields(Record)}
        values = {key: value for key, value in data.items() if key in known and value is not None}
        values["curve"] = tuple(_point(point) for point in data["curve"])
        values["final"] = _point(data["final"])
        for key in ("overrides", "sessions"):
            values[key] = tuple(values.get(key, ()))
        return Record(**values)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunFolderError(
            f"{path} is no record of the ledger ({type(error).__name__}: {error}); remove it, or bring it back"
        ) from error


def read_ledger(ledger: Path, name: str) -> list[Record]:
    """Returns the records of a recipe: ours, then those of each peer, by seed.

    Raises:
        RunFolderError: there are none, or one is damaged.
    """
    paths = [p for p in sorted((ledger / name).glob("*seed_*.json")) if not is_temporary(p)]
    if not paths:
        raise RunFolderError(f"no records in {ledger / name}; make some with: nervex bench learn {name}")
    return sorted(map(read_record, paths), key=lambda record: (record.peer, record.seed))


def recipes(ledger: Path) -> list[str]:
    """Returns the names of the recipes that the ledger has records of."""
    return sorted({path.parent.name for path in ledger.glob("*/*seed_*.json") if not is_temporary(path)})


def by_peer(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Returns peer -> its records; ours, if there are any, come first, under the empty name."""
    groups: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda record: record.peer):
        groups.setdefault(record.peer, []).append(record)
    return groups


def config_hash(config: Mapping[str, Any]) -> str:
    """Returns 16 hexadecimal digits that change with whatever may change a result: all keys of the resolved
    configuration but the seed, names, threads, and how often it is logged, saved and searched for NaN. Of a ``.py``
    file among the ``import_names`` only the name counts, so that two machines agree."""
    text = json.dumps(hashed_keys(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def hashed_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns ``a/b/c`` -> value of the keys that :func:`config_hash` is made of."""
    flat = flatten_dict(_plain(config))
    return {key: _without_folder(value) for key, value in flat.items() if not key.startswith(_FREE_KEYS)}


def differences(old: Mapping[str, Any], new: Mapping[str, Any], given: Collection[str] = ()) -> list[str]:
    """Returns the hashed keys in which two resolved configurations differ, ``a/b/c``, sorted.

    A key that only ``new`` has does not count unless it is among ``given``: it came with a later version, and at its
    default it changes nothing.
    """
    there, here = hashed_keys(old), hashed_keys(new)
    counted = there.keys() | (here.keys() & set(given))
    return sorted(key for key in counted if key not in there or key not in here or there[key] != here[key])


def session(started: str) -> dict[str, Any]:
    """Returns what a stretch of a run that begins now depends on."""
    found = versions("", 0)
    for extra in _EXTRAS:
        try:
            found[extra] = version(extra)
        except PackageNotFoundError:
            continue
    packages = {key: value for key, value in found.items() if key not in ("name", "seed", "platform")}
    return {"started": started, **_commit(), "machine": machine(), "versions": packages}


def machine() -> dict[str, Any]:
    """Returns processor, number of cores, accelerator (None: none) and system."""
    processor, info = platform.processor() or "unknown", Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        processor = names[0] if names else processor
    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": processor, "cores": os.cpu_count(), "accelerator": accelerator, "system": platform.platform()}


def _commit() -> dict[str, Any]:
    """The commit of the nerveX that runs, if that is a work tree of git, and whether its code differs from it."""
    package = Path(nervex.__file__).parent

    def git(*args: str) -> str | None:
        command = ["git", "-C", str(package), *args]
        try:
            return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return None

    if git("ls-files", "--error-unmatch", "__init__.py") is None:
        return {"commit": None, "dirty": None}
    changed = git("status", "--porcelain", "--", str(package), str(package.parent / "app_zoo"))
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if changed is None else bool(changed)}


def _point(data: Mapping[str, Any]) -> Point:
    return Point(int(data["env_step"]), float(data["return_mean"]), int(data["episodes"]), data.get("return_std"))


def _plain(value: Any) -> Any:
    """Mappings and sequences as JSON has them; infinity as ``'inf'``, as in a configuration file."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _without_folder(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_folder(item) for item in value]
    return Path(value).name if isinstance(value, str) and value.endswith(".py") else value
