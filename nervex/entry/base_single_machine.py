"""A training loop on one machine, put together from an agent, a learner and env managers of the user's own."""

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import torch
import yaml

from nervex.agent.agent import Agent
from nervex.config.frozen import FrozenConfig
from nervex.config.schema import IntOrInf, build, option
from nervex.config.source import ConfigSource, read_source
from nervex.data.columns import stack
from nervex.data.prioritized_buffer import PrioritizedBuffer, PrioritizedBufferConfig
from nervex.entry.serial_parts import child_seeds
from nervex.policy.config import EpsCommandConfig
from nervex.rl_utils.exploration import epsilon_greedy
from nervex.torch_utils.checkpoint import CheckpointManager
from nervex.torch_utils.device import pick_threads
from nervex.torch_utils.heap import keep_freed_memory
from nervex.torch_utils.seeds import set_seed
from nervex.utils.errors import ConfigError
from nervex.utils.tree import tree_map
from nervex.worker.actor.env_manager.env_manager import EnvManager
from nervex.worker.actor.rollout import Block
from nervex.worker.actor.serial_actor import ActorConfig, BaseSerialActor
from nervex.worker.actor.serial_evaluator import BaseSerialEvaluator, EvaluatorConfig
from nervex.worker.agent.agent_mode import AgentMode
from nervex.worker.command.serial_command import BaseSerialCommand
from nervex.worker.learner.base_learner import BaseLearner, complete_learner_section
from nervex.worker.monitor.jsonl_sink import JsonlSink
from nervex.worker.monitor.run_folder import RunFolder
from nervex.worker.monitor.sink import MetricLog, MetricRow, MetricSink

_PARTS: dict[str, dict[str, type]] = {  # what each _setup_ method sets
    "env": {"_actor_env": EnvManager, "_evaluator_env": EnvManager},
    "learner": {"_learner": BaseLearner},
    "agent": {"_actor_agent": Agent, "_evaluator_agent": Agent},
}
_FIELDS = ("obs", "next_obs", "action", "reward", "done")


@dataclass
class RunnerEnvConfig:
    """Section ``env``; further keys are the env's own."""

    open_keys: ClassVar[bool] = True

    actor_env_num: int | None = option(None, ge=1, unit="envs", doc="that collect; null: as _setup_env makes them")
    evaluator_env_num: int | None = option(None, ge=1, unit="envs", doc="that evaluate; null: as _setup_env makes them")


@dataclass
class SingleMachineConfig:
    """Configuration of a :class:`SingleMachineRunner`. Section ``learner`` is a ``GraphLearnerConfig``."""

    env: RunnerEnvConfig = option(default_factory=RunnerEnvConfig, doc="environment")
    model: dict[str, Any] = option(default_factory=dict, doc="arguments of the user's network")
    learner: dict[str, Any] = option(default_factory=dict, doc="training iterations")
    replay_buffer: PrioritizedBufferConfig = option(default_factory=PrioritizedBufferConfig, doc="stored transitions")
    actor: ActorConfig = option(default_factory=lambda: {"n_sample": 8}, doc="collection")
    command: EpsCommandConfig = option(default_factory=EpsCommandConfig, doc="exploration rate over learner iterations")
    evaluator: EvaluatorConfig = option(default_factory=EvaluatorConfig, doc="evaluation")
    max_env_step: IntOrInf = option(float("inf"), unit="env steps", doc="budget")
    max_train_iter: IntOrInf = option(float("inf"), unit="learner iterations", doc="budget")
    seed: int = option(0, ge=0, le=2**32 - 1, doc="of everything that is random")


@dataclass(frozen=True)
class SingleMachineResult:
    """How a run of a :class:`SingleMachineRunner` ended.

    Attributes:
        stop_reason: ``'stop_val'``, ``'max_env_step'`` or ``'max_train_iter'``.
        solved: ``evaluator.stop_val`` was reached and confirmed.
        episode_return: returns of the episodes of the last evaluation, float64 [episodes].
        best_eval_return: largest mean return of an evaluation.
        env_step: transitions collected.
        train_iter: learner iterations.
        wall_s: seconds.
    """

    stop_reason: str
    solved: bool
    episode_return: np.ndarray
    best_eval_return: float
    env_step: int
    train_iter: int
    wall_s: float


class SingleMachineRunner(ABC):
    """Collects with an agent, keeps transitions in a :class:`~nervex.data.prioritized_buffer.PrioritizedBuffer`, trains
    and evaluates, all in turn and in this process.

    A subclass says what of: :meth:`_setup_env`, :meth:`_setup_learner` and :meth:`_setup_agent`, called in this order,
    set the parts from ``self._cfg``, the whole configuration with defaults filled in (read-only). One loop is:
    ``actor.n_sample`` transitions ``{'obs', 'next_obs', 'action', 'reward', 'done'}`` into the buffer, with the
    exploration rate of ``command.eps``; then ``learner.train_step`` updates, on batches with ``weights`` (importance
    weights) and ``index`` added. ``done`` means *terminated*: at a time limit the value of ``next_obs``, the true last
    observation, still counts. Every ``evaluator.eval_freq`` loops begins with an evaluation over whole episodes; at
    ``evaluator.stop_val``, confirmed by ``evaluator.confirm_episode`` fresh ones, the run ends.

    Args:
        cfg: a mapping, or the path of a YAML file.
        run_dir: a new folder for ``config.yaml``, ``versions.json``, ``metrics.jsonl``, ``checkpoints/`` and
            ``result.json``; None: nothing is written.
        sinks: places for metrics.

    Raises:
        ConfigError: the configuration is wrong, or a ``_setup_`` method left a part out.
        RunFolderError: ``run_dir`` holds something already.
    """

    _actor_env: EnvManager
    _evaluator_env: EnvManager
    _learner: BaseLearner
    _actor_agent: Agent
    _evaluator_agent: Agent

    def __init__(
        self,
        cfg: Mapping[str, Any] | str | Path,
        run_dir: str | Path | None = None,
        sinks: Iterable[MetricSink] = (),
    ) -> None:
        source = read_source(cfg) if isinstance(cfg, str | Path) else ConfigSource.from_dict(cfg)
        main = build(SingleMachineConfig, source.data, source)
        self._cfg: Any = FrozenConfig({**main, "learner": complete_learner_section(source)})
        RunFolder.check_new(run_dir)
        self._run_dir, self._sinks = run_dir, list(sinks)
        self._seeds = child_seeds(self._cfg.seed)
        self._buffer = PrioritizedBuffer(**self._cfg.replay_buffer, seed=self._seeds["replay"])
        self._needed = self._buffer.needed(self._cfg.learner.batch_size)
        if self._needed > self._buffer.maxlen:
            raise ConfigError(
                f"replay_buffer.maxlen is {self._buffer.maxlen}, and a batch needs {self._needed} items "
                "(learner.batch_size, replay_buffer.min_sample_ratio); make it larger"
            )
        self._has_run = False
        set_seed(self._seeds["torch"])
        try:
            for name in _PARTS:
                getattr(self, f"_setup_{name}")()
                self._check_parts(name)
        except BaseException:
            self.close()
            raise

    @abstractmethod
    def _setup_env(self) -> None:
        """Sets ``self._actor_env`` and ``self._evaluator_env``, env managers that are not launched yet; that of the
        evaluator is to be one in step (any but ``SubprocessEnvManager``)."""

    @abstractmethod
    def _setup_learner(self) -> None:
        """Sets ``self._learner``, a ``BaseLearner`` with an agent of its own."""

    @abstractmethod
    def _setup_agent(self) -> None:
        """Sets ``self._actor_agent`` (it takes ``eps``) and ``self._evaluator_agent``, of the learner's model."""

    @property
    def learner(self) -> BaseLearner:
        """The learner."""
        return self._learner

    @property
    def buffer(self) -> PrioritizedBuffer:
        """What was collected."""
        return self._buffer

    def run(self) -> SingleMachineResult:
        """Trains until the task is solved or a budget is used up, and closes the envs in any case.

        Raises:
            ConfigError: it has run already.
            EnvFault, NumericalError: the run failed.
        """
        if self._has_run:
            raise ConfigError(f"this {type(self).__name__} has run already; make a new one")
        self._has_run = True
        with contextlib.ExitStack() as stack:
            stack.callback(self.close)
            self._log = stack.enter_context(MetricLog(self._sinks))
            self._folder = None
            if self._run_dir is not None:
                self._folder = stack.enter_context(RunFolder.create(self._run_dir, type(self).__name__, self._cfg.seed))
                self._folder.write_config(yaml.safe_dump(self._cfg.to_dict(), sort_keys=False))
                self._log.add(JsonlSink(self._folder.metrics_path))
                self._checkpoints = CheckpointManager(self._folder.checkpoint_dir)
            self._build()
            return self._finish(self._train_until_end())

    def close(self) -> None:
        """Closes the envs; may be called twice."""
        for name in _PARTS["env"]:
            env = getattr(self, name, None)
            if isinstance(env, EnvManager):
                env.close()

    def _check_parts(self, setup: str) -> None:
        for part, kind in _PARTS[setup].items():
            found = getattr(self, part, None)
            if not isinstance(found, kind):
                got = f"has set no self.{part}" if found is None else f"set self.{part} to a {type(found).__name__}"
                name = f"{type(self).__name__}._setup_{setup}"
                raise ConfigError(f"{name} {got}; expected {'a' if kind is BaseLearner else 'an'} {kind.__name__}")
        if setup == "learner" and self._learner.agent is None:
            raise ConfigError(f"the learner {self._learner.name} has no agent; give it a _setup_agent")
        for kind_of in ("actor", "evaluator") if setup == "env" else ():
            wanted, env_num = self._cfg.env[f"{kind_of}_env_num"], getattr(self, f"_{kind_of}_env").env_num
            if wanted is not None and wanted != env_num:
                raise ConfigError(
                    f"env.{kind_of}_env_num is {wanted}, and the manager that {type(self).__name__}._setup_env made "
                    f"has {env_num} envs; make the two equal"
                )

    def _build(self) -> None:
        cfg, seeds = self._cfg, self._seeds
        set_seed(seeds["torch"])  # again: what happened since does not matter
        keep_freed_memory()
        torch.set_flush_denormal(True)  # Adam's moments of idle units decay into denormals, which are slow
        parameters = sum(p.numel() for p in self._learner.agent.model.parameters())
        torch.set_num_threads(pick_threads(parameters, cfg.learner.batch_size))
        env_seeds = np.random.SeedSequence(seeds["actor_env"]).generate_state(self._actor_env.env_num)
        self._actor_env.seed(env_seeds.tolist())
        eps = cfg.command.eps
        schedule = epsilon_greedy(eps.start, eps.end, eps.decay, eps.type)
        self._actor = BaseSerialActor(cfg.actor, self._actor_env, AgentMode(self._actor_agent, eps.start))
        self._evaluator = BaseSerialEvaluator(
            cfg.evaluator, self._evaluator_env, AgentMode(self._evaluator_agent), seeds["evaluator"]
        )
        commands = SimpleNamespace(get_setting_collect=lambda info: {"eps": schedule(info["learner_step"])})
        self._command = BaseSerialCommand(
            cfg.command, self._learner, self._actor, self._evaluator, self._buffer, commands
        )
        self._learner.report = self._report
        self._learner.saver = self._save if self._folder is not None else None
        self._evaluated_iter = -1
        self._solved = False
        self._start = time.perf_counter()

    def _train_until_end(self) -> str:
        self._learner.launch()
        loop = 0
        while True:
            reason = self._end()
            if reason is not None or loop % self._cfg.evaluator.eval_freq == 0:
                self._evaluate()
                reason = "stop_val" if self._solved and self._cfg.evaluator.stop else reason
            if reason is not None:
                break
            self._command.step()
            self._collect()
            self._train()
            loop += 1
        self._learner.call_hook("after_run")
        return reason

    def _end(self) -> str | None:
        if self._actor.env_step >= self._cfg.max_env_step:
            return "max_env_step"
        return "max_train_iter" if self._learner.last_iter.val >= self._cfg.max_train_iter else None

    def _collect(self) -> None:
        """Collects ``actor.n_sample`` transitions; more, until the buffer suffices for a batch."""
        wanted = self._cfg.actor.random_collect_size - self._actor.sample_count
        stop = lambda: self._end() is not None  # noqa: E731
        if wanted > 0:
            self._actor.generate_data(n_sample=wanted, consume=self._push, random=True, stop=stop)
        while not stop():
            self._actor.generate_data(consume=self._push, stop=stop)
            if self._buffer.count >= self._needed:
                break

    def _push(self, block: Block) -> None:
        """Appends the transitions of a block to the buffer, each a dict of tensors."""
        columns, valid = block.traj.columns, block.traj.columns["valid"]
        rows: Any = tree_map(
            lambda x: x[valid], {name: columns[name] for name in _FIELDS}
        )  # [M, ...], in memory of its own
        self._buffer.extend(tree_map(lambda x, i=i: x[i], rows) for i in range(len(rows["done"])))  # type: ignore[misc]

    def _train(self) -> None:
        """Makes ``learner.train_step`` updates."""
        cfg = self._cfg.learner
        for _ in range(cfg.train_step):
            if self._buffer.count < self._needed or self._learner.last_iter.val >= self._cfg.max_train_iter:
                break
            items, info = self._buffer.sample(cfg.batch_size, with_info=True)
            self._learner.train({**stack(items), "weights": info["weight"], "index": info["index"]})
            if self._learner.priority_info is not None:
                self._buffer.update(self._learner.priority_info)

    def _evaluate(self) -> None:
        """Evaluates weights that were not evaluated yet."""
        iteration = self._learner.last_iter.val
        if iteration == self._evaluated_iter:
            return
        before = self._evaluator.best
        self._solved |= bool(self._evaluator.eval(iteration, confirm=not self._solved))
        self._evaluated_iter = iteration
        result, best = self._evaluator.last, self._evaluator.best
        assert result is not None and best is not None
        self._write(
            "eval",
            {"eval_return": result.mean, "eval_return_std": result.std, "eval_episode": len(result.episode_return),
             "best_eval_return": best, "time/wall_s": self._wall_s},
        )  # fmt: skip
        if self._folder is not None and (before is None or best > before):
            self._save(pin="best")

    @property
    def _wall_s(self) -> float:
        return time.perf_counter() - self._start

    def _report(self, averages: dict[str, float]) -> None:
        self._check_numbers()
        values = {**averages, **self._actor.metrics(), **self._command.metrics(), "beta": self._buffer.beta,
                  "buffer_count": self._buffer.count, "buffer_capacity": self._buffer.maxlen,
                  "time/wall_s": self._wall_s}  # fmt: skip
        self._write("train", values)

    def _write(self, kind: str, values: dict[str, float]) -> None:
        self._log.write(MetricRow(kind, self._actor.env_step, self._learner.last_iter.val, values))

    def _check_numbers(self) -> None:
        self._learner.check_numbers(dict(self._learner.agent.model.named_parameters()))

    def _save(self, pin: str | None = None) -> None:
        """Writes a checkpoint: the network's weights, and the learner's state."""
        self._check_numbers()
        weights = {k: v.detach() for k, v in self._learner.agent.model.state_dict().items()}
        notes = {"env_step": self._actor.env_step}
        tree = {"learner": self._learner.state_dict()}
        self._checkpoints.save(self._learner.last_iter.val, tree, weights, notes, pin)

    def _finish(self, reason: str) -> SingleMachineResult:
        last, best = self._evaluator.last, self._evaluator.best
        assert last is not None and best is not None
        result = SingleMachineResult(
            reason, self._solved, last.episode_return, best, self._actor.env_step, self._learner.last_iter.val,
            self._wall_s,
        )  # fmt: skip
        if self._folder is not None:
            self._save()
            numbers = {k: v for k, v in vars(result).items() if k != "episode_return"}
            self._folder.write_result({**numbers, "last_eval_return": last.mean, "seed": self._cfg.seed})
        return result
