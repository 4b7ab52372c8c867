"""Losses of policies that learn from recorded data: behavior cloning, CQL and IQL.

Letters: ``B`` batch, ``C`` critics, ``K`` drawn actions, ``A`` action dimensions, ``N`` actions.
"""

import math

from torch import Tensor

from nervex.rl_utils.checks import check_shape
from nervex.rl_utils.distribution import Logit, log_prob
from nervex.rl_utils.normalize import weighted_mean
from nervex.rl_utils.value_td import check_float, fixed_weight
from nervex.utils.errors import SpecError


def cloning_loss(logit: Logit, action: Tensor, weight: Tensor | None = None) -> Tensor:
    """Returns the negative log-likelihood of recorded actions, −mean_B w·log π(a | s), a scalar.

    For discrete actions it is the cross-entropy. Pomerleau 1991, https://doi.org/10.1162/neco.1991.3.1.88.

    Args:
        logit: of the policy, see :mod:`nervex.rl_utils.distribution`.
        action: int64 [B], int64 [B, heads] or float [B, A].
        weight: float [B]; None: all 1.

    Raises:
        SpecError: a shape or dtype does not fit.
    """
    logp = log_prob(logit, action)  # [B]
    return -weighted_mean(logp, fixed_weight("cloning_loss", weight, logp))


def cloning_error(mu: Tensor, action: Tensor, weight: Tensor | None = None) -> Tensor:
    """Returns the squared error of a policy's mean, mean_B w·Σ_i (μ_i(s) − a_i)², a scalar.

    Args:
        mu: float [B, A].
        action: float [B, A].
        weight: float [B]; None: all 1.

    Raises:
        SpecError: a shape or dtype does not fit.
    """
    fn = "cloning_error"
    check_shape(fn, "mu", mu, (None, None))
    check_shape(fn, "action", action, tuple(mu.shape))
    check_float(fn, "action", action)
    error = (mu - action).square().sum(dim=-1)  # [B]
    return weighted_mean(error, fixed_weight(fn, weight, error))


def sampled_logsumexp(q_value: Tensor, logp: Tensor) -> Tensor:
    """Returns the estimate of log ∫ exp Q(s, a) da from K actions that were drawn from known densities, float [C, B].

        log (1/K)·Σ_k exp(Q(s, a_k)) / p_k(a_k)

    Kumar et al. 2020, https://arxiv.org/abs/2006.04779, appendix F (half of the actions from a uniform density, half
    from the policy). No gradient flows into the densities.

    Args:
        q_value: float [C, K, B].
        logp: log p_k(a_k), of the density that each action was drawn from, float [K, B].

    Raises:
        SpecError: a shape does not fit.
    """
    fn = "sampled_logsumexp"
    check_shape(fn, "q_value", q_value, (None, None, None))
    check_shape(fn, "logp", logp, tuple(q_value.shape[1:]))
    return (q_value - logp.detach()).logsumexp(dim=1) - math.log(len(logp))


def conservative_gap(logsumexp: Tensor, q_value: Tensor, weight: Tensor | None = None) -> Tensor:
    """Returns how much more each critic values all actions than the recorded ones, float [C].

        mean_B w·(log Σ_a exp Q(s, a) − Q(s, a_B))

    Kumar et al. 2020, https://arxiv.org/abs/2006.04779, eq. 4 (CQL(H)). For discrete actions ``logsumexp`` is exact.

    Args:
        logsumexp: float [C, B].
        q_value: of the recorded actions, float [C, B].
        weight: float [B]; None: all 1.

    Raises:
        SpecError: a shape does not fit.
    """
    fn = "conservative_gap"
    check_shape(fn, "logsumexp", logsumexp, (None, None))
    check_shape(fn, "q_value", q_value, tuple(logsumexp.shape))
    gap = logsumexp - q_value  # [C, B]
    fixed = fixed_weight(fn, weight, gap[0])
    return (gap if fixed is None else gap * fixed).mean(dim=1)


def cql_alpha_loss(log_alpha: Tensor, gap: Tensor, threshold: float) -> Tensor:
    """Returns the loss of CQL's Lagrange factor, −mean_C α·(gap_c − τ), a scalar: α grows while the gap is above τ.

    Kumar et al. 2020, https://arxiv.org/abs/2006.04779, eq. 30. The gradient reaches ``log_alpha`` only.

    Args:
        log_alpha: log α, a scalar parameter (shape [] or [1]).
        gap: of each critic, float [C].
        threshold: τ.

    Raises:
        SpecError: a shape does not fit.
    """
    if log_alpha.numel() != 1:
        raise SpecError(f"cql_alpha_loss: 'log_alpha' has shape {list(log_alpha.shape)}, expected a single number")
    check_shape("cql_alpha_loss", "gap", gap, (None,))
    return -(log_alpha.exp() * (gap.detach() - threshold)).mean()


def expectile_loss(value: Tensor, target: Tensor, tau: float, weight: Tensor | None = None) -> Tensor:
    """Returns the asymmetric squared error whose minimum is the τ-expectile of the targets, a scalar.

        L = mean_B w·|τ − 1(u < 0)|·u²,  u = target − value

    Kostrikov et al. 2021, https://arxiv.org/abs/2110.06169, eq. 5. τ = 1/2 is half the squared error; τ → 1 tends to
    the largest target. No gradient flows into the target.

    Args:
        value: V(s), float [B].
        target: Q(s, a), float [B].
        tau: τ, above 0 and below 1.
        weight: float [B]; None: all 1.

    Raises:
        SpecError: a shape does not fit, or τ is out of range.
    """
    fn = "expectile_loss"
    if not 0 < tau < 1:
        raise SpecError(f"{fn}: 'tau' is {tau}, expected above 0 and below 1")
    check_shape(fn, "value", value, (None,))
    check_shape(fn, "target", target, tuple(value.shape))
    error = target.detach() - value  # [B]
    slope = (tau - (error < 0).to(error.dtype)).abs()
    return weighted_mean(slope * error.square(), fixed_weight(fn, weight, error))


def advantage_weight(adv: Tensor, beta: float, max_weight: float = 100.0) -> Tensor:
    """Returns min(exp(β·A), limit), float [B], without a gradient.

    Kostrikov et al. 2021, https://arxiv.org/abs/2110.06169, eq. 7; the limit as in the authors' code.

    Args:
        adv: A = Q(s, a) − V(s), float [B].
        beta: inverse temperature β ≥ 0, in 1/units of return; 0 clones all actions alike.
        max_weight: the limit.
    """
    return (beta * adv.detach()).clamp(max=math.log(max_weight)).exp()


def advantage_weighted_loss(logp: Tensor, adv: Tensor, beta: float, max_weight: float = 100.0) -> Tensor:
    """Returns the loss of advantage-weighted regression, −mean_B min(exp(β·A), limit)·log π(a | s), a scalar.

    Peng et al. 2019, https://arxiv.org/abs/1910.00177; Kostrikov et al. 2021, https://arxiv.org/abs/2110.06169, eq. 7.
    The gradient reaches ``logp`` only.

    Args:
        logp: log-probability of the recorded actions, *summed over their dimensions*, float [B].
        adv: A, float [B].
        beta, max_weight: see :func:`advantage_weight`.

    Raises:
        SpecError: a shape does not fit.
    """
    check_shape("advantage_weighted_loss", "logp", logp, (None,))
    check_shape("advantage_weighted_loss", "adv", adv, tuple(logp.shape))
    return -(advantage_weight(adv, beta, max_weight) * logp).mean()
