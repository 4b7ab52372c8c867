"""The value rescaling of R2D2, which learns from unclipped rewards of any size.

Pohlen et al. 2018, https://arxiv.org/abs/1805.11593, section 3.1; Kapturowski et al. 2019,
https://openreview.net/forum?id=r1lyTjAqYX.
"""

from collections.abc import Callable

from torch import Tensor

from nervex.rl_utils.td import (
    Criterion,
    q_nstep_td_data,
    q_nstep_td_error_per_sample,
    squared_error,
)

Transform = Callable[[Tensor], Tensor]


def value_transform(x: Tensor, eps: float = 1e-2) -> Tensor:
    """Returns the rescaled value, float of the shape of ``x``.

        h(x) = sign(x)·(√(|x| + 1) − 1) + ε·x

    Pohlen et al. 2018, proposition A.2. Written as x·(1 / (√(|x| + 1) + 1) + ε), which does not cancel for small x and
    has the right derivative, 1/2 + ε, at 0.

    Args:
        x: values, float [...].
        eps: ε > 0 keeps the inverse Lipschitz continuous.
    """
    return x * (1 / ((x.abs() + 1).sqrt() + 1) + eps)


def value_inv_transform(x: Tensor, eps: float = 1e-2) -> Tensor:
    """Returns the value whose rescaled value is ``x``, float of the shape of ``x``.

        h⁻¹(x) = sign(x)·(((√(1 + 4ε·(|x| + 1 + ε)) − 1) / (2ε))² − 1)

    Pohlen et al. 2018, proposition A.2. Taken as printed, it loses all digits of a small x in float32. With
    d = 2x / (1 + 2ε + √((1 + 2ε)² + 4ε·|x|)), which is ±(√(|h⁻¹(x)| + 1) − 1), it is d·(|d| + 2), exact everywhere.

    Args:
        x: rescaled values, float [...].
        eps: the ε of :func:`value_transform`.
    """
    d = 2 * x / (1 + 2 * eps + ((1 + 2 * eps) ** 2 + 4 * eps * x.abs()).sqrt())
    return d * (d.abs() + 2)


def q_nstep_td_error_with_rescale(
    data: q_nstep_td_data,
    gamma: float,
    nstep: int = 1,
    criterion: Criterion = squared_error,
    trans_fn: Transform = value_transform,
    inv_trans_fn: Transform = value_inv_transform,
    value_gamma: Tensor | None = None,
) -> Tensor:
    """Returns the n-step Q-learning loss of rescaled values, a scalar; see
    :func:`q_nstep_td_error_with_rescale_per_sample`."""
    return q_nstep_td_error_with_rescale_per_sample(data, gamma, nstep, criterion, trans_fn, inv_trans_fn, value_gamma)[
        0
    ]


def q_nstep_td_error_with_rescale_per_sample(
    data: q_nstep_td_data,
    gamma: float,
    nstep: int = 1,
    criterion: Criterion = squared_error,
    trans_fn: Transform = value_transform,
    inv_trans_fn: Transform = value_inv_transform,
    value_gamma: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Returns the n-step Q-learning loss of rescaled values and the TD error of each sample.

        δ = h(Σ_{i<n} γ^i·r_i + γ^n·(1 − done)·h⁻¹(Q'(s_n, a_n))) − Q(s_0, a_0)
        L = mean_B w·c(Q(s_0, a_0), Q(s_0, a_0) + δ)

    Kapturowski et al. 2019, eq. 1. No gradient flows into the target.

    Args:
        data: :class:`nervex.rl_utils.td.q_nstep_td_data`; both value tables hold rescaled values.
        gamma: discount factor γ.
        nstep: n.
        criterion: elementwise error c of (prediction, target).
        trans_fn: h, increasing (without ``next_n_action`` the greatest rescaled value bootstraps).
        inv_trans_fn: h⁻¹.
        value_gamma: factor of the bootstrap value, float [B]; γ^k where a time limit cut the window after k steps.

    Returns:
        ``(loss, td_error)``: scalar, and δ detached, in rescaled units, float [B].

    Raises:
        SpecError: a shape or dtype does not fit.
    """
    loss, plain_error = q_nstep_td_error_per_sample(
        data._replace(next_n_q=inv_trans_fn(data.next_n_q.detach())),
        gamma,
        nstep,
        lambda prediction, target: criterion(prediction, trans_fn(target)),
        value_gamma,
    )
    prediction = data.q.detach().gather(1, data.action.unsqueeze(1)).squeeze(1)  # [B]
    return loss, trans_fn(plain_error + prediction) - prediction  # the plain error is that of h⁻¹ units
