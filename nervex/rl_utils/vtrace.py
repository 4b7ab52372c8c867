"""V-trace: values and policy gradients from rows that an older policy collected."""

from typing import NamedTuple

import torch
from torch import Tensor

from nervex import kernels
from nervex.rl_utils.checks import check_shape
from nervex.rl_utils.distribution import Logit, log_prob, log_prob_and_entropy
from nervex.rl_utils.normalize import weighted_mean
from nervex.rl_utils.recursion import Ends, array, backward_recursion, check_values, kernel_serves, new_table


class vtrace_data(NamedTuple):
    """Input of :func:`vtrace_error`.

    Attributes:
        target_output: logits of the policy that learns; float [T, B, N], a list of [T, B, N_i], or a dict of ``mu``,
            ``sigma`` [T, B, A] (see :mod:`nervex.rl_utils.distribution`).
        behaviour_output: logits of the policy that acted, of the same form.
        action: int [T, B], int [T, B, heads] or float [T, B, A].
        value: values of the observations, the last row that of the observation after the rows, float [T+1, B].
        reward: float [T, B].
        weight: weights of the rows, float [T, B]; None: all valid rows count the same.
        terminated: the task ended at the row: no bootstrap; bool [T, B]; None: never.
        truncated: a time limit ended the episode at the row: it bootstraps with ``value[t+1]``; bool [T, B]; None:
            never.
        valid: the row is a transition, not a dummy or padding; bool [T, B]; None: all are.
    """

    target_output: Logit
    behaviour_output: Logit
    action: Tensor
    value: Tensor
    reward: Tensor
    weight: Tensor | None
    terminated: Tensor | None = None
    truncated: Tensor | None = None
    valid: Tensor | None = None


class vtrace_loss(NamedTuple):
    """Scalars; the loss is ``policy_loss + value_weight·value_loss − entropy_weight·entropy_loss``.

    Attributes:
        policy_loss: the policy gradient's surrogate, to be minimized.
        value_loss: half the mean squared error of the value.
        entropy_loss: mean entropy, in nats.
    """

    policy_loss: Tensor
    value_loss: Tensor
    entropy_loss: Tensor


class vtrace_target(NamedTuple):
    """What :func:`vtrace_returns` gives, without gradient.

    Attributes:
        return_: targets v_t of the values, float [T, B].
        adv: advantages of the policy gradient, float [T, B]; 0 in rows that are not valid.
    """

    return_: Tensor
    adv: Tensor


def compute_importance_weights(
    target_output: Logit, behaviour_output: Logit, action: Tensor, requires_grad: bool = False
) -> Tensor:
    """Returns the importance weights of the actions, float [...].

        ρ = π(a|s) / μ(a|s) = exp(log π(a|s) − log μ(a|s))

    Args:
        target_output: logits of π, the policy that learns (see :mod:`nervex.rl_utils.distribution`).
        behaviour_output: logits of μ, the policy that acted, of the same form.
        action: int [...], int [..., heads] or float [..., A].
        requires_grad: whether a gradient flows into the logits.

    Raises:
        SpecError: a shape or dtype does not fit.
    """
    with torch.set_grad_enabled(requires_grad and torch.is_grad_enabled()):
        return (log_prob(target_output, action) - log_prob(behaviour_output, action)).exp()


def vtrace_returns(
    ratio: Tensor,
    value: Tensor,
    reward: Tensor,
    terminated: Tensor | None = None,
    truncated: Tensor | None = None,
    valid: Tensor | None = None,
    gamma: float = 0.99,
    lambda_: float = 1.0,
    rho_clip_ratio: float = 1.0,
    c_clip_ratio: float = 1.0,
    rho_pg_clip_ratio: float = 1.0,
) -> vtrace_target:
    """Returns the V-trace targets of the values, and the advantages of the policy gradient.

        δ_t = min(ρ̄, ρ_t)·(r_t + γ·V(s_{t+1}) − V(s_t)),  c_t = λ·min(c̄, ρ_t)
        v_t = V(s_t) + δ_t + γ·c_t·(v_{t+1} − V(s_{t+1})),  v_T = V(s_T)
        A_t = min(ρ̄_pg, ρ_t)·(r_t + γ·v_{t+1} − V(s_t))

    Espeholt et al. 2018, https://arxiv.org/abs/1802.01561, eq. 1, remark 1 and section 4.2. A terminated row has 0 for
    V(s_{t+1}) and v_{t+1}; a truncated one V(s_{t+1}) of its true final observation for both. The last row is like any
    other: its target holds its own reward.

    Args:
        ratio: importance weights ρ = π / μ, float [T, B].
        value: V, float [T+1, B].
        reward: float [T, B].
        terminated, truncated, valid: bool [T, B], as in :class:`vtrace_data`.
        gamma: discount factor γ.
        lambda_: λ, in [0, 1]; 1 as in the paper's experiments.
        rho_clip_ratio: ρ̄, which decides whose values these are: ``inf`` of π, near 0 of μ.
        c_clip_ratio: c̄, at most ρ̄: how far a TD error reaches back.
        rho_pg_clip_ratio: clip of the weight of the policy gradient.

    Raises:
        SpecError: a shape does not fit.
    """
    check_values("vtrace", value, reward)
    check_shape("vtrace", "ratio", ratio, tuple(reward.shape))
    ends = Ends("vtrace", reward, terminated, truncated, valid)
    with torch.no_grad():
        if kernel_serves(reward, value, ratio, *ends.masks):
            target = vtrace_target(new_table(reward), new_table(reward))
            columns = array(ratio), array(value), array(reward), *ends.arrays()
            clips = float(rho_clip_ratio), float(c_clip_ratio), float(rho_pg_clip_ratio)
            kernels.vtrace(*columns, float(gamma), float(lambda_), clips, *(x.numpy() for x in target))
            return target
        if ends.valid is not None:
            ratio = ratio.masked_fill(~ends.valid, 0)  # a dummy's may be NaN, and 0·NaN is NaN
        error = ends.td_error(value, reward, gamma)  # [T, B]
        factor = ends.cut(gamma * lambda_ * ratio.clamp(max=c_clip_ratio))  # [T, B] γ·c
        excess = backward_recursion(ratio.clamp(max=rho_clip_ratio) * error, factor)  # [T, B] v − V
        # r + γ·v_{t+1} − V_t is the TD error plus γ·(v_{t+1} − V_{t+1}), where the episode goes on
        ahead = ends.cut(gamma * torch.cat([excess[1:], torch.zeros_like(excess[:1])]))  # [T, B]
        adv = ratio.clamp(max=rho_pg_clip_ratio) * (error + ahead)
        return vtrace_target(value[:-1] + excess, adv)


def vtrace_error(
    data: vtrace_data,
    gamma: float = 0.99,
    lambda_: float = 1.0,
    rho_clip_ratio: float = 1.0,
    c_clip_ratio: float = 1.0,
    rho_pg_clip_ratio: float = 1.0,
) -> vtrace_loss:
    """Returns the losses of IMPALA, with the targets v and advantages A of :func:`vtrace_returns`.

        policy:   −mean w·A_t·log π(a_t|s_t)
        value:    ½·mean w·(V(s_t) − v_t)²
        entropy:  mean w·H(π(·|s_t))

    Espeholt et al. 2018, https://arxiv.org/abs/1802.01561, section 4.2. On-policy, with λ = 1, v is the n-step return.

    Args:
        data: :class:`vtrace_data`. Gradients reach ``target_output`` and ``value[:-1]`` only.
        gamma: discount factor γ.
        lambda_: λ, in [0, 1]; 1 as in the paper's experiments.
        rho_clip_ratio, c_clip_ratio, rho_pg_clip_ratio: ρ̄, c̄ and the clip of the policy gradient's weight.

    Returns:
        :class:`vtrace_loss` of scalars.

    Raises:
        SpecError: a shape or dtype does not fit.
    """
    target_output, behaviour_output, action, value, reward, weight, terminated, truncated, valid = data
    logp, entropy = log_prob_and_entropy(target_output, action)  # [T, B]
    with torch.no_grad():
        ratio = (logp - log_prob(behaviour_output, action)).exp()  # [T, B] ρ
    target = vtrace_returns(
        ratio, value, reward, terminated, truncated, valid, gamma, lambda_, rho_clip_ratio, c_clip_ratio,
        rho_pg_clip_ratio,
    )  # fmt: skip
    if weight is not None:
        check_shape("vtrace", "weight", weight, tuple(reward.shape))
        weight = weight.detach()
    valid = None if valid is None else valid.bool()
    return vtrace_loss(
        -weighted_mean(target.adv * logp, weight, valid),
        0.5 * weighted_mean((value[:-1] - target.return_).square(), weight, valid),
        weighted_mean(entropy, weight, valid),
    )
