"""Temporal-difference errors of categorical return distributions (C51).

Letters: ``n`` steps of the window, ``B`` batch, ``N`` actions, ``n_atom`` atoms z_i = v_min + i·Δ,
Δ = (v_max − v_min) / (n_atom − 1).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from nervex.rl_utils.checks import check_index, check_shape
from nervex.rl_utils.normalize import weighted_mean
from nervex.rl_utils.td import nstep_return, nstep_return_data
from nervex.rl_utils.value_td import check_float, fixed_weight
from nervex.utils.errors import ConfigError, SpecError


class dist_1step_td_data(NamedTuple):
    """Input of :func:`dist_1step_td_error`: the fields of :class:`dist_nstep_td_data` with ``reward`` float [B]."""

    dist: Tensor
    next_dist: Tensor
    act: Tensor
    next_act: Tensor | None
    reward: Tensor
    done: Tensor | None = None
    weight: Tensor | None = None


class dist_nstep_td_data(NamedTuple):
    """Input of :func:`dist_nstep_td_error`.

    Attributes:
        dist: probabilities of the atoms at the first observation, float [B, N, n_atom].
        next_dist: those at the observation after the window (target network), float [B, N, n_atom].
        act: action taken, int [B].
        next_act: action whose distribution bootstraps (double Q: the online network's argmax), int [B]; None: the one
            of the greatest mean of ``next_dist``.
        reward: rewards of the window, zero after its end, float [n, B].
        done: the task terminated within the window, bool or float [B]; None: never.
        weight: importance weights, float [B]; None: all 1.
    """

    dist: Tensor
    next_dist: Tensor
    act: Tensor
    next_act: Tensor | None
    reward: Tensor
    done: Tensor | None = None
    weight: Tensor | None = None


def dist_1step_td_error(data: dist_1step_td_data, gamma: float, v_min: float, v_max: float, n_atom: int) -> Tensor:
    """Returns the 1-step loss of a categorical distribution, a scalar; see :func:`dist_nstep_td_error_per_sample`."""
    if data.reward.dim() != 1:
        raise SpecError(
            f"dist_1step_td_error: 'reward' has shape {list(data.reward.shape)}, expected [{data.dist.shape[0]}]"
        )
    nstep_data = dist_nstep_td_data(*data._replace(reward=data.reward.unsqueeze(0)))
    return dist_nstep_td_error(nstep_data, gamma, v_min, v_max, n_atom)


def dist_nstep_td_error(
    data: dist_nstep_td_data,
    gamma: float,
    v_min: float,
    v_max: float,
    n_atom: int,
    nstep: int = 1,
    value_gamma: Tensor | None = None,
) -> Tensor:
    """Returns the n-step loss of a categorical distribution, a scalar; see :func:`dist_nstep_td_error_per_sample`."""
    return dist_nstep_td_error_per_sample(data, gamma, v_min, v_max, n_atom, nstep, value_gamma)[0]


def dist_nstep_td_error_per_sample(
    data: dist_nstep_td_data,
    gamma: float,
    v_min: float,
    v_max: float,
    n_atom: int,
    nstep: int = 1,
    value_gamma: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Returns the n-step loss of a categorical distribution, and the priority of each sample.

        m    = Π(Σ_{i<n} γ^i·r_i + γ^n·(1 − done)·z, p'(s_n, a_n))
        L    = −mean_B w·Σ_i m_i·log p_i(s_0, a_0)
        KL_b = Σ_i m_i·(log m_i − log p_i)

    Bellemare et al. 2017, https://arxiv.org/abs/1707.06887, algorithm 1; n steps, and the divergence as priority:
    Hessel et al. 2018, https://arxiv.org/abs/1710.02298. Π is :func:`categorical_projection`. No gradient flows into
    the target.

    Args:
        data: :class:`dist_nstep_td_data`.
        gamma: discount factor γ.
        v_min, v_max: first and last atom; returns beyond them count as these.
        n_atom: number of atoms, at least 2.
        nstep: n.
        value_gamma: factor of the atoms that bootstrap, float [B]; γ^k where a time limit cut the window after k steps.

    Returns:
        ``(loss, priority)``: scalar, and the KL divergence of target and prediction detached, float [B], at least 0.

    Raises:
        SpecError: a shape or dtype does not fit.
        ConfigError: no atoms can be laid between ``v_min`` and ``v_max``.
    """
    dist, next_dist, act, next_act, reward, done, weight = data
    fn = "dist_nstep_td_error"
    _check_atoms(fn, v_min, v_max, n_atom)
    batch = _check(fn, data, n_atom)
    weight = fixed_weight(fn, weight, reward[0])
    with torch.no_grad():
        atoms = torch.linspace(v_min, v_max, n_atom, dtype=dist.dtype, device=dist.device)
        if next_act is None:
            next_act = (next_dist * atoms).sum(dim=2).argmax(dim=1)  # [B]
        next_prob = next_dist[torch.arange(batch, device=dist.device), next_act.long()]  # [B, n_atom]
        return_ = nstep_return(nstep_return_data(reward, torch.zeros_like(reward[0]), done), gamma, nstep)  # [B]
        if value_gamma is None:
            factor = torch.full_like(return_, gamma**nstep)  # [B]
        else:
            check_shape(fn, "value_gamma", value_gamma, (batch,))
            factor = value_gamma
        if done is not None:
            factor = factor.masked_fill(done.bool(), 0)
        support = return_.unsqueeze(1) + factor.unsqueeze(1) * atoms  # [B, n_atom]
        target = categorical_projection(next_prob, support, v_min, v_max)  # [B, n_atom]
    prob = dist[torch.arange(batch, device=dist.device), act.long()]  # [B, n_atom]
    cross_entropy = -(target * _log(prob)).sum(dim=1)  # [B]
    priority = (cross_entropy.detach() + (target * _log(target)).sum(dim=1)).clamp(min=0)  # [B]
    return weighted_mean(cross_entropy, weight), priority


def categorical_projection(prob: Tensor, support: Tensor, v_min: float, v_max: float) -> Tensor:
    """Returns a distribution with its mass moved to the fixed atoms, each mass shared by its two neighbors.

        m_i = Σ_j [1 − |clip(x_j, v_min, v_max) − z_i| / Δ]⁺·p_j

    Bellemare et al. 2017, https://arxiv.org/abs/1707.06887, eq. 7. The trap of the usual lower and upper neighbor,
    ⌊b⌋ and ⌈b⌉ with shares ⌈b⌉ − b and b − ⌊b⌋, is a mass that falls exactly on an atom: both are that atom, both
    shares 0, and the mass is lost. Here the upper neighbor is the one after the lower, so that shares sum to 1.

    Args:
        prob: masses p_j, float [B, n_atom].
        support: where they lie, x_j, float [B, n_atom].
        v_min, v_max: first and last atom.

    Returns:
        float [B, n_atom]; its sum is that of ``prob``, whatever the support.

    Raises:
        SpecError: a shape does not fit.
        ConfigError: no atoms can be laid between ``v_min`` and ``v_max``.
    """
    fn = "categorical_projection"
    check_shape(fn, "prob", prob, (None, None))
    check_shape(fn, "support", support, tuple(prob.shape))
    n_atom = prob.shape[1]
    _check_atoms(fn, v_min, v_max, n_atom)
    position = ((support - v_min) * ((n_atom - 1) / (v_max - v_min))).clamp(0, n_atom - 1)  # [B, n_atom] in units of Δ
    return _moved(prob, position) if prob.device.type == "cpu" else _gathered(prob, position)


def _moved(prob: Tensor, position: Tensor) -> Tensor:
    """Adds each mass to its two neighbors; B·n_atom operations."""
    lower = position.long().clamp(0, prob.shape[1] - 2)  # [B, n_atom]; of NaN, whose share is NaN, any atom
    upper_mass = (position - lower) * prob  # [B, n_atom]
    out = torch.zeros_like(upper_mass).scatter_add(1, lower, prob - upper_mass)
    return out.scatter_add(1, lower + 1, upper_mass)  # [B, n_atom]


def _gathered(prob: Tensor, position: Tensor) -> Tensor:
    """Sums for each atom what reaches it, in a fixed order also on a GPU; B·n_atom² operations."""
    index = torch.arange(prob.shape[1], dtype=prob.dtype, device=prob.device)
    share = (1 - (position.unsqueeze(1) - index.unsqueeze(1)).abs()).clamp(min=0)  # [B, n_atom (to), n_atom (from)]
    return (share * prob.unsqueeze(1)).sum(dim=2)  # [B, n_atom]


def _check_atoms(fn: str, v_min: float, v_max: float, n_atom: int) -> None:
    if n_atom < 2:
        raise ConfigError(f"{fn}: n_atom is {n_atom}, expected at least 2")
    if not v_min < v_max:
        raise ConfigError(f"{fn}: v_min is {v_min} and v_max {v_max}, expected v_min < v_max")


def _log(prob: Tensor) -> Tensor:
    """log p, finite where p is 0, so that 0·log 0 is 0."""
    return prob.clamp(min=torch.finfo(prob.dtype).tiny).log()


def _check(fn: str, data: dist_nstep_td_data, n_atom: int) -> int:
    check_shape(fn, "dist", data.dist, (None, None, n_atom))
    check_float(fn, "dist", data.dist)
    check_shape(fn, "next_dist", data.next_dist, tuple(data.dist.shape))
    batch = data.dist.shape[0]
    for name in ("act", "next_act"):
        action = getattr(data, name)
        if action is not None:
            check_shape(fn, name, action, (batch,))
            check_index(fn, name, action)
    check_shape(fn, "reward", data.reward, (None, batch))
    return batch
