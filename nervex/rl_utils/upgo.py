"""Upgoing policy update: policy gradients with returns that follow only what went better than expected."""

import torch
from torch import Tensor

from nervex import kernels
from nervex.rl_utils.checks import check_shape
from nervex.rl_utils.distribution import Logit, log_prob
from nervex.rl_utils.normalize import weighted_mean
from nervex.rl_utils.recursion import Ends, array, backward_recursion, kernel_serves, new_table


def upgo_returns(
    rewards: Tensor,
    bootstrap_values: Tensor,
    gamma: float = 1.0,
    terminated: Tensor | None = None,
    truncated: Tensor | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    """Returns the upgoing returns, without gradient.

        G_t = r_t + γ·G_{t+1}     if r_{t+1} + γ·V(s_{t+2}) ≥ V(s_{t+1})
        G_t = r_t + γ·V(s_{t+1})  otherwise

    Vinyals et al. 2019, https://doi.org/10.1038/s41586-019-1724-z, methods, "upgoing policy update". The last row
    bootstraps, as does a truncated one, from the value of its true final observation; a terminated row has r_t.

    Args:
        rewards: float [T, B].
        bootstrap_values: V, the last row that of the observation after the rows, float [T+1, B].
        gamma: discount factor γ; 1 as in the paper.
        terminated, truncated, valid: bool [T, B]; None: never, never, all rows.

    Returns:
        float [T, B]; V(s_t) in rows that are not valid.

    Raises:
        SpecError: a shape does not fit.
    """
    check_shape("upgo_returns", "rewards", rewards, (None, None))
    check_shape("upgo_returns", "bootstrap_values", bootstrap_values, (rewards.shape[0] + 1, rewards.shape[1]))
    ends = Ends("upgo_returns", rewards, terminated, truncated, valid)
    with torch.no_grad():
        if kernel_serves(rewards, bootstrap_values, *ends.masks):
            return_ = new_table(rewards)  # [T, B]
            kernels.upgo(array(bootstrap_values), array(rewards), *ends.arrays(), float(gamma), return_.numpy())
            return return_
        error = ends.td_error(bootstrap_values, rewards, gamma)  # [T, B] r_t + γ·V_{t+1} − V_t
        better = torch.cat([error[1:] >= 0, torch.zeros_like(error[:1], dtype=torch.bool)])  # [T, B]
        excess = backward_recursion(error, ends.cut(gamma * better.to(error.dtype)))  # [T, B] G − V
        return bootstrap_values[:-1] + excess


def upgo_loss(
    target_output: Logit,
    rhos: Tensor,
    action: Tensor,
    rewards: Tensor,
    bootstrap_values: Tensor,
    gamma: float = 1.0,
    terminated: Tensor | None = None,
    truncated: Tensor | None = None,
    valid: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    """Returns the loss of the upgoing policy update, a scalar.

        −mean w·min(ρ_t, 1)·(G_t − V(s_t))·log π(a_t|s_t)

    Vinyals et al. 2019, see :func:`upgo_returns`. The gradient reaches ``target_output`` only.

    Args:
        target_output: logits of the policy that learns; float [T, B, N], a list of [T, B, N_i], or a dict of ``mu``,
            ``sigma`` [T, B, A] (see :mod:`nervex.rl_utils.distribution`).
        rhos: importance weights π / μ, float [T, B]; see :func:`nervex.rl_utils.vtrace.compute_importance_weights`.
        action: int [T, B], int [T, B, heads] or float [T, B, A].
        rewards, bootstrap_values, gamma, terminated, truncated, valid: as in :func:`upgo_returns`.
        weight: weights of the rows, float [T, B]; None: all valid rows count the same.

    Raises:
        SpecError: a shape or dtype does not fit.
    """
    return_ = upgo_returns(rewards, bootstrap_values, gamma, terminated, truncated, valid)  # [T, B]
    valid = None if valid is None else valid.bool()
    logp = log_prob(target_output, action)  # [T, B]
    for name, column in (("rhos", rhos), ("weight", weight)):
        if column is not None:
            check_shape("upgo_loss", name, column, tuple(rewards.shape))
    with torch.no_grad():
        adv = rhos.clamp(max=1) * (return_ - bootstrap_values[:-1])  # [T, B]
    return -weighted_mean(adv * logp, None if weight is None else weight.detach(), valid)
