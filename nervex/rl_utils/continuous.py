"""Losses of DDPG, TD3 and SAC (continuous and discrete).

Letters: ``C`` critics, ``B`` batch, ``A`` action dimensions, ``N`` actions. A regression target is the n-step return
(:func:`nervex.rl_utils.td.nstep_return`) of one of the next values here:

    DDPG:  Q'(s', μ'(s'))
    TD3:   min_c Q'_c(s', a'), a' = smoothed μ'(s')                      clipped_double_q, smoothed_target_action
    SAC:   min_c Q'_c(s', a') − α·log π(a' | s'), a' ~ π                 soft_value
"""

from typing import NamedTuple

import torch
from torch import Tensor

from nervex.rl_utils.checks import check_shape
from nervex.rl_utils.normalize import weighted_mean
from nervex.rl_utils.td import Criterion, nstep_return, nstep_return_data, squared_error
from nervex.rl_utils.value_td import check_float, elementwise, fixed_weight
from nervex.utils.errors import SpecError


def critic_error(
    q_value: Tensor, target: Tensor, weight: Tensor | None = None, criterion: Criterion = squared_error
) -> tuple[Tensor, Tensor]:
    """Returns the loss of one or several critics that regress to one target, and their TD errors.

        L = Σ_c mean_B w·c(Q_c(s, a), y)

    Lillicrap et al. 2016, https://arxiv.org/abs/1509.02971; Fujimoto et al. 2018, https://arxiv.org/abs/1802.09477,
    algorithm 1; Haarnoja et al. 2018, https://arxiv.org/abs/1812.05905, eq. 5 (without its factor 1/2). No gradient
    flows into the target.

    Args:
        q_value: float [B], or [C, B] of several critics.
        target: y, float [B].
        weight: importance weights, float [B]; None: all 1.
        criterion: elementwise error c of (prediction, target).

    Returns:
        ``(loss, td_error)``: scalar, and y − Q_c detached, float of the shape of ``q_value`` (a priority of a sample
        is its absolute value, averaged over the critics).

    Raises:
        SpecError: a shape or dtype does not fit.
    """
    fn = "critic_error"
    check_float(fn, "q_value", q_value)
    batch = _batch(fn, q_value)
    check_shape(fn, "target", target, (batch,))
    weight = fixed_weight(fn, weight, target)
    target = target.detach().expand_as(q_value)  # [C, B]
    error = elementwise(fn, criterion, q_value, target)  # [C, B]
    critic_num = q_value.shape[0] if q_value.dim() == 2 else 1
    return critic_num * weighted_mean(error, weight), target - q_value.detach()


def clipped_double_q(q_value: Tensor) -> Tensor:
    """Returns min_c Q_c, float [B], of critics [C, B]; the values themselves of one critic [B].

    Fujimoto et al. 2018, https://arxiv.org/abs/1802.09477, eq. 10.
    """
    _batch("clipped_double_q", q_value)
    return q_value if q_value.dim() == 1 else q_value.amin(dim=0)


def smoothed_target_action(
    action: Tensor,
    sigma: float = 0.2,
    noise_clip: float = 0.5,
    low: float = -1.0,
    high: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Returns the target policy's action with clipped noise on it, float [B, A].

        a' = clip(μ'(s') + clip(σ·ε, −c, c), low, high), ε ~ N(0, 1)

    Fujimoto et al. 2018, https://arxiv.org/abs/1802.09477, eq. 14.

    Args:
        action: μ'(s'), float [B, A].
        sigma: σ, in the unit of the action.
        noise_clip: c.
        low, high: bounds of the action.
        generator: of the noise; None: torch's.
    """
    noise = torch.randn(action.shape, generator=generator, dtype=action.dtype, device=action.device)  # [B, A]
    return (action + (sigma * noise).clamp(-noise_clip, noise_clip)).clamp(low, high)


def deterministic_policy_loss(q_value: Tensor) -> Tensor:
    """Returns the loss of a deterministic policy, −mean_B Q(s, μ(s)), a scalar.

    Silver et al. 2014, http://proceedings.mlr.press/v32/silver14.html. TD3 gives the first critic's values.

    Args:
        q_value: of the policy's own actions, with a gradient to them, float [B].

    Raises:
        SpecError: the values of several critics.
    """
    check_shape("deterministic_policy_loss", "q_value", q_value, (None,))
    return -q_value.mean()


def soft_value(q_value: Tensor, logp: Tensor, alpha: float | Tensor) -> Tensor:
    """Returns the soft state value of a sampled action, min_c Q_c(s, a) − α·log π(a | s), float [B].

    Haarnoja et al. 2018, https://arxiv.org/abs/1812.05905, eq. 3.

    Args:
        q_value: float [B], or [C, B] of several critics.
        logp: log-probability of the whole action, *summed over its dimensions*, float [B].
        alpha: temperature α; no gradient flows into it.

    Raises:
        SpecError: a shape does not fit.
    """
    _check_logp("soft_value", logp, _batch("soft_value", q_value))
    return clipped_double_q(q_value) - _fixed(alpha) * logp


def sac_policy_loss(logp: Tensor, q_value: Tensor, alpha: float | Tensor) -> Tensor:
    """Returns the loss of SAC's policy, mean_B [α·log π(a | s) − min_c Q_c(s, a)], a scalar.

    Haarnoja et al. 2018, https://arxiv.org/abs/1812.05905, eq. 9. Gradients flow through the action (reparameterized)
    into both terms.

    Args:
        logp: log-probability of the whole action, *summed over its dimensions*, float [B].
        q_value: float [B], or [C, B] of several critics.
        alpha: temperature α; no gradient flows into it.

    Raises:
        SpecError: a shape does not fit.
    """
    return -soft_value(q_value, logp, alpha).mean()


def sac_alpha_loss(log_alpha: Tensor, logp: Tensor, target_entropy: float) -> Tensor:
    """Returns the loss of SAC's temperature, −mean_B α·(log π(a | s) + H̄), a scalar.

    Haarnoja et al. 2018, https://arxiv.org/abs/1812.05905, eq. 18: α falls while the entropy −log π is above H̄. The
    gradient reaches ``log_alpha`` only.

    Args:
        log_alpha: log α, a scalar parameter (shape [] or [1]).
        logp: float [B]; of discrete actions its expectation, the negative entropy of the policy.
        target_entropy: H̄ in nats.

    Raises:
        SpecError: a shape does not fit.
    """
    if log_alpha.numel() != 1:
        raise SpecError(f"sac_alpha_loss: 'log_alpha' has shape {list(log_alpha.shape)}, expected a single number")
    check_shape("sac_alpha_loss", "logp", logp, (None,))
    return -(log_alpha.exp() * (logp.detach() + target_entropy)).mean()


def discrete_soft_value(q_value: Tensor, logit: Tensor, alpha: float | Tensor) -> Tensor:
    """Returns the soft state value of a policy over discrete actions, an exact expectation, float [B].

        V(s) = Σ_a π(a)·[min_c Q_c(s, a) − α·log π(a)]

    Christodoulou 2019, https://arxiv.org/abs/1910.07207, eq. 10. Actions with logit -1e8 have no part in it.

    Args:
        q_value: float [C, B, N], or [B, N] of one critic.
        logit: of the policy, float [B, N].
        alpha: temperature α; no gradient flows into it.

    Raises:
        SpecError: a shape does not fit.
    """
    fn = "discrete_soft_value"
    check_shape(fn, "logit", logit, (None, None))
    critics = (q_value.shape[0],) if q_value.dim() == 3 else ()
    check_shape(fn, "q_value", q_value, (*critics, *logit.shape))
    logp = logit.log_softmax(dim=1)  # [B, N]
    smallest = q_value.amin(dim=0) if critics else q_value  # [B, N]
    return (logp.exp() * (smallest - _fixed(alpha) * logp)).sum(dim=1)


def discrete_sac_policy_loss(logit: Tensor, q_value: Tensor, alpha: float | Tensor) -> Tensor:
    """Returns the loss of SAC's policy over discrete actions, −mean_B V(s) of :func:`discrete_soft_value`, a scalar.

    Christodoulou 2019, https://arxiv.org/abs/1910.07207, eq. 12. The gradient reaches ``logit`` only.
    """
    return -discrete_soft_value(q_value.detach(), logit, alpha).mean()


class soft_q_data(NamedTuple):
    """Input of :func:`soft_q_error`: ``q_value`` float [B] or [C, B]; ``next_value`` (of the target value network) and
    ``reward`` float [B]; ``done`` (terminated) bool or float [B] or None; ``weight`` float [B] or None."""

    q_value: Tensor
    next_value: Tensor
    reward: Tensor
    done: Tensor | None = None
    weight: Tensor | None = None


class value_data(NamedTuple):
    """Input of :func:`value_error`: ``value`` float [B]; ``q_value`` float [B] or [C, B] and ``logp`` float [B] of an
    action drawn from the policy; ``weight`` float [B] or None."""

    value: Tensor
    q_value: Tensor
    logp: Tensor
    weight: Tensor | None = None


def soft_q_error(data: soft_q_data, discount: float) -> Tensor:
    """Returns the critics' loss of the SAC that has a value network, a scalar.

        L = Σ_c mean_B w·(Q_c(s, a) − r − γ·(1 − done)·V'(s'))²

    Haarnoja et al. 2018, https://arxiv.org/abs/1801.01290, eq. 7 (without its factor 1/2).

    Args:
        data: :class:`soft_q_data`.
        discount: discount factor γ.

    Raises:
        SpecError: a shape or dtype does not fit.
    """
    window = nstep_return_data(data.reward.unsqueeze(0), data.next_value, data.done)
    return critic_error(data.q_value, nstep_return(window, discount, 1), data.weight)[0]


def value_error(data: value_data, alpha: float | Tensor = 1.0) -> Tensor:
    """Returns the value network's loss of the SAC that has one, a scalar.

        L = mean_B w·(V(s) − min_c Q_c(s, a) + α·log π(a | s))²

    Haarnoja et al. 2018, https://arxiv.org/abs/1801.01290, eq. 5 (without its factor 1/2). The gradient reaches
    ``value`` only.

    Args:
        data: :class:`value_data`.
        alpha: temperature α.

    Raises:
        SpecError: a shape or dtype does not fit.
    """
    check_shape("value_error", "value", data.value, (None,))
    return critic_error(data.value, soft_value(data.q_value, data.logp, alpha), data.weight)[0]


def _batch(fn: str, q_value: Tensor) -> int:
    if q_value.dim() not in (1, 2):
        raise SpecError(f"{fn}: 'q_value' has shape {list(q_value.shape)}, expected [B], or [C, B] of C critics")
    return q_value.shape[-1]


def _check_logp(fn: str, logp: Tensor, batch: int) -> None:
    if logp.shape != (batch,):
        raise SpecError(
            f"{fn}: 'logp' has shape {list(logp.shape)}, expected [{batch}]; sum it over the action's dimensions"
        )


def _fixed(alpha: float | Tensor) -> float | Tensor:
    return alpha.detach() if isinstance(alpha, Tensor) else alpha
