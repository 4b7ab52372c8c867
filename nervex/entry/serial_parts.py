"""Builds the parts of a serial run from a compiled configuration."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from nervex.config.frozen import FrozenConfig
from nervex.data.loader import AsyncDataLoader
from nervex.data.offline.sampler import DatasetBatches
from nervex.data.replay import Replay
from nervex.data.rollout_buffer import RolloutBuffer
from nervex.entry.compile_config import CompiledConfig
from nervex.entry.offline_data import open_for_run
from nervex.policy.base_policy import Policy
from nervex.torch_utils.device import pick_threads
from nervex.torch_utils.heap import keep_freed_memory
from nervex.torch_utils.precision import set_matmul_precision
from nervex.torch_utils.seeds import set_seed
from nervex.utils.errors import ConfigError, MissingKeyError
from nervex.worker.actor.env_manager.auto import AUTO
from nervex.worker.actor.env_manager.registry import create_env_manager, settled_manager
from nervex.worker.actor.idle_actor import IdleActor
from nervex.worker.actor.serial_actor import BaseSerialActor
from nervex.worker.actor.serial_evaluator import BaseSerialEvaluator
from nervex.worker.command.serial_command import BaseSerialCommand
from nervex.worker.learner.base_learner import BaseLearner
from nervex.worker.learner.registry import create_learner


@dataclass
class SerialParts:
    """The objects that a serial run joins; each works alone, too.

    Data go through ``store``: a replay, the rollout buffer of policies that learn from rollouts, or the batches of a
    data set (the others of ``replay``, ``rollout`` and ``offline`` are absent). ``loader`` gives the batches of a
    replay.
    """

    policy: Policy
    learner: BaseLearner
    actor: BaseSerialActor
    evaluator: BaseSerialEvaluator
    store: Replay | RolloutBuffer | DatasetBatches
    command: BaseSerialCommand
    loader: AsyncDataLoader | None

    @property
    def replay(self) -> Replay:
        """The replay."""
        assert isinstance(self.store, Replay), "this policy learns from rollouts or a data set and has no replay"
        return self.store

    @property
    def rollout(self) -> RolloutBuffer | None:
        """The rollout buffer; None for policies that learn from something else."""
        return self.store if isinstance(self.store, RolloutBuffer) else None

    @property
    def offline(self) -> DatasetBatches | None:
        """The batches of a data set; None for policies that learn from what they collect."""
        return self.store if isinstance(self.store, DatasetBatches) else None

    def close(self) -> None:
        """Closes envs and threads."""
        if self.loader is not None:
            self.loader.close()
        if self.offline is not None:
            self.offline.close()
        self.actor.close()
        self.evaluator.close()


def child_seeds(seed: int) -> dict[str, int]:
    """Returns independent seeds for the parts of a run, drawn from the run's seed."""
    names = ("torch", "actor_env", "evaluator", "replay")
    return dict(zip(names, (int(s) for s in np.random.SeedSequence(seed).generate_state(len(names))), strict=True))


def settle_env_manager(compiled: CompiledConfig, before: Mapping[str, Any] | None = None) -> CompiledConfig:
    """Returns the configuration with the env manager that ``env.env_manager_type: auto`` stands for.

    Args:
        compiled: the configuration.
        before: the configuration that the run was begun with, whose choice is kept; None: one is made, by measuring.
    """
    env = compiled.cfg.env
    if env.get("env_manager_type") != AUTO:
        return compiled
    kept = (before or {}).get("env", {}).get("env_manager_type")
    options = dict(env.get("manager", {}))
    kind, options = settled_manager(compiled.env_fn, compiled.actor_env_cfg, options, None if kept == AUTO else kept)
    main = compiled.cfg.to_dict()
    main["env"] |= {"env_manager_type": kind, "manager": options}
    return replace(compiled, cfg=FrozenConfig(main))


def build_policy(compiled: CompiledConfig, model: torch.nn.Module | None = None) -> Policy:
    """Builds the policy with all modes; a problem of the user's network becomes one clear error."""
    try:
        return compiled.policy_class(compiled.cfg.policy, model=model, model_type=compiled.model_type)
    except MissingKeyError as e:
        raise ConfigError(f"policy {compiled.policy_class.__name__} reads a key that the config lacks: {e}") from e


def build_evaluator(
    compiled: CompiledConfig, policy: Policy, seed: int, env_num: int | None = None
) -> BaseSerialEvaluator:
    """Builds an evaluator with its envs, in step whatever the actor's are: ``env_num`` of them, or as configured."""
    cfg = compiled.cfg
    kind = cfg.env.get("env_manager_type", "base")
    options = dict(cfg.env.get("manager", {}))
    if kind == "subprocess":
        kind = "sync_subprocess"
        options.pop("wait_num", None)
    env_cfg = compiled.evaluator_env_cfg[:env_num]
    if options.get("worker_num") is not None:
        options["worker_num"] = min(options["worker_num"], len(env_cfg))
    env = create_env_manager(kind, compiled.env_fn, env_cfg, **options)
    return BaseSerialEvaluator(cfg.evaluator, env, policy.eval_mode, seed)


def build_parts(compiled: CompiledConfig, model: torch.nn.Module | None = None, launch: bool = True) -> SerialParts:
    """Builds policy, learner, replay (or what stands in its place), actor, evaluator and command, and seeds everything.

    Args:
        compiled: the configuration.
        model: a network to use in place of the configured one.
        launch: start the actor's envs; False when their state is loaded next.
    """
    compiled = settle_env_manager(compiled)
    cfg = compiled.cfg
    data = open_for_run(compiled) if compiled.policy_class.data_path == "dataset" else None
    seeds = child_seeds(cfg.seed)
    set_seed(seeds["torch"])
    torch.set_flush_denormal(True)  # Adam's moments of idle units decay into denormals, which cost it 3 times the time
    keep_freed_memory()
    torch.set_num_threads(cfg.torch_threads or 1)  # building and acting need no more
    set_matmul_precision(cfg.policy.learn.get("precision", "fp32"))
    policy = build_policy(compiled, model)
    if cfg.torch_threads is None:
        parameters = sum(p.numel() for p in policy.model.parameters())
        torch.set_num_threads(pick_threads(parameters, cfg.policy.learn.batch_size))
    device = "cuda" if cfg.policy.use_cuda else "cpu"
    actor: BaseSerialActor
    store: Replay | RolloutBuffer | DatasetBatches
    if data is not None:
        part = cfg.dataset
        store = DatasetBatches(
            data, cfg.policy.learn.batch_size, seeds["replay"], part.best_fraction, device, part.num_workers
        )
        actor = IdleActor(policy.collect_mode)
    else:
        actor_env = _build_actor_env(compiled, seeds["actor_env"])
        store = _build_store(compiled, policy, actor_env.lane_num, seeds["replay"])
        actor = BaseSerialActor(cfg.actor, policy=policy.collect_mode)
        actor.attach(actor_env, launch)
    learner = create_learner(cfg, policy.learn_mode)
    evaluator = build_evaluator(compiled, policy, seeds["evaluator"])
    command = BaseSerialCommand(cfg.command, learner, actor, evaluator, store, policy.command_mode)
    loader = None
    if isinstance(store, Replay):
        loader = AsyncDataLoader(store, cfg.policy.learn.batch_size, device)
    return SerialParts(policy, learner, actor, evaluator, store, command, loader)


def _build_actor_env(compiled: CompiledConfig, seed: int) -> Any:
    manager = compiled.cfg.env.get("env_manager_type", "base")
    options = dict(compiled.cfg.env.get("manager", {}))
    env = create_env_manager(manager, compiled.env_fn, compiled.actor_env_cfg, **options)
    env.seed(np.random.SeedSequence(seed).generate_state(len(compiled.actor_env_cfg)).tolist())
    return env


def _build_store(compiled: CompiledConfig, policy: Policy, lane_num: int, seed: int) -> Replay | RolloutBuffer:
    cfg = compiled.cfg
    name, unroll_len = type(policy).__name__, cfg.policy.collect.unroll_len
    if policy.data_path == "rollout":
        return RolloutBuffer(unroll_len, seed)
    if cfg.replay_buffer.sampler == "prioritized" and not policy.gives_priority:
        raise ConfigError(f"replay_buffer.sampler is 'prioritized', but policy {name} gives no priority; use uniform")
    if policy.window is not None and policy.window.unroll_len == 1 < unroll_len:
        raise ConfigError(
            f"policy {name} learns from single rows; policy.collect.unroll_len is {unroll_len}, expected 1"
        )
    return Replay(cfg.replay_buffer, lane_num, policy.window, seed)
