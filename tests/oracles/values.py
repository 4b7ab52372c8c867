"""Targets of state values and of sequences as their definitions say them: loops over rows, in 64 bit, NumPy only.

Rows are arrays [T, B]; a value table has T + 1 rows where the function needs the observation after the last one.
"""

import numpy as np
from oracles.windows import lane_rows

Masks = tuple[np.ndarray, np.ndarray, np.ndarray]  # terminated, truncated, valid


def random_lanes(rng: np.random.Generator, row_num: int, lane_num: int, gaps: bool = False) -> dict[str, np.ndarray]:
    """Returns rows cut at random out of streams with next-step autoreset.

    ``obs`` [T + 1, B] counts upward through a lane and ``reward`` is the observation plus a half (0 in dummy rows), so
    any misalignment is a wrong number. ``terminated``, ``truncated``, ``valid`` are bool [T, B]. With ``gaps`` some
    rows in the midst of an episode are not valid, as if it had been broken, and so are the last rows of some lanes.
    """
    columns: dict[str, list[list[float]]] = {k: [] for k in ("obs", "reward", "terminated", "truncated", "valid")}
    for b in range(lane_num):
        episodes = [(int(rng.integers(1, 6)), str(rng.choice(["terminated", "truncated"]))) for _ in range(row_num + 4)]
        first = int(rng.integers(0, 6))
        rows = lane_rows(episodes, 100 * b)[first : first + row_num + 1]
        for key, lane in columns.items():
            lane.append([float(getattr(row, key)) for row in rows])
    table = {k: np.array(v).T for k, v in columns.items()}
    lanes = {k: v if k == "obs" else v[:-1] for k, v in table.items()}
    for key in ("terminated", "truncated", "valid"):
        lanes[key] = lanes[key].astype(bool)
    if gaps:
        for t, b in np.ndindex(row_num, lane_num):
            after_end = t > 0 and (lanes["terminated"][t - 1, b] or lanes["truncated"][t - 1, b])
            if rng.random() < 0.1 and not after_end:
                for key in ("terminated", "truncated", "valid"):
                    lanes[key][t, b] = False
        for b in range(lane_num):
            if rng.random() < 0.3:
                for key in ("terminated", "truncated", "valid"):
                    lanes[key][int(rng.integers(row_num)) :, b] = False
    return lanes


def td_errors(
    value: np.ndarray, next_value: np.ndarray, reward: np.ndarray, done: np.ndarray | None, gamma: float,
    value_gamma: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """δ_b = Σ_i γ^i·r_ib + factor_b·(1 − done_b)·V'_b − V_b; ``reward`` [n, B], factor γ^n if not given."""
    errors = np.zeros(len(value))
    for b in range(len(value)):
        total = 0.0
        for i in range(len(reward)):
            total += gamma**i * reward[i, b]
        if done is None or not done[b]:
            total += (gamma ** len(reward) if value_gamma is None else value_gamma[b]) * next_value[b]
        errors[b] = total - value[b]
    return errors


def lambda_returns(
    next_value: np.ndarray, reward: np.ndarray, gamma: np.ndarray, lambda_: np.ndarray, masks: Masks
) -> np.ndarray:
    """λ-returns with a γ and a λ per row, as one sum forward in time; ``next_value[t]`` is V(s_{t+1}); all [T, B]."""
    terminated, truncated, valid = masks
    returns = np.zeros(reward.shape)
    for t, b in np.ndindex(reward.shape):
        factor, k = 1.0, t
        while valid[t, b]:
            returns[t, b] += factor * reward[k, b]
            if terminated[k, b]:
                break
            if truncated[k, b] or k + 1 == len(reward) or not valid[k + 1, b]:
                returns[t, b] += factor * gamma[k, b] * next_value[k, b]
                break
            returns[t, b] += factor * gamma[k, b] * (1 - lambda_[k, b]) * next_value[k, b]
            factor *= gamma[k, b] * lambda_[k, b]
            k += 1
    return returns


def lambda_mixture(
    next_value: np.ndarray, reward: np.ndarray, gamma: float, lambda_: float, masks: Masks
) -> np.ndarray:
    """(1 − λ)·Σ_{n<N} λ^{n−1}·G^{(n)} + λ^{N−1}·G^{(N)}, N rows being left of the episode; 0 in invalid rows."""
    terminated, truncated, valid = masks
    returns = np.zeros(reward.shape)
    for t, b in np.ndindex(reward.shape):
        if not valid[t, b]:
            continue
        last = t
        while not (terminated[last, b] or truncated[last, b] or last + 1 == len(reward) or not valid[last + 1, b]):
            last += 1
        for n in range(1, last - t + 2):
            k = t + n - 1
            nstep = sum(gamma**i * reward[t + i, b] for i in range(n))
            nstep += 0.0 if terminated[k, b] else gamma**n * next_value[k, b]
            returns[t, b] += (lambda_ ** (n - 1) if k == last else (1 - lambda_) * lambda_ ** (n - 1)) * nstep
    return returns


def sequence_targets(
    value: np.ndarray, reward: np.ndarray, masks: Masks, gamma: float, nstep: int
) -> tuple[np.ndarray, np.ndarray]:
    """n-step targets inside a sequence, and which rows have one; ``value[t]`` is V at row t's observation, [T, B]."""
    terminated, truncated, valid = masks
    total = len(reward)
    targets, trainable = np.zeros(reward.shape), np.zeros(reward.shape, bool)

    def has_successor(k: int, b: int) -> bool:
        return k + 1 < total and bool(truncated[k, b] or valid[k + 1, b])

    for t, b in np.ndindex(reward.shape):
        if not valid[t, b] or not (terminated[t, b] or has_successor(t, b)):
            continue
        trainable[t, b] = True
        k, steps, bootstrap = t, 0, True
        while steps < nstep:
            if terminated[k, b]:
                targets[t, b] += gamma**steps * reward[k, b]
                bootstrap = False
                break
            if not has_successor(k, b):
                break
            targets[t, b] += gamma**steps * reward[k, b]
            steps += 1
            k += 1
            if truncated[k - 1, b]:
                break
        if bootstrap:
            targets[t, b] += gamma**steps * value[k, b]
    return targets, trainable


def sequence_priority(td_error: np.ndarray, trainable: np.ndarray, eta: float) -> np.ndarray:
    """η·max |δ| + (1 − η)·mean |δ| over the trainable rows of each sequence; 0 without any."""
    priority = np.zeros(td_error.shape[1])
    for b in range(td_error.shape[1]):
        errors = [abs(td_error[t, b]) for t in range(len(td_error)) if trainable[t, b]]
        if errors:
            priority[b] = eta * max(errors) + (1 - eta) * sum(errors) / len(errors)
    return priority


def rescale(x: float, eps: float) -> float:
    """h(x) = sign(x)·(√(|x| + 1) − 1) + ε·x."""
    return float(np.sign(x) * (np.sqrt(abs(x) + 1) - 1) + eps * x)


def inverse_rescale(y: float, eps: float) -> float:
    """The x with h(x) = y, by bisection."""
    low, high = 0.0, 1.0
    while rescale(high, eps) < abs(y):
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if rescale(middle, eps) < abs(y) else (low, middle)
    return float(np.sign(y) * (low + high) / 2)
