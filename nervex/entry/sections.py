"""The top level of a configuration file."""

from dataclasses import dataclass
from typing import Any, ClassVar

from nervex.config.schema import IntOrInf, option
from nervex.data.replay import ReplayConfig
from nervex.worker.actor.serial_actor import ActorConfig
from nervex.worker.actor.serial_evaluator import EvaluatorConfig
from nervex.worker.learner.base_learner import LearnerConfig


@dataclass
class CommonConfig:
    """Section ``common``."""

    name: str = option("", doc="name of the run; the name of the file unless given")
    save_path: str = option("", doc="kept for the tutorial's files; use --run-dir")
    load_path: str = option("", doc="weights to begin with, as --load")
    time_wrapper_type: str = option("time", doc="kept for the tutorial's files")


@dataclass
class EnvConfig:
    """Section ``env``: the keys of every env; the rest belongs to the env itself."""

    open_keys: ClassVar[bool] = True

    env_type: str = option(doc="registered name of the env")
    import_names: list[str] = option(default_factory=list, doc="modules, or files beside the YAML, to import first")
    env_manager_type: str = option(
        "base",
        doc="base (in process), vector (the env's native one), sync_subprocess, subprocess (asynchronous), or auto "
        "(measures a step and takes the fastest of those that give the rows of base)",
    )
    actor_env_num: int = option(8, ge=1, unit="envs", doc="that collect")
    evaluator_env_num: int = option(5, ge=1, unit="envs", doc="that evaluate")
    manager: dict[str, Any] = option(default_factory=dict, doc="further options of the env manager")


@dataclass
class MainConfig:
    """A configuration file. Budgets end a run; so does a confirmed evaluation at ``evaluator.stop_val``."""

    common: CommonConfig = option(default_factory=CommonConfig, doc="names")
    env: dict[str, Any] = option(doc="environment")
    policy: dict[str, Any] = option(doc="algorithm")
    replay_buffer: ReplayConfig = option(default_factory=ReplayConfig, doc="stored transitions")
    actor: ActorConfig = option(default_factory=ActorConfig, doc="collection")
    evaluator: EvaluatorConfig = option(default_factory=EvaluatorConfig, doc="evaluation")
    learner: LearnerConfig = option(default_factory=LearnerConfig, doc="training iterations")
    command: dict[str, Any] = option(default_factory=dict, doc="kept for the tutorial's files")
    max_env_step: IntOrInf = option(float("inf"), unit="env steps", doc="budget")
    max_train_iter: IntOrInf = option(float("inf"), unit="learner iterations", doc="budget")
    max_wall_s: float = option(float("inf"), gt=0, unit="s", doc="budget")
    memory_limit: int | None = option(
        None,
        ge=1,
        unit="bytes",
        doc="that model and replay or rollouts may take; a run that would take more is refused",
    )
    seed: int = option(0, ge=0, le=2**32 - 1, doc="of everything that is random; --seed goes before it")
    torch_threads: int | None = option(None, ge=1, doc="threads of PyTorch; chosen by the model's size unless given")
