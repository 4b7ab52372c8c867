"""Temporal-difference errors of action values.

Letters: ``n`` steps of the window, ``B`` batch, ``N`` actions.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Optional

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from nervex.rl_utils.checks import check_index, check_shape
from nervex.utils.errors import SpecError

Criterion = Callable[[Tensor, Tensor], Tensor]


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """(x − y)², elementwise."""
    return mse_loss(prediction, target, reduction="none")


class _Q1Step(NamedTuple):
    q: Tensor
    next_q: Tensor
    act: Tensor
    next_act: Optional[Tensor]  # noqa: UP045 - NamedTuple fields read best so
    reward: Tensor
    done: Optional[Tensor]  # noqa: UP045
    weight: Optional[Tensor]  # noqa: UP045


class q_1step_td_data(_Q1Step):
    """Input of :func:`q_1step_td_error`: ``(q, next_q, act, next_act, reward, done, weight)``.

    Five positional fields mean ``(q, next_q, act, reward, done)``: the greedy next action and no weights.
    """

    def __new__(cls, *args: Any, **fields: Any) -> "q_1step_td_data":
        names: tuple[str, ...] = _Q1Step._fields
        if len(args) == 5 and not {"reward", "done"} & set(fields):
            names = ("q", "next_q", "act", "reward", "done")
        if len(args) > len(names):
            raise TypeError(f"q_1step_td_data takes at most {len(names)} positional fields, got {len(args)}")
        given = dict(zip(names, args, strict=False))
        absent: Any = dict.fromkeys({"next_act", "done", "weight"} - {*given, *fields})
        return super().__new__(cls, **given, **absent, **fields)  # refuses unknown and repeated names


class q_nstep_td_data(NamedTuple):
    """Input of :func:`q_nstep_td_error`.

    Attributes:
        q: action values at the first observation, float [B, N].
        next_n_q: values at the observation after the window (target network), float [B, N].
        action: action taken, int [B].
        next_n_action: action whose value bootstraps (double Q: the online network's argmax), int [B]; None: greedy.
        reward: rewards of the window, zero after its end, float [n, B].
        done: the task terminated within the window, bool or float [B]; None: never.
        weight: importance weights, float [B]; None: all 1.
    """

    q: Tensor
    next_n_q: Tensor
    action: Tensor
    next_n_action: Tensor | None
    reward: Tensor
    done: Tensor | None
    weight: Tensor | None


class nstep_return_data(NamedTuple):
    """Input of :func:`nstep_return`: ``reward`` float [n, B], ``next_value`` float [B], ``done`` bool or float [B]."""

    reward: Tensor
    next_value: Tensor
    done: Tensor | None


def nstep_return(data: nstep_return_data, gamma: float, nstep: int, value_gamma: Tensor | None = None) -> Tensor:
    """Returns the n-step return.

        G_t = Σ_{i<n} γ^i·r_{t+i} + γ^n·(1 − done)·V(s_{t+n})

    Sutton & Barto 2018, http://incompleteideas.net/book/the-book-2nd.html, eq. 7.1. ``done`` means *terminated*: a
    window that a time limit cut after k < n steps still bootstraps, with ``value_gamma = γ^k`` instead of γ^n.

    Args:
        data: rewards [n, B] (zeros after the window's end), bootstrap value [B], termination flag [B].
        gamma: discount factor γ.
        nstep: n, the number of reward rows.
        value_gamma: factor of the bootstrap value, float [B]; None: γ^n for all.

    Returns:
        float [B].

    Raises:
        SpecError: a shape does not fit.
    """
    reward, next_value, done = data
    check_shape("nstep_return", "reward", reward, (nstep, None))
    batch = reward.shape[1]
    check_shape("nstep_return", "next_value", next_value, (batch,))
    if value_gamma is not None:
        check_shape("nstep_return", "value_gamma", value_gamma, (batch,))
    bootstrap = next_value * (gamma**nstep if value_gamma is None else value_gamma)  # [B]
    if done is not None:
        check_shape("nstep_return", "done", done, (batch,))
        bootstrap = bootstrap * (1 - done.to(bootstrap.dtype))
    if nstep == 1:
        return reward[0] + bootstrap
    factor = gamma ** torch.arange(nstep, dtype=reward.dtype, device=reward.device)  # [n]
    return factor @ reward + bootstrap  # [B]


def q_1step_td_error(
    data: q_1step_td_data, gamma: float, weight: Tensor | None = None, criterion: Criterion = squared_error
) -> Tensor:
    """Returns the 1-step Q-learning loss.

        L = mean_B w·c(Q(s, a), r + γ·(1 − done)·Q'(s', a'))

    Watkins & Dayan 1992, https://doi.org/10.1007/BF00992698. No gradient flows into the target.

    Args:
        data: :class:`q_1step_td_data`; ``q``, ``next_q`` [B, N], the rest [B].
        gamma: discount factor γ.
        weight: importance weights [B], used when ``data.weight`` is None.
        criterion: elementwise error c of (prediction, target).

    Returns:
        Scalar loss.
    """
    q, next_q, act, next_act, reward, done, own_weight = data
    if reward.dim() != 1:
        raise SpecError(f"q_1step_td_error: 'reward' has shape {list(reward.shape)}, expected [{q.shape[0]}]")
    nstep_data = q_nstep_td_data(
        q, next_q, act, next_act, reward.unsqueeze(0), done, weight if own_weight is None else own_weight
    )
    return q_nstep_td_error(nstep_data, gamma, 1, criterion)


def q_nstep_td_error(
    data: q_nstep_td_data,
    gamma: float,
    nstep: int = 1,
    criterion: Criterion = squared_error,
    value_gamma: Tensor | None = None,
) -> Tensor:
    """Returns the n-step Q-learning loss, a scalar; see :func:`q_nstep_td_error_per_sample`."""
    return q_nstep_td_error_per_sample(data, gamma, nstep, criterion, value_gamma)[0]


def q_nstep_td_error_per_sample(
    data: q_nstep_td_data,
    gamma: float,
    nstep: int = 1,
    criterion: Criterion = squared_error,
    value_gamma: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Returns the n-step Q-learning loss and the TD error of each sample.

        δ = Σ_{i<n} γ^i·r_i + γ^n·(1 − done)·Q'(s_n, a_n) − Q(s_0, a_0)
        L = mean_B w·c(Q(s_0, a_0), Q(s_0, a_0) + δ)

    Double Q-learning when ``a_n`` comes from the online network: van Hasselt et al. 2016,
    https://arxiv.org/abs/1509.06461, eq. 4. No gradient flows into the target.

    Args:
        data: :class:`q_nstep_td_data`.
        gamma: discount factor γ.
        nstep: n.
        criterion: elementwise error c of (prediction, target).
        value_gamma: factor of the bootstrap value, float [B]; γ^k where a time limit cut the window after k steps.

    Returns:
        ``(loss, td_error)``: scalar, and δ detached, float [B].

    Raises:
        SpecError: a shape or dtype does not fit.
    """
    q, next_n_q, action, next_n_action, reward, done, weight = data
    fn = "q_nstep_td_error"
    check_shape(fn, "q", q, (None, None))
    batch = q.shape[0]
    check_shape(fn, "next_n_q", next_n_q, (batch, q.shape[1]))
    check_shape(fn, "action", action, (batch,))
    check_index(fn, "action", action)
    if weight is not None:
        check_shape(fn, "weight", weight, (batch,))
    with torch.no_grad():
        if next_n_action is None:
            next_value = next_n_q.max(dim=1).values  # [B]
        else:
            check_shape(fn, "next_n_action", next_n_action, (batch,))
            next_value = next_n_q.gather(1, next_n_action.unsqueeze(1)).squeeze(1)  # [B]
        target = nstep_return(nstep_return_data(reward, next_value, done), gamma, nstep, value_gamma)  # [B]
    prediction = q.gather(1, action.unsqueeze(1)).squeeze(1)  # [B]
    error = criterion(prediction, target)  # [B]
    if error.shape != prediction.shape:
        raise SpecError(
            f"{fn}: 'criterion' returned shape {list(error.shape)}, expected [{batch}]; it must be elementwise "
            "(reduction='none')"
        )
    loss = error.mean() if weight is None else (error * weight.detach()).mean()
    return loss, target - prediction.detach()
