"""The top level of a configuration file."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

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
        "auto",
        doc="auto (measures a step and takes the fastest of those that give the rows of base), base (in process), "
        "vector (the env's native one), sync_subprocess or subprocess (asynchronous)",
    )
    actor_env_num: int = option(8, ge=1, unit="envs", doc="that collect")
    evaluator_env_num: int = option(5, ge=1, unit="envs", doc="that evaluate")
    manager: dict[str, Any] = option(default_factory=dict, doc="further options of the env manager")


@dataclass
class CollectConfig:
    """One entry of ``dataset.collect``: a recipe that is trained, and episodes that its policy then plays."""

    recipe: str = option(doc="shipped name or YAML file")
    overrides: list[str] = option(default_factory=list, doc="further settings of the recipe, key=value")
    seed: int = option(0, ge=0, doc="of the training and of the episodes")
    episodes: int = option(100, ge=1, unit="episodes", doc="that are played with the weights of the best evaluation")
    act: Literal["greedy", "stochastic", "random"] = option(
        "greedy", doc="as in evaluation, as in stochastic evaluation, or by uniform actions and without any training"
    )


@dataclass
class DatasetConfig:
    """Section ``dataset``: recorded episodes that offline policies learn from."""

    path: str = option("", doc="folder or HDF5 file of the data set")
    collect: list[CollectConfig] = option(default_factory=list, doc="how to make it, part by part, if it is not there")
    best_fraction: float = option(1.0, gt=0, le=1, doc="learn from this part of the episodes, those of largest return")
    num_workers: int = option(0, ge=0, unit="processes", doc="that gather batches; 0: none is needed")


@dataclass
class MainConfig:
    """A configuration file. Budgets end a run; so does a confirmed evaluation at ``evaluator.stop_val``."""

    common: CommonConfig = option(default_factory=CommonConfig, doc="names")
    env: dict[str, Any] = option(doc="environment")
    policy: dict[str, Any] = option(doc="algorithm")
    replay_buffer: ReplayConfig = option(default_factory=ReplayConfig, doc="stored transitions")
    dataset: DatasetConfig = option(default_factory=DatasetConfig, doc="recorded episodes (offline policies)")
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
