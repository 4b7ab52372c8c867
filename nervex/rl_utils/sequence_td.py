"""n-step targets inside a sequence of rows, as recurrent Q-learning (R2D2) trains on them.

Letters: ``n`` steps, ``T`` rows of the sequence, ``B`` sequences.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from nervex import kernels
from nervex.rl_utils.checks import check_shape
from nervex.rl_utils.recursion import array, kernel_serves
from nervex.rl_utils.value_td import check_float, row_masks
from nervex.utils.errors import ConfigError


def nstep_sequence_target(
    next_value: Tensor,
    reward: Tensor,
    terminated: Tensor | None,
    truncated: Tensor | None,
    valid: Tensor | None,
    gamma: float,
    nstep: int,
    value_transform: Callable[[Tensor], Tensor] | None = None,
    value_inv_transform: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Returns the n-step target of every row of a sequence, and which rows have one.

        G_t = Σ_{i<k} γ^i·r_{t+i} + γ^k·V_{t+k}
        target_t = h(G_t), with h⁻¹(V) for V                    where a transform is given

    k is n, or fewer where an end or the sequence's last row comes first. Kapturowski et al. 2019,
    https://openreview.net/forum?id=r1lyTjAqYX, section 2.3.

    - Terminated within the window: its rewards, and no bootstrap.
    - Truncated: bootstraps from the row after, the dummy row (not valid) that holds the true final observation.
    - The window would leave the sequence: bootstraps at the last row that it reaches.

    A row whose successor is not there has no target (the last one, or one before a gap, unless it terminated); neither
    has an invalid one. The sequence may hold several episodes; nothing of one reaches another. No gradient flows.

    Args:
        next_value: value[t] is the bootstrap value *at row t's observation* (for double Q the target network's value
            of the online network's argmax there), float [T, B]. It is not shifted: this function looks at row t + k.
        reward: float [T, B].
        terminated, truncated: the task ended / a time limit ended the episode with row t, bool [T, B]; None: never.
        valid: the row is a transition, bool [T, B]; None: all.
        gamma: discount factor γ.
        nstep: n, at least 1.
        value_transform: h of rescaled values; None: identity.
        value_inv_transform: h⁻¹, given together with h.

    Returns:
        ``(target, trainable)``: float [T, B], 0 where not trainable, and bool [T, B].

    Raises:
        SpecError: a shape or dtype does not fit.
        ConfigError: n is below 1, or only one of the transforms is given.
    """
    fn = "nstep_sequence_target"
    if nstep < 1:
        raise ConfigError(f"{fn}: nstep is {nstep}, expected at least 1")
    if (value_transform is None) != (value_inv_transform is None):
        raise ConfigError(f"{fn}: got one of value_transform and value_inv_transform, expected both or neither")
    check_shape(fn, "reward", reward, (None, None))
    check_shape(fn, "next_value", next_value, tuple(reward.shape))
    check_float(fn, "next_value", next_value)
    terminated, truncated, valid = row_masks(fn, reward, terminated, truncated, valid)
    trainable = trainable_rows(terminated, truncated, valid)
    with torch.no_grad():
        value = next_value if value_inv_transform is None else value_inv_transform(next_value)  # [T, B]
        return_ = _nstep_returns(value, reward, terminated, trainable, gamma, nstep)  # [T, B]
        target = return_ if value_transform is None else value_transform(return_)
        return torch.where(trainable, target, 0), trainable


def _nstep_returns(
    value: Tensor, reward: Tensor, terminated: Tensor, trainable: Tensor, gamma: float, nstep: int
) -> Tensor:
    if kernel_serves(reward, value, terminated, trainable):
        return_ = value.clone(memory_format=torch.contiguous_format)  # [T, B]
        kernels.nstep_returns(
            array(reward), array(terminated), array(trainable), float(gamma), nstep, return_.detach().numpy()
        )
        return return_
    return_ = value  # [T, B] of no steps; each turn adds one
    for _ in range(nstep):
        later = torch.where(terminated, 0, gamma * _next_row(return_))  # [T, B]; that of a dummy stays its value
        return_ = torch.where(trainable, reward + later, value)
    return return_


def trainable_rows(terminated: Tensor, truncated: Tensor, valid: Tensor) -> Tensor:
    """Returns the rows of a sequence that have a target, bool [T, B].

    These are the valid rows that terminated, or whose successor is there: the next row, which after a truncated row is
    its dummy, and else must be valid (what follows a gap is no successor).

    Args:
        terminated, truncated, valid: bool [T, B].
    """
    there = torch.ones_like(valid)
    there[-1] = False
    return valid & (terminated | (there & (truncated | _next_row(valid))))


def sequence_priority(td_error: Tensor, trainable: Tensor, eta: float = 0.9) -> Tensor:
    """Returns the priority of each sequence, float [B].

        p = η·max_t |δ_t| + (1 − η)·mean_t |δ_t|

    over the trainable rows; 0 for a sequence without any. Kapturowski et al. 2019, section 2.3.

    Args:
        td_error: δ, float [T, B]; what it is in other rows does not matter.
        trainable: bool [T, B].
        eta: η, 0 to 1.

    Raises:
        SpecError: a shape does not fit.
    """
    check_shape("sequence_priority", "td_error", td_error, (None, None))
    check_shape("sequence_priority", "trainable", trainable, tuple(td_error.shape))
    error = torch.where(trainable, td_error.detach().abs(), 0)  # [T, B]
    mean = error.sum(dim=0) / trainable.sum(dim=0).clamp(min=1)  # [B]
    return eta * error.amax(dim=0) + (1 - eta) * mean


def _next_row(x: Tensor) -> Tensor:
    """Row t becomes row t + 1; the last one becomes zeros."""
    return torch.cat([x[1:], torch.zeros_like(x[:1])])
