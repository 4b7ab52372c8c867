"""The keys of section ``policy`` that every policy has."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from nervex.config.schema import IntOrInf, option


@dataclass
class EpsConfig:
    """Schedule of the exploration rate of eps-greedy policies."""

    type: Literal["exp", "linear"] = option("exp", doc="shape of the decay")
    start: float = option(0.95, ge=0, le=1, doc="exploration rate at iteration 0")
    end: float = option(0.05, ge=0, le=1, doc="exploration rate in the end")
    decay: float = option(2_000, gt=0, unit="learner iterations", doc="time constant (exp) or length (linear)")


@dataclass
class LearnConfig:
    """Keys of ``policy.learn`` that every policy has."""

    train_step: int = option(1, ge=1, unit="learner iterations", doc="updates after each collection")
    batch_size: int = option(64, ge=1, unit="samples", doc="samples of one update")
    learning_rate: float = option(1e-3, gt=0, doc="step size of the optimizer")
    weight_decay: float = option(0.0, ge=0, doc="L2 penalty of the optimizer")
    ignore_done: bool = option(False, doc="bootstrap at terminations too")


@dataclass
class CollectConfig:
    """Keys of ``policy.collect`` that every policy has."""

    traj_len: IntOrInf = option(1, doc="rows of a cut trajectory; inf: whole episodes", unit="env steps")
    unroll_len: int = option(1, ge=1, unit="rows", doc="rows of one training sample")
    env_num: int | None = option(None, ge=1, unit="envs", doc="the same value as env.actor_env_num")


@dataclass
class EvalConfig:
    """Keys of ``policy.eval`` that every policy has."""

    deterministic: bool = option(True, doc="act greedily in evaluation")
    env_num: int | None = option(None, ge=1, unit="envs", doc="the same value as env.evaluator_env_num")


@dataclass
class PolicyConfig:
    """Section ``policy``."""

    policy_type: str = option("", doc="registered name of the policy")
    import_names: list[str] = option(default_factory=list, doc="modules, or files beside the YAML, to import first")
    use_cuda: bool = option(False, doc="put the model on the GPU")
    on_policy: bool = option(False, doc="empty the replay after each loop")
    model: dict[str, Any] = option(default_factory=dict, doc="arguments of the model's class")
    learn: LearnConfig = option(default_factory=LearnConfig, doc="how to learn")
    collect: CollectConfig = option(default_factory=CollectConfig, doc="how to collect")
    eval: EvalConfig = option(default_factory=EvalConfig, doc="how to act in evaluation")
    command: Any = option(default_factory=dict, doc="what learn tells collect")


@dataclass
class _OpenLearn(LearnConfig):
    open_keys: ClassVar[bool] = True


@dataclass
class _OpenCollect(CollectConfig):
    open_keys: ClassVar[bool] = True


@dataclass
class OpenPolicyConfig(PolicyConfig):
    """Section ``policy`` of a user's policy that declares no config dataclass: ``learn``, ``collect``, ``eval`` and
    ``command`` are open beyond the common keys."""

    learn: _OpenLearn = option(default_factory=_OpenLearn, doc="how to learn")
    collect: _OpenCollect = option(default_factory=_OpenCollect, doc="how to collect")
    eval: dict[str, Any] = option(default_factory=dict, doc="how to act in evaluation")  # type: ignore[assignment]
