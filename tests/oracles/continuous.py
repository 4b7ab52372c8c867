"""DDPG, TD3 and SAC as their definitions say them: one sample at a time, in 64 bit, NumPy only."""

import math
from collections.abc import Sequence

import numpy as np


def critic_loss(q_value: np.ndarray, target: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Σ_c mean_b w_b·(Q_cb − y_b)²; ``q_value`` [C, B]."""
    loss = 0.0
    for critic in q_value:
        for b, q in enumerate(critic):
            loss += (1.0 if weight is None else weight[b]) * (q - target[b]) ** 2 / len(target)
    return loss


def soft_values(q_value: np.ndarray, logp: np.ndarray, alpha: float) -> list[float]:
    """min_c Q_cb − α·log π_b; ``q_value`` [C, B]."""
    return [min(critic[b] for critic in q_value) - alpha * logp[b] for b in range(len(logp))]


def discrete_soft_values(q_value: np.ndarray, logit: np.ndarray, alpha: float) -> list[float]:
    """Σ_a π(a)·(min_c Q_c(a) − α·log π(a)) of each sample; ``q_value`` [C, B, N], ``logit`` [B, N]."""
    values = []
    for b, row in enumerate(logit):
        norm = sum(math.exp(x - max(row)) for x in row)
        value = 0.0
        for n, x in enumerate(row):
            prob = math.exp(x - max(row)) / norm
            if prob > 0:
                value += prob * (min(critic[b][n] for critic in q_value) - alpha * math.log(prob))
        values.append(value)
    return values


def squashed_log_prob(action: Sequence[float], mu: Sequence[float], sigma: Sequence[float]) -> float:
    """log-density of tanh(N(μ, σ)) at one action, of all its dimensions together (change of variables)."""
    density = 1.0
    for a, m, s in zip(action, mu, sigma, strict=True):
        u = math.atanh(a)
        density *= math.exp(-((u - m) ** 2) / (2 * s * s)) / (s * math.sqrt(2 * math.pi)) / (1 - a * a)
    return math.log(density)
