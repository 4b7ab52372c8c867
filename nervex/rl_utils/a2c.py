"""The losses of advantage actor-critic."""

from typing import NamedTuple

from torch import Tensor

from nervex.rl_utils.checks import check_shape
from nervex.rl_utils.distribution import Logit, log_prob_and_entropy
from nervex.rl_utils.normalize import weighted_mean


class a2c_data(NamedTuple):
    """Input of :func:`a2c_error`. ``[...]`` is any shape of rows, as [B] or [T, B].

    Attributes:
        logit: float [..., N], a list of [..., N_i], or a dict of ``mu``, ``sigma`` [..., A] (see
            :mod:`nervex.rl_utils.distribution`).
        action: int [...], int [..., heads] or float [..., A].
        value: float [...].
        adv: advantages, float [...].
        return_: targets of the value, float [...].
        weight: weights of the rows, float [...]; None: all 1.
    """

    logit: Logit
    action: Tensor
    value: Tensor
    adv: Tensor
    return_: Tensor
    weight: Tensor | None


class a2c_loss(NamedTuple):
    """Scalars; the loss is ``policy_loss + value_weight·value_loss − entropy_weight·entropy_loss``.

    Attributes:
        policy_loss: the policy gradient's surrogate, to be minimized.
        value_loss: half the mean squared error of the value.
        entropy_loss: mean entropy, in nats.
    """

    policy_loss: Tensor
    value_loss: Tensor
    entropy_loss: Tensor


def a2c_error(data: a2c_data) -> a2c_loss:
    """Returns the losses of advantage actor-critic.

        policy:   −mean w·A·log π(a|s)
        value:    ½·mean w·(V(s) − G)²
        entropy:  mean w·H(π(·|s))

    Mnih et al. 2016, https://arxiv.org/abs/1602.01783, section 4. The gradient reaches ``logit`` and ``value`` only;
    advantages are taken as they are.

    Raises:
        SpecError: a shape or dtype does not fit.
    """
    logit, action, value, adv, return_, weight = data
    logp, entropy = log_prob_and_entropy(logit, action)  # [...]
    for name, column in (("value", value), ("adv", adv), ("return_", return_), ("weight", weight)):
        if column is not None:
            check_shape("a2c_error", name, column, tuple(logp.shape))
    weight = None if weight is None else weight.detach()
    return a2c_loss(
        -weighted_mean(logp * adv.detach(), weight),
        0.5 * weighted_mean((value - return_.detach()).square(), weight),
        weighted_mean(entropy, weight),
    )
