"""The losses of proximal policy optimization."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from nervex.rl_utils.checks import check_shape
from nervex.rl_utils.distribution import Logit, log_prob, log_prob_and_entropy
from nervex.rl_utils.normalize import weighted_mean
from nervex.utils.errors import ConfigError


class ppo_data(NamedTuple):
    """Input of :func:`ppo_error`. ``[...]`` is any shape of rows, as [B] or [T, B].

    Attributes:
        logit_new: of the policy that learns; float [..., N], a list of [..., N_i], or a dict of ``mu``, ``sigma``
            [..., A] (see :mod:`nervex.rl_utils.distribution`).
        logit_old: of the policy that acted, of the same form.
        action: int [...], int [..., heads] or float [..., A].
        value_new: float [...].
        value_old: value when the rows were collected, float [...].
        adv: advantages, float [...].
        return_: targets of the value, float [...].
        weight: weights of the rows, float [...]; None: all 1.
    """

    logit_new: Logit
    logit_old: Logit
    action: Tensor
    value_new: Tensor
    value_old: Tensor
    adv: Tensor
    return_: Tensor
    weight: Tensor | None


class ppo_logp_data(NamedTuple):
    """Input of :func:`ppo_logp_error`: :class:`ppo_data` with log-probabilities of the actions, float [...], in place
    of the logits, and the entropy of the policy that learns, float [...]."""

    logp_new: Tensor
    logp_old: Tensor
    entropy: Tensor
    value_new: Tensor
    value_old: Tensor
    adv: Tensor
    return_: Tensor
    weight: Tensor | None


class ppo_loss(NamedTuple):
    """Scalars; the loss is ``policy_loss + value_weight·value_loss − entropy_weight·entropy_loss``.

    Attributes:
        policy_loss: the clipped surrogate, to be minimized.
        value_loss: half the mean squared error of the value.
        entropy_loss: mean entropy, in nats.
    """

    policy_loss: Tensor
    value_loss: Tensor
    entropy_loss: Tensor


class ppo_info(NamedTuple):
    """Scalar tensors without gradient, so that nothing waits for the device.

    Attributes:
        approx_kl: estimate of KL(π_old ‖ π_new): mean of (ρ − 1) − log ρ, never negative
            (http://joschu.net/blog/kl-approx.html, k3).
        clipfrac: share of rows with |ρ − 1| above the clip ratio.
    """

    approx_kl: Tensor
    clipfrac: Tensor


def ppo_error(
    data: ppo_data, clip_ratio: float = 0.2, use_value_clip: bool = True, dual_clip: float | None = None
) -> tuple[ppo_loss, ppo_info]:
    """Returns the losses of proximal policy optimization.

        ρ = π_new(a|s) / π_old(a|s)
        policy:  −mean w·min(ρ·A, clip(ρ, 1 − ε, 1 + ε)·A)
        dual clip, where A < 0:  −mean w·max(min(ρ·A, clip(ρ)·A), c·A)
        value:   ½·mean w·(V − G)², or with value clip
                 ½·mean w·max((V − G)², (V_old + clip(V − V_old, −ε, ε) − G)²)

    Schulman et al. 2017, https://arxiv.org/abs/1707.06347, eq. 7; dual clip: Ye et al. 2020,
    https://arxiv.org/abs/1912.09729, eq. 5. Advantages are taken as they are, see
    :func:`nervex.rl_utils.normalize.normalize_advantage`.

    Args:
        data: :class:`ppo_data`. Gradients reach ``logit_new`` and ``value_new`` only.
        clip_ratio: ε, of the ratio and of the value; ``inf`` does not clip.
        use_value_clip: whether the value may move at most ε from ``value_old``, in units of the return.
        dual_clip: c, above 1; None: no dual clip.

    Returns:
        ``(ppo_loss, ppo_info)`` of scalar tensors.

    Raises:
        SpecError: a shape or dtype does not fit.
        ConfigError: ``clip_ratio`` is not positive, or ``dual_clip`` not above 1.
    """
    logp_new, entropy = log_prob_and_entropy(data.logit_new, data.action)  # [...]
    with torch.no_grad():
        logp_old = log_prob(data.logit_old, data.action)  # [...]
    return ppo_logp_error(ppo_logp_data(logp_new, logp_old, entropy, *data[3:]), clip_ratio, use_value_clip, dual_clip)


def ppo_logp_error(
    data: ppo_logp_data, clip_ratio: float = 0.2, use_value_clip: bool = True, dual_clip: float | None = None
) -> tuple[ppo_loss, ppo_info]:
    """Returns the losses of :func:`ppo_error`, from log-probabilities that were stored when acting."""
    _check(data, clip_ratio, dual_clip)
    logp_new, logp_old, entropy, value_new, value_old, adv, return_, weight = data
    adv, return_, weight = adv.detach(), return_.detach(), None if weight is None else weight.detach()
    log_ratio = logp_new - logp_old.detach()  # [...]
    if weight is not None:  # rows that do not count may hold anything, and infinity times 0 is no number
        log_ratio = log_ratio.masked_fill(weight == 0, 0.0)
    ratio = log_ratio.exp()  # [...] ρ
    surrogate = torch.min(ratio * adv, ratio.clamp(1 - clip_ratio, 1 + clip_ratio) * adv)  # [...]
    if dual_clip is not None:
        surrogate = torch.where(adv < 0, torch.max(surrogate, dual_clip * adv), surrogate)
    error = (value_new - return_).square()  # [...]
    if use_value_clip:
        value_old = value_old.detach()
        near = value_old + (value_new - value_old).clamp(-clip_ratio, clip_ratio)
        error = torch.max(error, (near - return_).square())
    loss = ppo_loss(
        -weighted_mean(surrogate, weight), 0.5 * weighted_mean(error, weight), weighted_mean(entropy, weight)
    )
    with torch.no_grad():
        clipped = ((ratio - 1).abs() > clip_ratio).to(ratio.dtype)
        info = ppo_info(weighted_mean((ratio - 1) - log_ratio, weight), weighted_mean(clipped, weight))
    return loss, info


def _check(data: ppo_logp_data, clip_ratio: float, dual_clip: float | None) -> None:
    shape = tuple(data.logp_new.shape)
    for name, column in data._asdict().items():
        if column is not None:
            check_shape("ppo_error", name, column, shape)
    if not clip_ratio > 0:
        raise ConfigError(f"ppo_error: clip_ratio is {clip_ratio}, expected a positive number (0.1 to 0.3 are usual)")
    if dual_clip is not None and not 1 < dual_clip < math.inf:
        raise ConfigError(f"ppo_error: dual_clip is {dual_clip}, expected a number above 1 (3 is usual), or null")
