"""Runs a recipe over seeds at its full budget and keeps the results in the ledger."""

import json
import logging
import math
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nervex.config.source import ConfigSource, apply_overrides, read_source
from nervex.entry.catalog import find_config
from nervex.entry.compile_config import CompiledConfig, compile_config
from nervex.entry.ledger import (
    Point,
    Record,
    config_hash,
    differences,
    hashed_keys,
    read_ledger,
    read_record,
    recipes,
    record_path,
    session,
    write_record,
)
from nervex.entry.ledger_table import all_table, put_section, recipe_table, write_page
from nervex.entry.plot_ledger import plot_records
from nervex.entry.run_result import RunResult
from nervex.entry.serial_entry import serial_pipeline
from nervex.entry.serial_parts import build_evaluator
from nervex.torch_utils.checkpoint import CheckpointManager
from nervex.utils.config_helper import flatten_dict
from nervex.utils.errors import ConfigError, RunFolderError
from nervex.utils.files import atomic_write_text
from nervex.worker.monitor.jsonl_sink import read_metrics
from nervex.worker.monitor.run_folder import RunFolder

_logger = logging.getLogger("nervex")

LEDGER = Path("benchmarks") / "ledger"
TABLE, PICTURE = "table.md", "curve.png"


@dataclass(frozen=True)
class Bench:
    """A recipe that is run over seeds.

    Attributes:
        source: recipe with its overrides.
        overrides: as they were given.
        compiled: the same, resolved, with the recipe's own seed.
        ledger: folder of the ledger.
        work: folder of the runs.
        final_episode: episodes of the final evaluation.
    """

    source: ConfigSource
    overrides: tuple[str, ...]
    compiled: CompiledConfig
    ledger: Path
    work: Path
    final_episode: int

    @property
    def name(self) -> str:
        """Name of the recipe."""
        return self.compiled.name

    @property
    def bar(self) -> float:
        """Mean return that solves the task; infinite: it has none."""
        return float(self.compiled.cfg.evaluator.stop_val)

    @property
    def hash(self) -> str:
        """Hash of the resolved configuration."""
        return config_hash(self.compiled.cfg.to_dict())


def bench_learn(
    config: str | Path,
    overrides: Iterable[str] = (),
    seeds: Sequence[int] = range(5),
    ledger: Path = LEDGER,
    work: Path | None = None,
    final_episode: int = 100,
    show: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> list[Record] | None:
    """Runs the seeds that the ledger lacks, one after the other, each to the end of its budget.

    A seed that was interrupted or killed goes on from its checkpoint. The bar does not end a run; the first env step at
    which it was reached, and confirmed by fresh episodes, is recorded.

    Args:
        config: YAML file or shipped name.
        overrides: ``key=value`` texts.
        seeds: seeds to have in the end.
        ledger: folder of the ledger.
        work: folder of the runs; None: ``runs/bench/NAME``.
        final_episode: fresh episodes that the last weights play at the end.
        show: show progress.
        say: is given a line for each seed.

    Returns:
        All records of the recipe, those of peers included; None: interrupted.

    Raises:
        ConfigError: the configuration is wrong, or has no budget.
        RunFolderError: a record or a run is of another configuration, or a folder is in use.
    """
    bench = _open(config, tuple(overrides), ledger, work, final_episode)
    missing = [seed for seed in seeds if not _is_recorded(bench, seed, say)]
    for seed in missing:
        record = _run_seed(bench, seed, show)
        if record is None:
            return None
        write_record(record_path(ledger, bench.name, seed), record)
        say(f"seed {seed}: final return {record.final.return_mean:.5g} over {record.final.episodes} episodes, best "
            f"{record.best.return_mean:.5g}, {record.env_step:,} env steps, {record.wall_s:.0f} s")  # fmt: skip
    return read_ledger(ledger, bench.name)


def write_tables(ledger: Path, names: Iterable[str], plot: bool = True) -> list[Path]:
    """Writes table and, if wanted, picture of recipes from their records, and returns the files.

    Raises:
        RunFolderError: a recipe has no records, or a file cannot be written.
    """
    written = []
    for name in names:
        records = read_ledger(ledger, name)
        write_page(ledger / name / TABLE, recipe_table(records))
        written.append(ledger / name / TABLE)
        if plot:
            written.append(plot_records(records, ledger / name / PICTURE))
    return written


def write_readme(ledger: Path, readme: Path) -> None:
    """Puts the tables of all recipes between the markers of ``readme``.

    Raises:
        RunFolderError: there are no records, or the page has no such place.
    """
    names = recipes(ledger)
    if not names:
        raise RunFolderError(f"no records in {ledger}; make some with: nervex bench learn NAME")
    put_section(readme, all_table([read_ledger(ledger, name) for name in names]))


def _open(config: str | Path, overrides: tuple[str, ...], ledger: Path, work: Path | None, final_episode: int) -> Bench:
    if final_episode < 1:
        raise ConfigError(f"the number of final episodes is {final_episode}; expected at least 1")
    if any(override.startswith("seed=") for override in overrides):
        raise ConfigError("'seed' cannot be set for a benchmark; give --first-seed and --seeds")
    source = apply_overrides(read_source(find_config(config)), overrides)
    compiled = compile_config(source)
    cfg = compiled.cfg
    if not math.isinf(cfg.max_wall_s):
        raise ConfigError(f"max_wall_s is {cfg.max_wall_s:g} in {source.name}, but seconds are no budget that every "
                          "machine could be held to; give max_env_step=N (max_train_iter=N "
                          "of a run that makes no env steps) and leave it out")  # fmt: skip
    if math.isinf(cfg.max_env_step) and math.isinf(cfg.max_train_iter):
        raise ConfigError(f"{source.name} has no budget that every seed could be run to; give max_env_step=N")
    work = Path("runs") / "bench" / compiled.name if work is None else work
    return Bench(source, overrides, compiled, ledger, work, final_episode)


def _is_recorded(bench: Bench, seed: int, say: Callable[[str], None]) -> bool:
    """Whether the ledger has this seed of this configuration.

    Raises:
        RunFolderError: it has it of another configuration.
    """
    path = record_path(bench.ledger, bench.name, seed)
    if not path.exists():
        return False
    record = read_record(path)
    given = flatten_dict(bench.source.data).keys()
    changed = differences(record.config, bench.compiled.cfg.to_dict(), given)
    if changed:
        raise RunFolderError(
            f"{path} is of another configuration: {_changes(record, bench, changed)}; remove it (and "
            f"{bench.work}) to run the recipe anew, or give another --ledger and --work"
        )
    say(f"seed {seed}: recorded, final return {record.final.return_mean:.5g} over {record.final.episodes} episodes")
    return True


def _changes(record: Record, bench: Bench, changed: Sequence[str]) -> str:
    old, new = hashed_keys(record.config), hashed_keys(bench.compiled.cfg.to_dict())
    texts = [f"{key.replace('/', '.')} is {old.get(key)!r} there, {new.get(key)!r} here" for key in changed[:3]]
    more = f" (and {len(changed) - 3} more)" if len(changed) > 3 else ""
    return "; ".join(texts) + more


def _run_seed(bench: Bench, seed: int, show: bool) -> Record | None:
    """Runs a seed, or the rest of it, to the end of its budget; None: interrupted."""
    run_dir = bench.work / f"seed_{seed}"
    sessions = _begin_session(bench, seed, run_dir)
    outcome = _train(bench, seed, run_dir, show)
    if outcome is None:
        return None
    compiled = compile_config(apply_overrides(bench.source, [f"seed={seed}"]))
    rows = [row for row in read_metrics(run_dir / "metrics.jsonl") if row.get("eval_return") is not None]
    result = outcome.result
    return Record(
        name=bench.name, seed=seed, env=str(result["env"]),
        curve=tuple(_point(row) for row in rows), final=_final_evaluation(bench, compiled, outcome),
        env_step=result["env_step"], train_iter=result["train_iter"], wall_s=result["wall_s"], cpu_s=result["cpu_s"],
        bar=None if math.isinf(bench.bar) else bench.bar, solved_env_step=result["solved_env_step"],
        config_hash=bench.hash, overrides=bench.overrides, config=compiled.cfg.to_dict(), sessions=tuple(sessions),
        started=sessions[0]["started"], finished=_now(),
    )  # fmt: skip


def _train(bench: Bench, seed: int, run_dir: Path, show: bool) -> RunResult | None:
    """Runs the pipeline to the end of the budget, or the rest of it, whether or not the bar is reached on the way."""
    source = apply_overrides(bench.source, [f"seed={seed}"])
    source.data["evaluator"] = {**(source.data.get("evaluator") or {}), "stop": False}
    resume = _has_checkpoint(run_dir)
    if not resume:
        _remove_empty_run(run_dir)
    outcome = serial_pipeline(source, run_dir=run_dir, resume=resume, show=show)
    return None if outcome.result["stop_reason"] == "interrupted" else outcome


def _begin_session(bench: Bench, seed: int, run_dir: Path) -> list[dict[str, Any]]:
    """Notes that this process runs the seed from now on, and returns all such notes.

    They lie beside the run folder, in ``seed_N.json``.

    Raises:
        RunFolderError: the run folder is of another configuration, or not of a benchmark.
    """
    path = run_dir.with_suffix(".json")
    notes: dict[str, Any] = {"config_hash": bench.hash, "sessions": []}
    if run_dir.is_dir():
        try:
            notes = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunFolderError(
                f"{run_dir} was not made by nervex bench learn: there is no sound {path.name} beside it; remove the "
                "folder, or give another --work"
            ) from error
        if notes["config_hash"] != bench.hash:
            raise RunFolderError(
                f"{run_dir} is a run of another configuration (hash {notes['config_hash']} there, {bench.hash} here); "
                "remove it, or give another --work"
            )
    notes["sessions"].append(session(_now()))
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, json.dumps(notes, indent=1) + "\n")
    return list(notes["sessions"])


def _has_checkpoint(run_dir: Path) -> bool:
    return CheckpointManager(run_dir / "checkpoints").latest() is not None


def _remove_empty_run(run_dir: Path) -> None:
    """Removes the folder of a run that was killed before its first checkpoint."""
    if run_dir.is_dir():
        folder = RunFolder(run_dir)
        folder.lock()  # refuses when another process is about to write the first checkpoint
        folder.close()
        shutil.rmtree(run_dir)


def _final_evaluation(bench: Bench, compiled: CompiledConfig, outcome: RunResult) -> Point:
    """Plays fresh episodes with the last weights."""
    env_num = min(bench.final_episode, len(compiled.evaluator_env_cfg))
    evaluator = build_evaluator(compiled, outcome.policy, (compiled.cfg.seed + 1) * 7919, env_num)
    try:
        result = evaluator.evaluate(bench.final_episode)
    finally:
        evaluator.close()
    step = outcome.result["env_step"] or outcome.result["train_iter"]
    return Point(step, result.mean, len(result.episode_return), result.std)


def _point(row: dict[str, Any]) -> Point:
    step = int(row["env_step"]) or int(row["train_iter"])
    return Point(step, float(row["eval_return"]), int(row["eval_episode"]), row.get("eval_return_std"))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
