"""Tries a configuration: builds everything, checks the env against its ``info()``, runs a few steps of every mode."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nervex.config.source import ConfigSource, apply_overrides
from nervex.data.columns import to_plain
from nervex.data.lanes import LaneBlock
from nervex.data.memory import human_bytes
from nervex.entry.advice import manager_advice, thread_advice
from nervex.entry.compile_config import CompiledConfig, compile_config
from nervex.entry.learning import RolloutLearning
from nervex.entry.memory_plan import dry_row, plan_memory
from nervex.entry.serial_parts import SerialParts, build_parts
from nervex.envs.base_env import BaseEnvTimestep
from nervex.envs.doctor.check import examine_env
from nervex.envs.doctor.trial import Limits
from nervex.utils.errors import ConfigError, SpecError
from nervex.utils.tree import tree_leaves, tree_map
from nervex.worker.actor.env_manager.pickling import dumps_by_value
from nervex.worker.actor.rollout import Block


@dataclass
class CheckReport:
    """Lines to show, by heading."""

    env: list[str] = field(default_factory=list)
    plan: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    size: list[str] = field(default_factory=list)
    speed: list[str] = field(default_factory=list)
    error_num: int = 0  # errors among the findings on the env

    def lines(self) -> list[str]:
        """Returns all that there is to show."""
        titles = {"env": self.env, "plan": self.plan, "tried": self.done, "memory": self.size, "fastest": self.speed}
        return [line for title, lines in titles.items() if lines for line in (title, *(f"  {text}" for text in lines))]


def check_config(
    source: ConfigSource, report: CheckReport | None = None, limits: Limits | None = None, speed: bool = True
) -> CheckReport:
    """Returns what a run of this configuration would do, after an examination of the env and a few steps of every
    mode; nothing is written.

    Args:
        source: the configuration.
        report: to be filled in, so that it holds what was found before an error.
        limits: of the examination of the env.
        speed: measure which env manager and how many threads are fastest.

    Raises:
        ConfigError, SpecError, EnvFault: the first problem, in one sentence.
    """
    report = CheckReport() if report is None else report
    compiled = compile_config(source)
    if compiled.cfg.policy.learn.get(
        "compile", False
    ):  # takes longer than all of the check, and is no error if it fails
        compiled = compile_config(apply_overrides(source, ["policy.learn.compile=false"]))
    diagnosis = examine_env(compiled.env_fn, compiled.actor_env_cfg[0], limits, dumps_by_value)
    report.error_num = diagnosis.error_num
    report.env += [*diagnosis.summary, *map(str, diagnosis.findings)]
    if compiled.policy_class.data_path == "dataset" and not Path(compiled.cfg.dataset.path).exists():
        wanted = "is made first" if compiled.cfg.dataset.collect else "is not there"
        report.plan.append(f"data set  {compiled.cfg.dataset.path} {wanted}; nothing else was tried")
        return report
    if any(finding.kind in ("hangs", "raises-constructor") for finding in diagnosis.findings):
        return report  # it would hang, or raise, once more
    parts = build_parts(compiled)
    try:
        _plan(compiled, parts, report)
        if parts.offline is None:
            _collect(compiled, parts, report)
        _learn(compiled, parts, report)
        if parts.offline is None:
            _evaluate(parts, report)
        _sizes(compiled, parts, report)
        if speed:
            _speed(compiled, parts, report)
    finally:
        parts.close()
    return report


def _speed(compiled: CompiledConfig, parts: SerialParts, report: CheckReport) -> None:
    size = compiled.cfg.policy.learn.batch_size
    rollout = parts.rollout

    def batch() -> Any:
        if parts.offline is not None:
            return next(parts.offline.batches(1))
        return parts.replay.sample(size) if rollout is None else next(rollout.batches(size, 1, 1))

    if parts.offline is None:
        kind = compiled.cfg.env.get("env_manager_type", "base")
        report.speed.append(f"manager   {manager_advice(compiled.env_fn, compiled.actor_env_cfg, kind)}")
    parameters = sum(p.numel() for p in parts.policy.model.parameters())
    threads = thread_advice(lambda: parts.learner.train(batch()), parameters, size)
    report.speed.append(f"threads   {threads}")


def _plan(compiled: CompiledConfig, parts: SerialParts, report: CheckReport) -> None:
    cfg = compiled.cfg
    learn = cfg.policy.learn
    policy = (
        f"policy    {compiled.policy_class.__name__}, {sum(p.numel() for p in parts.policy.model.parameters()):,} "
        f"parameters, {torch.get_num_threads()} torch thread(s)"
    )
    if parts.offline is not None:
        data = parts.offline.data
        report.plan += [
            f"data set  {data.path}: {data.transition_num:,} transitions in {data.episode_num:,} episodes, "
            f"{len(parts.offline.dataset):,} learned from",
            policy,
            f"loop      {learn.train_step} update(s) of {learn.batch_size}; evaluation every {cfg.evaluator.eval_freq} "
            f"loops over {cfg.evaluator.n_episode} episodes",
            f"ends at   {_ends(cfg)}",
        ]
        return
    actor = cfg.actor
    unit = f"{actor.n_sample} transitions" if actor.n_sample else f"{actor.n_episode} episodes"
    updates = f"{learn.train_step} update(s)"
    if parts.rollout is not None and learn.train_step is None:
        updates = f"{learn.epoch_per_collect} pass(es) in minibatches"
    report.plan += [
        f"env       {parts.actor.env.lane_num} collecting ({cfg.env.get('env_manager_type', 'base')}), "
        f"{len(compiled.evaluator_env_cfg)} evaluating",
        f"spaces    obs {_shape(parts.actor.env.obs_spec)}, action {_shape(parts.actor.env.action_spec)}",
        policy,
        f"loop      {unit}, then {updates} of {learn.batch_size}; evaluation every "
        f"{cfg.evaluator.eval_freq} loops over {cfg.evaluator.n_episode} episodes",
        f"ends at   {_ends(cfg)}",
    ]


def _ends(cfg: Any) -> str:
    ends = [f"{k} {cfg[k]:,.0f}" for k in ("max_env_step", "max_train_iter", "max_wall_s") if np.isfinite(cfg[k])]
    if np.isfinite(cfg.evaluator.stop_val):
        ends.append(f"return {cfg.evaluator.stop_val:g}, confirmed over {cfg.evaluator.confirm_episode} episodes")
    return ", or ".join(ends)


def _shape(spec: Any) -> str:
    if isinstance(spec, dict):
        return "{" + ", ".join(f"{k}: {_shape(v)}" for k, v in spec.items()) + "}"
    return f"{spec.kind} {spec.n}" if spec.kind.endswith("discrete") else f"{spec.dtype.name} {list(spec.shape)}"


def _collect(compiled: CompiledConfig, parts: SerialParts, report: CheckReport) -> None:
    _elementwise(parts)
    actor = parts.actor
    parts.command.step()
    if parts.rollout is not None:
        RolloutLearning(compiled.cfg, parts).collect()
        report.done.append(
            f"collect   {actor.env_step} env steps, {actor.episode_count} episodes, as info() declares; a rollout of "
            f"{parts.rollout.count} transitions"
        )
        return
    replay = parts.replay
    needed = min(replay.limiter.min_count(compiled.cfg.policy.learn.batch_size, 1), replay.capacity)

    def push(block: Block) -> None:
        replay.push_data(block.traj.columns, block.lane_id, block.length, block.gap, block.cut)

    actor.generate_data(consume=push)
    while replay.count < needed or replay.sample(1) is None:
        replay.check_room(needed)
        actor.generate_data(consume=push)
    report.done.append(
        f"collect   {actor.env_step} env steps, {actor.episode_count} episodes, as info() declares; "
        f"{replay.count} samples"
    )


def _elementwise(parts: SerialParts) -> None:
    """``_process_transition`` must treat lanes independently: one call on a block equals calls row by row."""
    policy, dry = parts.policy.collect_mode, dry_row(parts)
    flags, rows = dry.timestep.done, len(dry.timestep.done)
    for row in range(rows):
        picked: Any = tree_map(lambda x: x[row : row + 1], (dry.obs, dry.output, dry.timestep.reward, flags))  # noqa: B023
        part = BaseEnvTimestep(picked[0], picked[2], picked[3], {"terminated": picked[3], "truncated": picked[3]})
        single = to_plain(policy.process_transition(picked[0], picked[1], part))
        expected = tree_map(lambda x: x[row : row + 1], dry.row)  # noqa: B023
        same = tree_map(lambda a, b: torch.equal(torch.as_tensor(a), torch.as_tensor(b)), single, expected)
        if not all(tree_leaves(same)):
            raise SpecError(
                "_process_transition gives other rows for a block than row by row; it is called with columns and must "
                "be elementwise over their first dimension"
            )


def _learn(compiled: CompiledConfig, parts: SerialParts, report: CheckReport) -> None:
    losses = []
    learn, rollout = compiled.cfg.policy.learn, parts.rollout
    given = None if rollout is None else rollout.batches(learn.batch_size, 1, 2)
    given = given if parts.offline is None else parts.offline.batches(2)
    for _ in range(2):
        batch = parts.replay.sample(learn.batch_size) if given is None else next(given)
        assert batch is not None
        output = parts.learner.train(batch)
        if given is None and parts.replay.prioritized and parts.learner.priority_info is None:
            raise ConfigError("replay_buffer.sampler is 'prioritized', but _forward_learn returned no 'priority' [B]")
        losses.append(float(output.get("total_loss", float("nan"))))
    report.done.append(f"learn     2 updates, total_loss {losses[0]:.4g}, {losses[1]:.4g}")


def _evaluate(parts: SerialParts, report: CheckReport) -> None:
    env, policy = parts.actor.env, parts.policy.eval_mode
    for _ in range(5):
        ready = env.ready_block()
        with torch.inference_mode():
            lane_id, data = policy.data_preprocess(LaneBlock(ready.lane_id, tree_map(torch.from_numpy, ready.obs)))
            output = policy.forward(lane_id, data)
        env.step_block(tree_map(lambda x: x.cpu().numpy(), output["action"]), ready.lane_id)
    report.done.append("evaluate  5 steps")


def _sizes(compiled: CompiledConfig, parts: SerialParts, report: CheckReport) -> None:
    memory = plan_memory(parts, compiled.cfg.memory_limit)
    report.size += memory.lines
    if memory.store is not None:
        return
    if parts.rollout is not None:
        size = sum(leaf.numel() * leaf.element_size() for leaf in tree_leaves(parts.rollout.blocks))
        report.size.append(f"the rollout that was tried {human_bytes(size)}")
        return
    table = parts.replay.storage.table
    assert table is not None, "rows were collected"
    report.size += table.plan.text().split("\n")
