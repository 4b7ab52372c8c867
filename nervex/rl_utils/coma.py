"""The losses of COMA: a centralized critic, and a counterfactual baseline for each agent.

Letters: ``T`` time, ``B`` batch, ``A`` agents, ``N`` actions.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from nervex.rl_utils.checks import check_index, check_shape
from nervex.rl_utils.distribution import log_prob_and_entropy
from nervex.rl_utils.normalize import weighted_mean
from nervex.rl_utils.sequence_td import trainable_rows
from nervex.rl_utils.td import squared_error
from nervex.rl_utils.value_td import check_float, fixed_weight, multistep_forward_view, row_masks


class coma_data(NamedTuple):
    """Input of :func:`coma_error`.

    Attributes:
        logit: of the policies, with actions that are not available at -1e8, float [T, B, A, N].
        action: actions taken, int [T, B, A].
        q_value: for each agent the values of its actions, those of the others as taken, float [T, B, A, N].
        target_q_value: the same by the target network, float [T, B, A, N].
        reward: of the team, float [T, B].
        weight: float [B] or [T, B]; None: the mean over the valid rows.
        terminated, truncated, valid: bool [T, B]; None: never, never, all. The row after a truncated one is its dummy.
        agent_mask: agents that are there, bool [T, B, A]; None: all.
    """

    logit: Tensor
    action: Tensor
    q_value: Tensor
    target_q_value: Tensor
    reward: Tensor
    weight: Tensor | None = None
    terminated: Tensor | None = None
    truncated: Tensor | None = None
    valid: Tensor | None = None
    agent_mask: Tensor | None = None


class coma_loss(NamedTuple):
    """Scalars: ``policy`` and ``q_value`` losses, and the mean ``entropy`` (a bonus: subtract it)."""

    policy: Tensor
    q_value: Tensor
    entropy: Tensor


def coma_error(data: coma_data, gamma: float, lambda_: float) -> coma_loss:
    """Returns the losses of COMA.

        A_t^a = Q(s_t, u_t) − Σ_{u'} π^a(u')·Q(s_t, (u_t^{−a}, u'))
        L_π   = −mean w·log π^a(u_t^a)·A_t^a
        L_Q   = mean w·(Q(s_t, u_t) − G_t^λ)²
        H     = mean w·H(π^a)

    Foerster et al. 2018, https://arxiv.org/abs/1705.08926, eq. 4 and 7. G^λ is the λ-return
    (:func:`nervex.rl_utils.value_td.multistep_forward_view`) on the target network's values of the actions taken; where
    a time limit ended the episode it bootstraps from the dummy row. Rows whose successor is not in the sequence (the
    last one, unless it terminated) have an advantage but no return, so L_Q leaves them out. Means are over valid rows
    and the agents that are there; with a weight they are over all, the others counting 0. L_π and H give gradients to
    ``logit`` only, L_Q to ``q_value`` only.

    Args:
        data: :class:`coma_data`.
        gamma: discount factor γ.
        lambda_: λ.

    Returns:
        :class:`coma_loss`.

    Raises:
        SpecError: a shape or dtype does not fit.
    """
    logit, action, q_value, target_q_value, reward, weight, terminated, truncated, valid, agent_mask = data
    fn = "coma_error"
    _check(fn, data)
    weight = fixed_weight(fn, weight, reward, per_lane=True)
    terminated, truncated, valid = row_masks(fn, reward, terminated, truncated, valid)
    there = torch.ones_like(action, dtype=torch.bool) if agent_mask is None else agent_mask.bool()  # [T, B, A]
    logp, entropy = log_prob_and_entropy(logit, action)  # [T, B, A]
    index = action.unsqueeze(-1)  # [T, B, A, 1]
    q_taken = q_value.gather(-1, index).squeeze(-1)  # [T, B, A]
    trainable = trainable_rows(terminated, truncated, valid)  # [T, B]
    with torch.no_grad():
        baseline = (logit.softmax(-1) * q_value).sum(-1)  # [T, B, A]
        adv = q_taken - baseline  # [T, B, A]
        bootstrap = target_q_value.gather(-1, index).squeeze(-1)  # [T, B, A]
        bootstrap = torch.cat([bootstrap[1:], torch.zeros_like(bootstrap[:1])])  # of the next row
        per_agent = [x.unsqueeze(-1).expand_as(adv).flatten(1) for x in (reward, terminated, truncated, trainable)]
        reward, *masks = per_agent  # [T, B·A]
        return_ = multistep_forward_view(bootstrap.flatten(1), reward, gamma, lambda_, *masks).view_as(adv)
    if weight is not None:
        weight = weight.expand(valid.shape).unsqueeze(-1)  # [T, B, 1]
    acting, trained = valid.unsqueeze(-1) & there, trainable.unsqueeze(-1) & there  # [T, B, A]
    return coma_loss(
        weighted_mean(-logp * adv, weight, acting),
        weighted_mean(squared_error(q_taken, return_), weight, trained),
        weighted_mean(entropy, weight, acting),
    )


def _check(fn: str, data: coma_data) -> None:
    check_shape(fn, "logit", data.logit, (None, None, None, None))
    check_float(fn, "logit", data.logit)
    shape = tuple(data.logit.shape)
    check_shape(fn, "action", data.action, shape[:3])
    check_index(fn, "action", data.action)
    check_shape(fn, "q_value", data.q_value, shape)
    check_shape(fn, "target_q_value", data.target_q_value, shape)
    check_shape(fn, "reward", data.reward, shape[:2])
    check_float(fn, "reward", data.reward)
    if data.agent_mask is not None:
        check_shape(fn, "agent_mask", data.agent_mask, shape[:3])
