"""Generalized advantage estimation."""

from typing import NamedTuple

import torch
from torch import Tensor

from nervex import kernels
from nervex.rl_utils.recursion import Ends, array, backward_recursion, check_values, kernel_serves, new_table


class gae_data(NamedTuple):
    """Input of :func:`gae`.

    Attributes:
        value: values of the observations, the last row that of the observation after the rows, float [T+1, B].
        reward: float [T, B].
        terminated: the task ended at the row: no bootstrap; bool [T, B]; None: never.
        truncated: a time limit ended the episode at the row: it bootstraps with ``value[t+1]``; bool [T, B]; None:
            never.
        valid: the row is a transition, not a dummy or padding; bool [T, B]; None: all are.
    """

    value: Tensor
    reward: Tensor
    terminated: Tensor | None = None
    truncated: Tensor | None = None
    valid: Tensor | None = None


def gae(data: gae_data, gamma: float = 0.99, lambda_: float = 0.97) -> Tensor:
    """Returns generalized advantage estimates, without gradient.

        δ_t = r_t + γ·(1 − terminated_t)·V(s_{t+1}) − V(s_t)
        A_t = δ_t + γ·λ·(1 − terminated_t)·(1 − truncated_t)·A_{t+1},  A_T = 0

    Schulman et al. 2016, https://arxiv.org/abs/1506.02438, eq. 16. A truncated row bootstraps, from the value of its
    true final observation (the dummy row after it), but nothing of the next episode enters its advantage. λ = 0 is the
    TD error, λ = 1 the return less the value.

    Args:
        data: :class:`gae_data`.
        gamma: discount factor γ.
        lambda_: λ, in [0, 1].

    Returns:
        float [T, B]; 0 in rows that are not valid.

    Raises:
        SpecError: a shape does not fit.
    """
    value, reward, terminated, truncated, valid = data
    check_values("gae", value, reward)
    ends = Ends("gae", reward, terminated, truncated, valid)
    with torch.no_grad():
        if kernel_serves(reward, value, *ends.masks):
            adv = new_table(reward)  # [T, B]
            kernels.gae(array(value), array(reward), *ends.arrays(), float(gamma), float(lambda_), adv.numpy())
            return adv
        error = ends.td_error(value, reward, gamma)  # [T, B] δ
        return backward_recursion(error, ends.cut(torch.full_like(error, gamma * lambda_)))
