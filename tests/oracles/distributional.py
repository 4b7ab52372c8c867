"""Categorical return distributions, one mass at a time, in 64 bit, NumPy only."""

import math

import numpy as np


def project(prob: np.ndarray, support: np.ndarray, v_min: float, v_max: float) -> np.ndarray:
    """Moves the masses ``prob`` at ``support`` [n_atom] to the atoms between v_min and v_max."""
    n_atom = len(prob)
    spacing = (v_max - v_min) / (n_atom - 1)
    out = np.zeros(n_atom)
    for mass, x in zip(prob, support, strict=True):
        position = (min(max(x, v_min), v_max) - v_min) / spacing
        below = min(math.floor(position), n_atom - 1)
        share = position - below
        out[below] += mass * (1 - share)
        if share > 0:
            out[min(below + 1, n_atom - 1)] += mass * share
    return out


def targets(
    next_prob: np.ndarray, reward: np.ndarray, done: np.ndarray | None, gamma: float, v_min: float, v_max: float,
    value_gamma: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Projected target of each sample; ``next_prob`` [B, n_atom] of the bootstrapping action, ``reward`` [n, B]."""
    batch, n_atom = next_prob.shape
    out = np.zeros((batch, n_atom))
    for b in range(batch):
        total = sum(gamma**i * reward[i, b] for i in range(len(reward)))
        factor = gamma ** len(reward) if value_gamma is None else value_gamma[b]
        if done is not None and done[b]:
            factor = 0.0
        support = [total + factor * (v_min + i * (v_max - v_min) / (n_atom - 1)) for i in range(n_atom)]
        out[b] = project(next_prob[b], np.array(support), v_min, v_max)
    return out


def greedy(dist: np.ndarray, v_min: float, v_max: float) -> np.ndarray:
    """The action [B] of the greatest mean of ``dist`` [B, N, n_atom]."""
    atoms = np.linspace(v_min, v_max, dist.shape[-1])
    return np.array([int(np.argmax([float(np.dot(p, atoms)) for p in row])) for row in dist])


def cross_entropy(target: np.ndarray, prob: np.ndarray) -> float:
    """−Σ_i m_i·log p_i, of one sample."""
    return -sum(m * math.log(p) for m, p in zip(target, prob, strict=True) if m > 0)


def kl_divergence(target: np.ndarray, prob: np.ndarray) -> float:
    """Σ_i m_i·log(m_i / p_i), of one sample."""
    return sum(m * math.log(m / p) for m, p in zip(target, prob, strict=True) if m > 0)
