"""What policies that learn from recorded data share: sections of their configuration, targets, how they act."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from nervex.config.schema import option
from nervex.policy.config import LearnConfig
from nervex.rl_utils.distribution import Logit, mode, sample
from nervex.rl_utils.td import nstep_return, nstep_return_data


@dataclass
class OfflineLearn(LearnConfig):
    train_step: int = option(1, ge=1, unit="learner iterations", doc="updates of one loop")
    batch_size: int = option(256, ge=1, unit="samples", doc="samples of one update")
    learning_rate: float = option(3e-4, gt=0, doc="step size of the optimizers")


def one_step_target(data: Mapping[str, Any], next_value: Tensor, gamma: float) -> Tensor:
    """Returns r + γ·(1 − terminated)·V(s'), float [B]; a truncated step bootstraps.

    Args:
        data: reward float [B], terminated bool [B].
        next_value: V(s'), float [B].
        gamma: γ.
    """
    return nstep_return(nstep_return_data(data["reward"][None], next_value, data["terminated"]), gamma, 1)


def bounded_action(logit: Logit, deterministic: bool) -> Tensor:
    """Returns the likeliest action or a drawn one: int64 [b], or float [b, A] clipped to [-1, 1]."""
    action = mode(logit) if deterministic else sample(logit)
    return action if isinstance(logit, Tensor) else action.clamp(-1, 1)
