"""QMIX and COMA as their definitions say them: one row and one agent at a time, in 64 bit, NumPy only."""

import numpy as np
from oracles.values import Masks, lambda_returns, sequence_targets


def max_available(q_value: np.ndarray, action_mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Greatest value [...] among the available actions [..., N], and which it is; 0 and 0 if there is none."""
    value, action = np.zeros(q_value.shape[:-1]), np.zeros(q_value.shape[:-1], int)
    for index in np.ndindex(value.shape):
        found = [(q_value[index][n], -n) for n in range(q_value.shape[-1]) if action_mask[index][n]]
        if found:
            value[index], action[index] = max(found)[0], -max(found)[1]
    return value, action


def qmix_error(
    total_q: np.ndarray, target_total_q: np.ndarray, reward: np.ndarray, masks: Masks, gamma: float, nstep: int = 1
) -> tuple[float, np.ndarray]:
    """Mean squared TD error over the rows that have a target, and the errors [T, B] (0 elsewhere)."""
    target, trainable = sequence_targets(target_total_q, reward, masks, gamma, nstep)
    error = np.where(trainable, target - total_q, 0)
    return float((error**2).sum() / max(trainable.sum(), 1)), error


def softmax(logit: np.ndarray) -> np.ndarray:
    """Softmax of one row."""
    exp = np.exp(logit - logit.max())
    return exp / exp.sum()


def coma_losses(
    logit: np.ndarray, action: np.ndarray, q_value: np.ndarray, target_q_value: np.ndarray, reward: np.ndarray,
    masks: Masks, agent_mask: np.ndarray, gamma: float, lambda_: float,
) -> dict[str, float]:  # fmt: skip
    """Policy loss, critic loss and entropy, means over the rows that count and the agents that are there."""
    terminated, truncated, valid = masks
    total, batch, agents, _ = logit.shape
    _, trainable = sequence_targets(np.zeros((total, batch)), reward, masks, gamma, 1)
    policy, critic, entropy = [], [], []
    for a in range(agents):
        next_value = np.zeros((total, batch))
        for t, b in np.ndindex(total - 1, batch):
            next_value[t, b] = target_q_value[t + 1, b, a, action[t + 1, b, a]]
        constant = np.ones((total, batch))
        returns = lambda_returns(
            next_value, reward, gamma * constant, lambda_ * constant, (terminated, truncated, trainable)
        )
        for t, b in np.ndindex(total, batch):
            if not (valid[t, b] and agent_mask[t, b, a]):
                continue
            prob, taken = softmax(logit[t, b, a]), action[t, b, a]
            baseline = sum(p * q for p, q in zip(prob, q_value[t, b, a], strict=True))
            policy.append(-np.log(prob[taken]) * (q_value[t, b, a, taken] - baseline))
            entropy.append(-sum(p * np.log(p) for p in prob if p > 0))
            if trainable[t, b]:
                critic.append((q_value[t, b, a, taken] - returns[t, b]) ** 2)
    losses = {"policy": policy, "q_value": critic, "entropy": entropy}
    return {k: float(np.mean(v)) if v else 0.0 for k, v in losses.items()}
