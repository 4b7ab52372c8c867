"""Temporal-difference errors of state values, and λ-returns of sequences with ends of episodes.

Letters: ``n`` steps of the window, ``T`` time, ``B`` batch.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from nervex import kernels
from nervex.rl_utils.checks import check_shape
from nervex.rl_utils.normalize import weighted_mean
from nervex.rl_utils.recursion import array, kernel_serves, new_table
from nervex.rl_utils.td import Criterion, nstep_return, nstep_return_data, squared_error
from nervex.utils.errors import SpecError


class v_1step_td_data(NamedTuple):
    """Input of :func:`v_1step_td_error`; all fields have the shape of ``v``, whatever it is.

    Attributes:
        v: values, float [...].
        next_v: values of the next observations (target network), float [...].
        reward: float [...].
        done: the task terminated with this step, bool or float [...]; None: never.
        weight: importance weights, float [...]; None: all 1.
    """

    v: Tensor
    next_v: Tensor
    reward: Tensor
    done: Tensor | None = None
    weight: Tensor | None = None


class v_nstep_td_data(NamedTuple):
    """Input of :func:`v_nstep_td_error`.

    Attributes:
        v: values at the first observation, float [B].
        next_n_v: values at the observation after the window (target network), float [B].
        reward: rewards of the window, zero after its end, float [n, B].
        done: the task terminated within the window, bool or float [B]; None: never.
        weight: importance weights, float [B]; None: all 1.
        value_gamma: factor of the bootstrap value, float [B]; None: γ^n for all.
    """

    v: Tensor
    next_n_v: Tensor
    reward: Tensor
    done: Tensor | None = None
    weight: Tensor | None = None
    value_gamma: Tensor | None = None


class td_lambda_data(NamedTuple):
    """Input of :func:`td_lambda_error`.

    Attributes:
        value: value[t] is that of row t's observation and value[t + 1] that of its next one, float [T + 1, B].
        reward: float [T, B].
        weight: float [B] or [T, B]; None: the mean over the valid rows.
        terminated, truncated, valid: bool [T, B], as in :func:`multistep_forward_view`.
    """

    value: Tensor
    reward: Tensor
    weight: Tensor | None = None
    terminated: Tensor | None = None
    truncated: Tensor | None = None
    valid: Tensor | None = None


def v_1step_td_error(data: v_1step_td_data, gamma: float, criterion: Criterion = squared_error) -> Tensor:
    """Returns the 1-step TD loss of state values, a scalar; see :func:`v_1step_td_error_per_sample`."""
    return v_1step_td_error_per_sample(data, gamma, criterion)[0]


def v_1step_td_error_per_sample(
    data: v_1step_td_data, gamma: float, criterion: Criterion = squared_error
) -> tuple[Tensor, Tensor]:
    """Returns the 1-step TD loss of state values and the TD error of each sample.

        δ = r + γ·(1 − done)·V'(s') − V(s)
        L = mean w·c(V(s), V(s) + δ)

    Sutton & Barto 2018, http://incompleteideas.net/book/the-book-2nd.html, eq. 6.2. The weight multiplies the error of
    a sample, never its target. No gradient flows into the target.

    Args:
        data: :class:`v_1step_td_data`.
        gamma: discount factor γ.
        criterion: elementwise error c of (prediction, target).

    Returns:
        ``(loss, td_error)``: scalar, and δ detached, float [...].

    Raises:
        SpecError: a shape or dtype does not fit.
    """
    fn, shape = "v_1step_td_error", tuple(data.v.shape)
    check_float(fn, "v", data.v)
    weight = fixed_weight(fn, data.weight, data.v)
    for name in ("next_v", "reward", "done"):
        field = getattr(data, name)
        if field is not None:
            check_shape(fn, name, field, shape)
    with torch.no_grad():
        bootstrap = gamma * data.next_v  # [...]
        if data.done is not None:
            bootstrap = bootstrap.masked_fill(data.done.bool(), 0)
        target = data.reward + bootstrap  # [...]
    error = elementwise(fn, criterion, data.v, target)  # [...]
    return weighted_mean(error, weight), target - data.v.detach()


def v_nstep_td_error(
    data: v_nstep_td_data, gamma: float, nstep: int = 1, criterion: Criterion = squared_error
) -> Tensor:
    """Returns the n-step TD loss of state values, a scalar; see :func:`v_nstep_td_error_per_sample`."""
    return v_nstep_td_error_per_sample(data, gamma, nstep, criterion)[0]


def v_nstep_td_error_per_sample(
    data: v_nstep_td_data, gamma: float, nstep: int = 1, criterion: Criterion = squared_error
) -> tuple[Tensor, Tensor]:
    """Returns the n-step TD loss of state values and the TD error of each sample.

        δ = Σ_{i<n} γ^i·r_i + γ^n·(1 − done)·V'(s_n) − V(s_0)
        L = mean_B w·c(V(s_0), V(s_0) + δ)

    Sutton & Barto 2018, eq. 7.1. Where a time limit cut the window after k steps, ``value_gamma`` is γ^k instead of
    γ^n. No gradient flows into the target.

    Args:
        data: :class:`v_nstep_td_data`.
        gamma: discount factor γ.
        nstep: n.
        criterion: elementwise error c of (prediction, target).

    Returns:
        ``(loss, td_error)``: scalar, and δ detached, float [B].

    Raises:
        SpecError: a shape or dtype does not fit.
    """
    v, next_n_v, reward, done, weight, value_gamma = data
    fn = "v_nstep_td_error"
    check_float(fn, "v", v)
    check_shape(fn, "v", v, (None,))
    check_shape(fn, "next_n_v", next_n_v, (v.shape[0],))
    weight = fixed_weight(fn, weight, v)
    with torch.no_grad():
        target = nstep_return(nstep_return_data(reward, next_n_v, done), gamma, nstep, value_gamma)  # [B]
    error = elementwise(fn, criterion, v, target)  # [B]
    return weighted_mean(error, weight), target - v.detach()


def td_lambda_error(data: td_lambda_data, gamma: float = 0.9, lambda_: float = 0.8) -> Tensor:
    """Returns the TD(λ) loss of a sequence, a scalar.

        L = mean ½·w·(G_t^λ − V(s_t))²

    Sutton & Barto 2018, chapter 12; G^λ as in :func:`generalized_lambda_returns`. The mean is over the valid rows;
    with a weight it is over all rows, those that are not valid counting 0 (``weight = valid / mean(valid)`` gives the
    same). No gradient flows into the returns.

    Args:
        data: :class:`td_lambda_data`.
        gamma: discount factor γ.
        lambda_: λ; 0: one step, 1: the whole rest of the episode.

    Raises:
        SpecError: a shape or dtype does not fit.
    """
    value, reward, weight, terminated, truncated, valid = data
    fn = "td_lambda_error"
    check_shape(fn, "reward", reward, (None, None))
    check_shape(fn, "value", value, (reward.shape[0] + 1, reward.shape[1]))
    weight = fixed_weight(fn, weight, reward, per_lane=True)
    counts = row_masks(fn, reward, None, None, valid)[2]
    with torch.no_grad():
        return_ = generalized_lambda_returns(value, reward, gamma, lambda_, terminated, truncated, valid)  # [T, B]
    return weighted_mean(0.5 * squared_error(value[:-1], return_), weight, counts)


def generalized_lambda_returns(
    bootstrap_values: Tensor,
    rewards: Tensor,
    gammas: float | Tensor,
    lambda_: float | Tensor,
    terminated: Tensor | None = None,
    truncated: Tensor | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    """Returns the λ-returns of a sequence, float [T, B]; see :func:`multistep_forward_view`.

    Args:
        bootstrap_values: value[t] is that of row t's observation, float [T + 1, B]; row 0 is not used.
        rewards, gammas, lambda_, terminated, truncated, valid: as there.

    Raises:
        SpecError: a shape or dtype does not fit.
    """
    fn = "generalized_lambda_returns"
    check_shape(fn, "rewards", rewards, (None, None))
    check_shape(fn, "bootstrap_values", bootstrap_values, (rewards.shape[0] + 1, rewards.shape[1]))
    return multistep_forward_view(bootstrap_values[1:], rewards, gammas, lambda_, terminated, truncated, valid)


def multistep_forward_view(
    bootstrap_values: Tensor,
    rewards: Tensor,
    gammas: float | Tensor,
    lambda_: float | Tensor,
    terminated: Tensor | None = None,
    truncated: Tensor | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    """Returns the λ-returns of a sequence, given the values of the rows' *next* observations.

        G_t = r_t + γ_t·[(1 − λ_t)·V(s_{t+1}) + λ_t·G_{t+1}]
        G_t = r_t                       where the task terminated
        G_t = r_t + γ_t·V(s_{t+1})      where a time limit cut the episode, and in the last row of the sequence
        G_t = 0                         where the row is not valid

    Sutton & Barto 2018, eq. 12.18. A row before one that is not valid bootstraps fully, too: nothing of an episode
    reaches the one before. Gradients flow into values and rewards; a loss that regresses to G calls it without.

    Args:
        bootstrap_values: V(s_{t+1}) in row t, float [T, B]. With next-step autoreset the row after an end is a dummy
            that holds the true final observation, so ``value[1:]`` of all rows is right.
        rewards: float [T, B].
        gammas: discount factors γ, a number or float [T, B].
        lambda_: λ, a number or float [T, B].
        terminated, truncated: the task ended / a time limit ended the episode with row t, bool [T, B]; None: never.
        valid: the row is a transition, bool [T, B]; None: all.

    Returns:
        float [T, B].

    Raises:
        SpecError: a shape or dtype does not fit.
    """
    fn = "multistep_forward_view"
    check_shape(fn, "rewards", rewards, (None, None))
    check_float(fn, "rewards", rewards)
    check_shape(fn, "bootstrap_values", bootstrap_values, tuple(rewards.shape))
    gamma, lambda_ = _per_row(fn, "gammas", gammas, rewards), _per_row(fn, "lambda_", lambda_, rewards)
    terminated, truncated, valid = row_masks(fn, rewards, terminated, truncated, valid)
    if kernel_serves(rewards, bootstrap_values, gamma, lambda_, terminated, truncated, valid):
        out = new_table(rewards)  # [T, B]
        columns = bootstrap_values, rewards, gamma, lambda_, terminated, truncated, valid
        kernels.lambda_returns(*(array(x) for x in columns), out.numpy())
        return out
    goes_on = ~terminated & ~truncated & torch.cat([valid[1:], torch.zeros_like(valid[:1])])  # [T, B]
    mix = torch.where(goes_on, lambda_, 0)  # [T, B] λ, or 0 where the recursion is cut
    bootstrap = torch.where(terminated, 0, gamma * (1 - mix) * bootstrap_values)  # [T, B]
    fixed = torch.where(valid, rewards + bootstrap, 0)  # [T, B]
    factor = torch.where(valid, gamma * mix, 0)  # [T, B]
    return_, rows = torch.zeros_like(fixed[0]), []
    for t in reversed(range(len(fixed))):  # not in place, for the gradients
        return_ = fixed[t] + factor[t] * return_  # [B]
        rows.append(return_)
    return torch.stack(rows[::-1])


def row_masks(
    fn: str, like: Tensor, terminated: Tensor | None, truncated: Tensor | None, valid: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the three masks as bool [T, B], the shape of ``like``; None becomes never, never, all."""
    masks = []
    for name, mask in (("terminated", terminated), ("truncated", truncated), ("valid", valid)):
        if mask is None:
            masks.append(torch.full_like(like, name == "valid", dtype=torch.bool))
        else:
            check_shape(fn, name, mask, tuple(like.shape))
            masks.append(mask.bool())
    return masks[0], masks[1], masks[2]


def elementwise(fn: str, criterion: Criterion, prediction: Tensor, target: Tensor) -> Tensor:
    """Returns ``criterion(prediction, target)``.

    Raises:
        SpecError: it does not have the shape of the prediction.
    """
    error = criterion(prediction, target)
    if error.shape != prediction.shape:
        raise SpecError(
            f"{fn}: 'criterion' returned shape {list(error.shape)}, expected {list(prediction.shape)}; it must be "
            "elementwise (reduction='none')"
        )
    return error


def fixed_weight(fn: str, weight: Tensor | None, rows: Tensor, per_lane: bool = False) -> Tensor | None:
    """Returns ``weight`` without gradient, or None.

    Raises:
        SpecError: it has neither the shape of ``rows`` nor, if ``per_lane``, [B] for rows [T, B].
    """
    if weight is None:
        return None
    if not (per_lane and weight.shape == rows.shape[1:]):
        check_shape(fn, "weight", weight, tuple(rows.shape))
    return weight.detach()


def check_float(fn: str, name: str, x: Tensor) -> None:
    """Raises SpecError unless ``x`` has a floating dtype."""
    if not x.is_floating_point():
        raise SpecError(f"{fn}: '{name}' is {x.dtype}, expected a floating tensor; cast it with .float()")


def _per_row(fn: str, name: str, x: float | Tensor, like: Tensor) -> Tensor:
    """Returns ``x`` as float [T, B], or [1, B] if it is one number for all rows."""
    if not isinstance(x, Tensor):
        return torch.full_like(like[:1], x)
    if x.dim():
        check_shape(fn, name, x, tuple(like.shape))
        return x
    return x.expand_as(like[:1])
