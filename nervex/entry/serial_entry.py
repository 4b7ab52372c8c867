"""Trains a policy in one process, from a configuration."""

import contextlib
import itertools
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from nervex.config.source import ConfigSource, read_source
from nervex.entry.catalog import find_config
from nervex.entry.collect_entry import make_dataset
from nervex.entry.compile_config import CompiledConfig, EnvSetting, compile_config
from nervex.entry.memory_plan import plan_memory
from nervex.entry.plot import plot_run
from nervex.entry.relations import refuse_other_config
from nervex.entry.run_result import RunResult
from nervex.entry.serial_parts import SerialParts, build_parts, settle_env_manager
from nervex.entry.serial_run import SerialRun
from nervex.entry.serve import SPACES
from nervex.entry.spaces import to_json
from nervex.envs.base_env import spec_tree
from nervex.torch_utils.checkpoint import CheckpointManager, load_weights
from nervex.torch_utils.state_files import save_state
from nervex.utils.errors import CheckpointError, ConfigError, NerveXError, NumericalError, RunFolderError
from nervex.worker.monitor.jsonl_sink import JsonlSink
from nervex.worker.monitor.progress import ProgressSink
from nervex.worker.monitor.progress_view import Budgets
from nervex.worker.monitor.run_folder import RunFolder
from nervex.worker.monitor.sink import MetricLog, MetricSink
from nervex.worker.monitor.tensorboard_sink import TensorBoardSink

_logger = logging.getLogger("nervex")

BAD_BATCH = "bad_batch_iteration_"


def serial_pipeline(
    cfg: str | Path | Mapping[str, Any] | ConfigSource,
    seed: int | None = None,
    env_setting: EnvSetting | None = None,
    policy_type: Any = None,
    model_type: Any = None,
    *,
    model: Any = None,
    hooks: Iterable[Any] = (),
    sinks: Sequence[MetricSink] = (),
    run_dir: str | Path | None = None,
    resume: bool = False,
    load: str | Path | None = None,
    show: bool = True,
) -> RunResult:
    """Trains a policy and returns it with the run's result.

    Args:
        cfg: path of a YAML file, name of a shipped one (``'cartpole_dqn'``), or the configuration as a mapping; the
            caller's object is left as it is.
        seed: of everything that is random; None: the configuration's ``seed``.
        env_setting: ``(env class, configs of the actor's envs, configs of the evaluator's envs)`` in place of
            section ``env``.
        policy_type: policy class in place of ``policy.policy_type``.
        model_type: network class, called with ``policy.model`` as keyword arguments.
        model: a network to train.
        hooks: ``LearnerHook`` objects, or functions of the learner that run after each iteration.
        sinks: further places for metrics.
        run_dir: folder of the run; None: a new one under ``runs/``.
        resume: go on with the newest checkpoint of ``run_dir``.
        load: weights to begin with (a ``.safetensors`` file, a checkpoint or a run folder).
        show: show progress, and how an interrupted run goes on.

    Raises:
        ConfigError: the configuration is wrong; nothing has been started or written.
        RunFolderError: the folder is in use, or holds a run of another configuration.
        EnvFault, NumericalError, CheckpointError: the run failed; what was learned is in its folder.
    """
    source = as_source(cfg)
    if seed is not None:
        source.data["seed"] = seed
    if not resume:
        RunFolder.check_new(run_dir)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(_resumed_folder(run_dir)) if resume else None
        before = {} if folder is None else yaml.safe_load(folder.config_path.read_text(encoding="utf-8"))
        _keep_load_path(source, load or before.get("common", {}).get("load_path"))
        compiled = compile_config(source, env_setting, policy_type, model_type, model_given=model is not None)
        compiled = settle_env_manager(compiled, before)
        if folder is not None and _has_nothing(folder):
            refuse_other_config(before, compiled.cfg.to_dict(), folder.path)
            _logger.warning("%s was stopped before its first checkpoint; it begins anew", folder.path)
            resume = False
        if compiled.policy_class.data_path == "dataset":
            make_dataset(compiled, serial_pipeline)
        parts = build_parts(compiled, model, launch=not resume)
        stack.callback(parts.close)
        if compiled.cfg.common.load_path and not resume:
            _load_weights(parts, compiled.cfg.common.load_path)
        if not resume:
            _logger.info(plan_memory(parts, compiled.cfg.memory_limit).text)
        if folder is None:
            folder = stack.enter_context(RunFolder.create(run_dir, compiled.name, compiled.cfg.seed))
        _write_config(compiled, folder)
        log = stack.enter_context(_metric_log(compiled, folder, sinks, show))
        run = SerialRun(compiled, parts, folder, log)
        for hook in hooks:
            parts.learner.register_hook(hook)
        return _run(run, compiled, folder, resume, show)


def as_source(cfg: str | Path | Mapping[str, Any] | ConfigSource) -> ConfigSource:
    """Returns a configuration in whatever form as a source that may be changed."""
    if isinstance(cfg, ConfigSource):
        return replace(cfg, data=dict(cfg.data))
    if isinstance(cfg, str | Path):
        return read_source(find_config(cfg))
    return ConfigSource.from_dict(cfg)


def _run(run: SerialRun, compiled: CompiledConfig, folder: RunFolder, resume: bool, show: bool) -> RunResult:
    if resume:
        run.load(run.checkpoints.load_latest())
    else:
        obs, action = spec_tree(compiled.info.obs_space), spec_tree(compiled.info.act_space, is_action=True)
        spaces = json.dumps({"obs": to_json(obs), "action": to_json(action)}, indent=1)
        (folder.path / SPACES).write_text(spaces, encoding="utf-8")
    try:
        reason = run.run()
    except BaseException as e:
        _save_after(e, run)
        _finish(run, "interrupted" if isinstance(e, KeyboardInterrupt) else "error")
        raise
    result = _finish(run, reason)
    if reason == "interrupted" and show:
        _logger.warning("interrupted; go on with: nervex train --resume --run-dir %s", folder.path)
    return RunResult(run.parts.policy, result, folder.path)


def _finish(run: SerialRun, reason: str) -> dict[str, Any]:
    result = run.result(reason)
    run.log.flush()
    try:
        run.folder.write_result(result)
        plot_run(run.folder.path)
    except (NerveXError, OSError) as e:
        if reason != "error":
            raise RunFolderError(f"the result of the run could not be written: {e}") from e
        _logger.warning("the result could not be written: %s", e)
    return result


def _save_after(error: BaseException, run: SerialRun) -> None:
    """Saves what can be saved when a run fails."""
    learner = run.parts.learner
    try:
        run.settle()
    except Exception as e:  # that of before is no reason not to try again
        if e is not error:
            _logger.error("the checkpoint that was being written is lost: %s", e)
    if isinstance(error, CheckpointError):
        return  # the disk is the problem; the checkpoint before is whole
    try:
        if isinstance(error, NumericalError):
            path = _free_name(run.folder.path / f"{BAD_BATCH}{learner.last_iter.val}")
            save_state(path, {"batch": learner.last_batch, "seed": run.cfg.seed, "train_iter": learner.last_iter.val})
            _logger.error(
                "the batch is saved in %s, the weights before in %s; the first update that went wrong is rebuilt by: "
                "nervex replay %s", path, run.checkpoints.latest(), run.folder.path,
            )  # fmt: skip
        elif not isinstance(error, KeyboardInterrupt):
            run.save(envs=False)
            _logger.error("what was learned is saved; go on with: nervex train --resume --run-dir %s", run.folder.path)
    except (NerveXError, OSError, TypeError) as e:
        _logger.error("saving after the error failed too: %s", e)


def _free_name(path: Path) -> Path:
    """Returns ``path``, numbered where a run that was resumed fails there again."""
    numbered = (path if number == 1 else path.with_name(f"{path.name}_{number}") for number in itertools.count(1))
    return next(name for name in numbered if not name.exists())


def _load_weights(parts: SerialParts, load: str | Path) -> None:
    try:
        parts.policy.load_weights(load_weights(Path(load)))
    except CheckpointError as e:
        raise ConfigError(f"--load: {e}") from e
    except RuntimeError as e:
        reason = " ".join(str(e).split())[:200]
        raise ConfigError(f"--load: the weights in {load} do not fit policy.model: {reason}") from e


def _resumed_folder(run_dir: str | Path | None) -> RunFolder:
    if run_dir is None:
        raise RunFolderError("resume needs the folder of the run; give run_dir (--run-dir)")
    folder = RunFolder.open(run_dir)
    folder.lock()
    return folder


def _keep_load_path(source: ConfigSource, load: str | Path | None) -> None:
    """Puts the weights to begin with into the configuration: a run that is stopped before its first checkpoint begins
    with them again."""
    if load:
        source.data["common"] = {**(source.data.get("common") or {}), "load_path": str(Path(load).absolute())}


def _has_nothing(folder: RunFolder) -> bool:
    """Whether a run was stopped so early that there is no checkpoint, which is written before the first metrics."""
    metrics = folder.metrics_path
    return not CheckpointManager(folder.checkpoint_dir).all() and not (metrics.is_file() and metrics.stat().st_size)


def _write_config(compiled: CompiledConfig, folder: RunFolder) -> None:
    folder.write_config(yaml.safe_dump(compiled.cfg.to_dict(), sort_keys=False))  # a resumed run may have new budgets


def _metric_log(compiled: CompiledConfig, folder: RunFolder, sinks: Sequence[MetricSink], show: bool) -> MetricLog:
    cfg = compiled.cfg
    log = MetricLog([JsonlSink(folder.metrics_path), TensorBoardSink(folder.tensorboard_dir), *sinks])
    if show:
        budgets = Budgets(max_env_step=cfg.max_env_step, max_train_iter=cfg.max_train_iter, max_wall_s=cfg.max_wall_s)
        log.add(ProgressSink(f"{compiled.name} seed {cfg.seed}", budgets, cfg.evaluator.stop_val))
    return log
