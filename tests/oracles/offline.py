"""Losses of learning from recorded data as their definitions say them: one sample at a time, in 64 bit."""

import math
from collections.abc import Sequence

import numpy as np


def logsumexp(values: Sequence[float], logps: Sequence[float]) -> float:
    """log of the mean of exp(v_k) / p_k."""
    return math.log(sum(math.exp(v) / math.exp(p) for v, p in zip(values, logps, strict=True)) / len(values))


def gaps(lse: np.ndarray, q_value: np.ndarray, weight: np.ndarray | None = None) -> list[float]:
    """mean_b w_b·(lse_cb − q_cb) of each critic; both [C, B]."""
    found = []
    for own, values in zip(lse, q_value, strict=True):
        total = 0.0
        for b, value in enumerate(values):
            total += (1.0 if weight is None else weight[b]) * (own[b] - value)
        found.append(total / len(values))
    return found


def expectile_loss(value: Sequence[float], target: Sequence[float], tau: float) -> float:
    """mean_b |τ − 1(u < 0)|·u², u = target − value."""
    total = 0.0
    for v, t in zip(value, target, strict=True):
        u = t - v
        total += (1 - tau if u < 0 else tau) * u * u
    return total / len(value)


def expectile(targets: Sequence[float], tau: float) -> float:
    """The m with τ·Σ max(t − m, 0) = (1 − τ)·Σ max(m − t, 0), by bisection."""
    low, high = min(targets), max(targets)
    for _ in range(200):
        m = (low + high) / 2
        if tau * sum(max(t - m, 0) for t in targets) > (1 - tau) * sum(max(m - t, 0) for t in targets):
            low = m
        else:
            high = m
    return (low + high) / 2


def weighted_cloning(logp: Sequence[float], adv: Sequence[float], beta: float, limit: float) -> float:
    """−mean_b min(exp(β·A_b), limit)·log π_b."""
    return -sum(min(math.exp(beta * a), limit) * p for p, a in zip(logp, adv, strict=True)) / len(logp)
