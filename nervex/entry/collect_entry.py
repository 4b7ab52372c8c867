"""Makes data sets: plays episodes with the policy of a run, or with those of the recipes that a data set names."""

import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from nervex.config.source import ConfigSource, apply_overrides, read_source
from nervex.data.offline.episodes import EpisodeWriter
from nervex.data.offline.files import dataset_writer
from nervex.entry.catalog import find_config
from nervex.entry.compile_config import CompiledConfig, compile_config
from nervex.entry.eval_entry import trained_policy
from nervex.entry.run_result import RunResult
from nervex.entry.serial_parts import build_evaluator, build_policy
from nervex.policy.base_policy import Policy
from nervex.torch_utils.seeds import set_seed
from nervex.utils.errors import ConfigError, DatasetError
from nervex.worker.actor.recorder import EpisodeRecorder
from nervex.worker.actor.samples import random_action
from nervex.worker.actor.serial_evaluator import EvalResult

_logger = logging.getLogger("nervex")

Act = Literal["greedy", "stochastic", "random"]


def collect_run(
    run_dir: str | Path,
    out: str | Path,
    n_episode: int = 100,
    seed: int | None = None,
    format: Literal["nervex", "minari"] | None = None,
    act: Act = "greedy",
    eps: float | None = None,
) -> EvalResult:
    """Plays episodes with the weights of a run's best evaluation, writes them as a data set, and returns their returns.

    Every env plays a number of episodes that is fixed in advance, so short ones are not preferred; the same seed gives
    the same episodes.

    Args:
        run_dir: folder of the run.
        out: data set to write, which must not exist.
        n_episode: episodes.
        seed: of the episodes; None: others than those of training and of ``nervex eval``.
        format: see :func:`nervex.data.offline.dataset_writer`.
        act: as in evaluation, as in stochastic evaluation, or by actions that are drawn uniformly.
        eps: exploration rate of eps-greedy policies, instead of ``act``.

    Raises:
        ConfigError: a number is out of range, or the policy has no such way to act.
        DatasetError: ``out`` exists.
    """
    if n_episode < 1 or (seed is not None and seed < 0):
        raise ConfigError(f"episodes is {n_episode} and seed {seed}; expected at least 1 and at least 0")
    if Path(out).exists():
        raise DatasetError(f"{out} exists already; give another --out")
    overrides = [] if act != "stochastic" and eps is None else ["policy.eval.deterministic=false"]
    overrides += [] if eps is None else [f"policy.eval.eps={eps}"]
    run = trained_policy(run_dir, overrides=overrides)
    number = (run.compiled.cfg.seed + 1) * 104_729 if seed is None else seed
    info = {"run": run.compiled.name, "env": _env_name(run.compiled), "act": act, "seed": number}
    with dataset_writer(out, format, info) as writer:
        return play(run.compiled, run.policy, writer, n_episode, number, act)


def play(
    compiled: CompiledConfig, policy: Policy, writer: EpisodeWriter, n_episode: int, seed: int, act: Act = "greedy"
) -> EvalResult:
    """Plays episodes into a data set.

    Args:
        compiled: whose envs to play in.
        policy: whose eval mode acts, unless ``act`` is ``'random'``.
        writer: receives the episodes.
        n_episode: how many.
        seed: of envs and of drawn actions.
        act: ``'random'``: actions are drawn uniformly.
    """
    set_seed(seed)
    torch.set_num_threads(compiled.cfg.torch_threads or 1)
    evaluator = build_evaluator(compiled, policy, seed, min(n_episode, len(compiled.evaluator_env_cfg)))
    evaluator.watch = EpisodeRecorder(writer.add)
    if act == "random":

        def draw(lane_id: Any, data: Any) -> dict[str, Any]:
            obs = data["obs"]
            mask = obs.get("action_mask") if isinstance(obs, dict) else None
            return {"action": random_action(evaluator.env.action_spec, len(lane_id), mask)}

        evaluator.policy = evaluator.policy._replace(forward=draw)
    try:
        return evaluator.evaluate(n_episode)
    finally:
        evaluator.close()


def make_dataset(compiled: CompiledConfig, train: Callable[..., RunResult]) -> None:
    """Makes the data set of a configuration as its ``dataset.collect`` says, unless it is there.

    Args:
        compiled: the configuration.
        train: ``nervex.entry.serial_pipeline``.

    Raises:
        DatasetError: there is none, and nothing says how to make it.
    """
    cfg = compiled.cfg.dataset
    path = Path(cfg.path)
    if path.exists():
        return
    if not cfg.collect:
        raise DatasetError(
            f"there is no data set {path}, and dataset.collect does not say how to make it; make one with: nervex "
            f"collect RUN_DIR --out {path}"
        )
    parts = [part.to_dict() for part in cfg.collect]
    sources = [_source_of(part, path) for part in parts]  # a wrong one is told before hours of training
    info = {"collect": parts, "env": _env_name(compiled)}
    with tempfile.TemporaryDirectory(prefix="nervex-collect-") as folder, dataset_writer(path, info=info) as writer:
        for number, (part, source) in enumerate(zip(parts, sources, strict=True), start=1):
            run_dir = Path(folder) / f"part_{number}"
            title = f"data set {path}: part {number} of {len(parts)}"
            result = _make_part(part, source, run_dir, train, writer, title)
            _logger.info("data set %s: part %d of %d: %s", path, number, len(parts), returns_text(result))


def _source_of(part: dict[str, Any], path: Path) -> ConfigSource:
    """Returns the configuration of a part, checked.

    Raises:
        ConfigError: it is wrong, or learns from the data set that it is to make.
    """
    source = apply_overrides(read_source(find_config(part["recipe"])), [*part["overrides"], f"seed={part['seed']}"])
    compiled = compile_config(source)
    if compiled.policy_class.data_path == "dataset" and Path(compiled.cfg.dataset.path).resolve() == path.resolve():
        raise DatasetError(
            f"data set {path} is to be made with {part['recipe']}, which learns from that very data set; name a recipe "
            "that trains in the env"
        )
    return source


def _make_part(
    part: dict[str, Any],
    source: ConfigSource,
    run_dir: Path,
    train: Callable[..., RunResult],
    writer: EpisodeWriter,
    title: str,
) -> EvalResult:
    how = " ".join([part["recipe"], *part["overrides"], f"seed={part['seed']}"])
    seed = (part["seed"] + 1) * 104_729
    if part["act"] == "random":
        _logger.info("%s: %d episodes of random actions in the env of %s", title, part["episodes"], how)
        compiled = compile_config(source)
        return play(compiled, build_policy(compiled), writer, part["episodes"], seed, "random")
    _logger.info("%s: nervex train %s, then %d %s episodes of it", title, how, part["episodes"], part["act"])
    if train(source, run_dir=run_dir, show=False).result["stop_reason"] == "interrupted":
        raise KeyboardInterrupt
    overrides = ["policy.eval.deterministic=false"] if part["act"] == "stochastic" else []
    run = trained_policy(run_dir, overrides=overrides)
    return play(run.compiled, run.policy, writer, part["episodes"], seed)


def returns_text(result: EvalResult) -> str:
    """Returns the returns of episodes in words."""
    returns, steps = result.episode_return, int(result.episode_length.sum())
    quarter, middle, three = np.quantile(returns, (0.25, 0.5, 0.75))
    return (
        f"return {result.mean:.2f} ± {result.std:.2f} over {len(returns)} episodes and {steps:,} steps (min "
        f"{returns.min():.2f}, quartiles {quarter:.2f}, {middle:.2f}, {three:.2f}, max {returns.max():.2f})"
    )


def _env_name(compiled: CompiledConfig) -> str:
    env = compiled.cfg.env
    return str(env.get("env_id") or env.get("env_type") or "own")
