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
class LRScheduleConfig:
    """How learning rates change over training."""

    type: Literal["constant", "linear", "cosine", "exp"] = option("constant", doc="shape of the decay")
    length: int | None = option(
        None, ge=1, unit="learner iterations", doc="until the end; null: what the budget of env steps gives"
    )
    end_factor: float = option(0.0, ge=0, le=1, doc="last learning rate as a part of the first")
    warmup: int = option(
        0, ge=0, unit="learner iterations", doc="at the beginning, over which it grows to the first one"
    )


@dataclass
class NormalizeConfig:
    """Running normalization; its statistics are part of the network's weights."""

    obs: bool = option(False, doc="subtract the mean of vector observations and divide by their standard deviation")
    reward: bool = option(False, doc="divide rewards by the standard deviation of the discounted return")
    clip_obs: float = option(10.0, gt=0, doc="bound of normalized observations")
    clip_reward: float = option(10.0, gt=0, doc="bound of scaled rewards")
    obs_dim: Any = option(None, doc="filled in from the env")


@dataclass
class LearnConfig:
    """Keys of ``policy.learn`` that every policy has."""

    train_step: int = option(1, ge=1, unit="learner iterations", doc="updates after each collection")
    batch_size: int = option(64, ge=1, unit="samples", doc="samples of one update")
    learning_rate: float = option(1e-3, gt=0, doc="step size of the optimizer")
    weight_decay: float = option(0.0, ge=0, doc="L2 penalty of the optimizer")
    ignore_done: bool = option(False, doc="bootstrap at terminations too")
    lr_schedule: LRScheduleConfig = option(default_factory=LRScheduleConfig, doc="of all optimizers")
    precision: Literal["fp32", "medium", "bf16"] = option(
        "fp32",
        doc="of the network's products; medium: by another library, where that is found as exact; weights stay float32",
    )
    capture: bool = option(
        True, doc="on a CPU, play back the kernels of updates and of acting in place of their Python: the same bits; "
        "false to step through the code"
    )  # fmt: skip
    compile: bool = option(
        False, doc="compile whole updates: seconds before the first one, then less for each (needs a C++ compiler)"
    )


@dataclass
class RolloutLearnConfig(LearnConfig):
    """Keys of ``policy.learn`` of policies that learn from rollouts."""

    train_step: int | None = option(  # type: ignore[assignment]
        None, ge=1, unit="learner iterations", doc="updates from each rollout; null: epoch_per_collect passes"
    )
    epoch_per_collect: int = option(1, ge=1, unit="passes", doc="over each rollout, in minibatches of batch_size")


@dataclass
class CollectConfig:
    """Keys of ``policy.collect`` that every policy has."""

    traj_len: IntOrInf = option(1, doc="rows of a cut trajectory; inf: whole episodes", unit="env steps")
    unroll_len: int = option(1, ge=1, unit="rows", doc="rows of one training sample")
    env_num: int | None = option(None, ge=1, unit="envs", doc="the same value as env.actor_env_num")


@dataclass
class RolloutCollectConfig(CollectConfig):
    """Keys of ``policy.collect`` of policies that learn from rollouts."""

    traj_len: IntOrInf = option(128, ge=1, doc="rows of a rollout per lane; inf: whole episodes", unit="env steps")


@dataclass
class NStepAlgo:
    """``policy.collect.algo`` of policies with n-step targets."""

    nstep: int = option(3, ge=1, unit="env steps", doc="the same value as policy.learn.algo.nstep")


@dataclass
class EvalConfig:
    """Keys of ``policy.eval`` that every policy has."""

    deterministic: bool = option(True, doc="act greedily in evaluation")
    env_num: int | None = option(None, ge=1, unit="envs", doc="the same value as env.evaluator_env_num")


@dataclass
class EpsEvalConfig(EvalConfig):
    """Keys of ``policy.eval`` of eps-greedy policies."""

    eps: float = option(0.05, ge=0, le=1, doc="exploration rate when not deterministic")


@dataclass
class EpsCommandConfig:
    """Section ``policy.command`` of eps-greedy policies."""

    eps: EpsConfig = option(default_factory=EpsConfig, doc="exploration rate while collecting")


@dataclass
class PolicyConfig:
    """Section ``policy``."""

    policy_type: str = option("", doc="registered name of the policy")
    import_names: list[str] = option(default_factory=list, doc="modules, or files beside the YAML, to import first")
    use_cuda: bool = option(False, doc="put the model on the GPU")
    on_policy: bool = option(False, doc="empty the replay after each loop")
    normalize: NormalizeConfig = option(default_factory=NormalizeConfig, doc="of observations and rewards")
    model: dict[str, Any] = option(default_factory=dict, doc="arguments of the model's class")
    model_type: str = option("", doc="a network class of your own: 'module:Class', or 'file.py:Class' beside the YAML")
    learn: LearnConfig = option(default_factory=LearnConfig, doc="how to learn")
    collect: CollectConfig = option(default_factory=CollectConfig, doc="how to collect")
    eval: EvalConfig = option(default_factory=EvalConfig, doc="how to act in evaluation")
    command: Any = option(default_factory=dict, doc="what learn tells collect")


@dataclass
class RolloutPolicyConfig(PolicyConfig):
    """Section ``policy`` of policies that learn from rollouts."""

    on_policy: bool = option(True, doc="learn from each rollout and forget it; nothing else is possible here")
    learn: RolloutLearnConfig = option(default_factory=RolloutLearnConfig, doc="how to learn")
    collect: RolloutCollectConfig = option(default_factory=RolloutCollectConfig, doc="how to collect")


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
