"""The loss of QMIX, and the greatest value among the available actions.

Letters: ``T`` time, ``B`` batch, ``A`` agents, ``N`` actions.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from nervex.rl_utils.checks import check_shape
from nervex.rl_utils.normalize import weighted_mean
from nervex.rl_utils.sequence_td import nstep_sequence_target
from nervex.rl_utils.td import Criterion, squared_error
from nervex.rl_utils.value_td import check_float, elementwise, fixed_weight, row_masks
from nervex.utils.errors import SpecError


class qmix_td_data(NamedTuple):
    """Input of :func:`qmix_td_error`.

    Attributes:
        total_q: Q_tot of the actions taken, float [T, B].
        target_total_q: the target mixer's value *at row t's observation*, of each agent's best available action there
            (:func:`max_available`), float [T, B].
        reward: of the team, float [T, B].
        terminated, truncated, valid: bool [T, B]; None: never, never, all. The row after a truncated one is its dummy.
        weight: float [B] or [T, B]; None: the mean over the rows that have a target.
            With one, rows that have none count 0.
    """

    total_q: Tensor
    target_total_q: Tensor
    reward: Tensor
    terminated: Tensor | None = None
    truncated: Tensor | None = None
    valid: Tensor | None = None
    weight: Tensor | None = None


def qmix_td_error(data: qmix_td_data, gamma: float, nstep: int = 1, criterion: Criterion = squared_error) -> Tensor:
    """Returns the QMIX loss, a scalar; see :func:`qmix_td_error_per_row`."""
    return qmix_td_error_per_row(data, gamma, nstep, criterion)[0]


def qmix_td_error_per_row(
    data: qmix_td_data, gamma: float, nstep: int = 1, criterion: Criterion = squared_error
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the QMIX loss, the TD error of each row, and the rows that have one.

        y_t = r_t + γ·(1 − terminated_t)·Q'_tot(s_{t+1}, argmax_u Q(s_{t+1}, u))
        L   = mean w·c(Q_tot(s_t, u_t), y_t)

    Rashid et al. 2018, https://arxiv.org/abs/1803.11485, eq. 6; for n > 1 the n-step target of
    :func:`nervex.rl_utils.sequence_td.nstep_sequence_target`. Rows whose successor is not in the sequence are left
    out. No gradient flows into the target.

    Args:
        data: :class:`qmix_td_data`.
        gamma: discount factor γ.
        nstep: n.
        criterion: elementwise error c of (prediction, target).

    Returns:
        ``(loss, td_error, trainable)``: scalar, y − Q_tot detached, float [T, B], 0 where not trainable, bool [T, B].

    Raises:
        SpecError: a shape or dtype does not fit.
    """
    total_q, target_total_q, reward, terminated, truncated, valid, weight = data
    fn = "qmix_td_error"
    check_shape(fn, "total_q", total_q, (None, None))
    check_float(fn, "total_q", total_q)
    for name in ("target_total_q", "reward"):
        check_shape(fn, name, getattr(data, name), tuple(total_q.shape))
    weight = fixed_weight(fn, weight, total_q, per_lane=True)
    terminated, truncated, valid = row_masks(fn, total_q, terminated, truncated, valid)
    target, trainable = nstep_sequence_target(target_total_q, reward, terminated, truncated, valid, gamma, nstep)
    error = elementwise(fn, criterion, total_q, target)  # [T, B]
    td_error = torch.where(trainable, target - total_q.detach(), 0)  # [T, B]
    return weighted_mean(error, weight, trainable), td_error, trainable


def max_available(q_value: Tensor, action_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Returns the greatest value among the available actions, and the first action that has it.

        max_u {Q(u) : mask_u}

    A target that takes the maximum over all actions bootstraps from ones that the agent cannot take. For double
    Q-learning gather the target network's values at the action that this returns for the online network's.

    Args:
        q_value: float [..., N].
        action_mask: available actions, bool [..., N]; None: all.

    Returns:
        ``(value, action)``: float [...] and int64 [...]; 0 and 0 where no action is available (padding, the absent).

    Raises:
        SpecError: a shape or dtype does not fit.
    """
    if action_mask is None:
        best = q_value.max(dim=-1)
        return best.values, best.indices
    check_shape("max_available", "action_mask", action_mask, tuple(q_value.shape))
    if action_mask.dtype != torch.bool:
        raise SpecError(
            f"max_available: 'action_mask' is {action_mask.dtype}, expected torch.bool; cast it with .bool()"
        )
    best = q_value.masked_fill(~action_mask, -torch.inf).max(dim=-1)
    return torch.where(action_mask.any(dim=-1), best.values, 0), best.indices
