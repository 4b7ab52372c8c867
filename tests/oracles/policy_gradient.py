"""Policy-gradient mathematics as its definitions say it: forward sums, one row at a time, in 64 bit.

Sequences are [T][B] (values [T+1][B]) of anything that can be indexed; ``terminated``, ``truncated`` and ``valid`` are
[T][B] or None. A row t that is valid belongs to an episode that goes on until a row that ends it, until a row that is
not valid, or until T. NumPy only: these functions know no library that they may be pointed at.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Table = Sequence[Any]


class Rows:
    """Reads the masks of rows [T][B], with their defaults."""

    def __init__(self, reward: Table, terminated: Table | None, truncated: Table | None, valid: Table | None) -> None:
        self.shape = (len(reward), len(reward[0]))
        self._terminated, self._truncated, self._valid = terminated, truncated, valid

    def terminated(self, t: int, b: int) -> bool:
        return self._terminated is not None and bool(self._terminated[t][b])

    def truncated(self, t: int, b: int) -> bool:
        return self._truncated is not None and bool(self._truncated[t][b])

    def valid(self, t: int, b: int) -> bool:
        return self._valid is None or bool(self._valid[t][b])

    def episode(self, t: int, b: int) -> list[int]:
        """The rows from t on that belong to the same episode."""
        rows = []
        for k in range(t, self.shape[0]):
            if not self.valid(k, b):
                break
            rows.append(k)
            if self.terminated(k, b) or self.truncated(k, b):
                break
        return rows

    def next_value(self, value: Table, t: int, b: int) -> float:
        return 0.0 if self.terminated(t, b) else float(value[t + 1][b])


def nstep_return(value: Table, reward: Table, n: int, gamma: float, t: int, b: int, rows: Rows) -> float:
    """Σ_{i<n} γ^i·r_{t+i} + γ^n·V(s_{t+n}), or to the episode's end if that is nearer."""
    total, last = 0.0, t
    for i, k in enumerate(rows.episode(t, b)[:n]):
        total += gamma**i * float(reward[k][b])
        last = k
    return total + gamma ** (last - t + 1) * rows.next_value(value, last, b)


def gae(
    value: Table, reward: Table, gamma: float, lambda_: float,
    terminated: Table | None = None, truncated: Table | None = None, valid: Table | None = None,
) -> np.ndarray:  # fmt: skip
    """A_t = Σ_l (γλ)^l·δ_{t+l}, over the rest of the episode."""
    rows = Rows(reward, terminated, truncated, valid)
    adv = np.zeros(rows.shape)
    for t, b in np.ndindex(rows.shape):
        for i, k in enumerate(rows.episode(t, b)):
            delta = float(reward[k][b]) + gamma * rows.next_value(value, k, b) - float(value[k][b])
            adv[t, b] += (gamma * lambda_) ** i * delta
    return adv


def lambda_returns(
    value: Table, reward: Table, gamma: float, lambda_: float,
    terminated: Table | None = None, truncated: Table | None = None, valid: Table | None = None,
) -> np.ndarray:  # fmt: skip
    """(1 − λ)·Σ_n λ^{n−1}·G^{(n)}, the rest of the weight on the longest; V(s_t) in rows that are not valid."""
    rows = Rows(reward, terminated, truncated, valid)
    out = np.array([[float(v) for v in row] for row in value][: rows.shape[0]])
    for t, b in np.ndindex(rows.shape):
        longest = len(rows.episode(t, b))
        if longest:
            each = [nstep_return(value, reward, n + 1, gamma, t, b, rows) for n in range(longest)]
            weight = [(1 - lambda_) * lambda_**n for n in range(longest - 1)] + [lambda_ ** (longest - 1)]
            out[t, b] = sum(w * g for w, g in zip(weight, each, strict=True))
    return out


def vtrace(
    ratio: Table, value: Table, reward: Table, gamma: float, lambda_: float = 1.0,
    rho_clip: float = 1.0, c_clip: float = 1.0, rho_pg_clip: float = 1.0,
    terminated: Table | None = None, truncated: Table | None = None, valid: Table | None = None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Targets v_t = V_t + Σ_k γ^{k−t}·(Π_{t≤i<k} c_i)·δ_k, and advantages ρ_t·(r_t + γ·v_{t+1} − V_t)."""
    rows = Rows(reward, terminated, truncated, valid)
    target = np.array([[float(v) for v in row] for row in value])  # [T+1, B]
    for t, b in np.ndindex(rows.shape):
        trace = 1.0
        for i, k in enumerate(rows.episode(t, b)):
            rho = min(rho_clip, float(ratio[k][b]))
            delta = rho * (float(reward[k][b]) + gamma * rows.next_value(value, k, b) - float(value[k][b]))
            target[t, b] += gamma**i * trace * delta
            trace *= lambda_ * min(c_clip, float(ratio[k][b]))
    adv = np.zeros(rows.shape)
    for t, b in np.ndindex(rows.shape):
        episode = rows.episode(t, b)
        if episode:
            after = rows.next_value(target if len(episode) > 1 else value, t, b)
            adv[t, b] = min(rho_pg_clip, float(ratio[t][b])) * (
                float(reward[t][b]) + gamma * after - float(value[t][b])
            )
    return target[:-1], adv


def upgo_returns(
    value: Table, reward: Table, gamma: float = 1.0,
    terminated: Table | None = None, truncated: Table | None = None, valid: Table | None = None,
) -> np.ndarray:  # fmt: skip
    """Rewards as long as each next step is no worse than its value, then the value; V(s_t) in rows not valid."""
    rows = Rows(reward, terminated, truncated, valid)
    out = np.array([[float(v) for v in row] for row in value][: rows.shape[0]])
    for t, b in np.ndindex(rows.shape):
        episode = rows.episode(t, b)
        steps = 0
        for k in episode:
            steps += 1
            if k == episode[-1]:
                break
            if float(reward[k + 1][b]) + gamma * rows.next_value(value, k + 1, b) < float(value[k + 1][b]):
                break
        if episode:
            out[t, b] = nstep_return(value, reward, steps, gamma, t, b, rows)
    return out


def probabilities(logit: Sequence[float]) -> list[float]:
    """Softmax of one row."""
    highest = max(logit)
    exp = [math.exp(x - highest) for x in logit]
    return [x / math.fsum(exp) for x in exp]


def log_prob(logit: Any, action: Any) -> float:
    """log π(a) of one row: a list of numbers (categorical), of lists (several), or a dict with mu and sigma."""
    if isinstance(logit, dict):
        return math.fsum(
            -0.5 * ((a - m) / s) ** 2 - math.log(s * math.sqrt(2 * math.pi))
            for a, m, s in zip(action, logit["mu"], logit["sigma"], strict=True)
        )
    if isinstance(logit[0], (list, tuple)):
        return math.fsum(log_prob(head, a) for head, a in zip(logit, action, strict=True))
    return math.log(probabilities(logit)[int(action)])


def entropy(logit: Any) -> float:
    """Entropy of one row in nats, of the kinds of :func:`log_prob`."""
    if isinstance(logit, dict):
        return math.fsum(0.5 * math.log(2 * math.pi * math.e * s * s) for s in logit["sigma"])
    if isinstance(logit[0], (list, tuple)):
        return math.fsum(entropy(head) for head in logit)
    return -math.fsum(p * math.log(p) for p in probabilities(logit) if p > 0)


def kl_divergence(p: Any, q: Any) -> float:
    """KL(p ‖ q) of one row in nats, of the kinds of :func:`log_prob`."""
    if isinstance(p, dict):
        return math.fsum(
            math.log(s_q / s_p) + (s_p**2 + (m_p - m_q) ** 2) / (2 * s_q**2) - 0.5
            for m_p, s_p, m_q, s_q in zip(p["mu"], p["sigma"], q["mu"], q["sigma"], strict=True)
        )
    if isinstance(p[0], (list, tuple)):
        return math.fsum(kl_divergence(a, b) for a, b in zip(p, q, strict=True))
    return math.fsum(a * math.log(a / b) for a, b in zip(probabilities(p), probabilities(q), strict=True) if a > 0)


def mean_of(terms: Sequence[float], weight: Sequence[float] | None) -> float:
    """Σ_b w_b·x_b / B."""
    return math.fsum(x * (1.0 if weight is None else weight[b]) for b, x in enumerate(terms)) / len(terms)


def clip(x: float, low: float, high: float) -> float:
    return min(max(x, low), high)


def ppo_losses(
    logp_new: Sequence[float], logp_old: Sequence[float], value_new: Sequence[float], value_old: Sequence[float],
    adv: Sequence[float], return_: Sequence[float], weight: Sequence[float] | None,
    clip_ratio: float, use_value_clip: bool, dual_clip: float | None,
) -> dict[str, float]:  # fmt: skip
    """Policy and value loss of PPO with its diagnostics, of B samples."""
    policy, value, kl, clipped = [], [], [], []
    for b in range(len(adv)):
        ratio = math.exp(logp_new[b] - logp_old[b])
        gain = min(ratio * adv[b], clip(ratio, 1 - clip_ratio, 1 + clip_ratio) * adv[b])
        if dual_clip is not None and adv[b] < 0:
            gain = max(gain, dual_clip * adv[b])
        policy.append(-gain)
        error = (value_new[b] - return_[b]) ** 2
        if use_value_clip:
            near = value_old[b] + clip(value_new[b] - value_old[b], -clip_ratio, clip_ratio)
            error = max(error, (near - return_[b]) ** 2)
        value.append(0.5 * error)
        kl.append(ratio - 1 - math.log(ratio))
        clipped.append(float(abs(ratio - 1) > clip_ratio))
    return {
        "policy_loss": mean_of(policy, weight),
        "value_loss": mean_of(value, weight),
        "approx_kl": mean_of(kl, weight),
        "clipfrac": mean_of(clipped, weight),
    }


def normalized(adv: Sequence[float], counts: Sequence[bool] | None, eps: float = 1e-8) -> list[float]:
    """(A − mean) / (std + eps) over the samples that count, 0 elsewhere; one alone gives 0."""
    some = [a for b, a in enumerate(adv) if counts is None or counts[b]]
    if len(some) < 2:
        return [0.0] * len(adv)
    mean = math.fsum(some) / len(some)
    std = math.sqrt(math.fsum((a - mean) ** 2 for a in some) / (len(some) - 1))
    return [(a - mean) / (std + eps) if counts is None or counts[b] else 0.0 for b, a in enumerate(adv)]


class SmallMDP:
    """Three states, two actions, all of whose values are known in closed form.

    From state s, action a leads to s' with probability ``P[s, a, s']`` and reward ``R[s, a, s']``; what is missing to 1
    is the probability that the task terminates, with reward ``R_end[s, a]``.
    """

    P = np.array([[[0.5, 0.25, 0.0], [0.0, 0.5, 0.5]], [[0.25, 0.0, 0.5], [0.5, 0.5, 0.0]],
                  [[0.0, 0.5, 0.0], [0.5, 0.0, 0.25]]])  # fmt: skip
    R = np.array([[[1.0, -1.0, 0.0], [0.0, 2.0, 0.5]], [[3.0, 0.0, -0.5], [0.0, 1.0, 0.0]],
                  [[0.0, 0.25, 0.0], [-2.0, 0.0, 1.0]]])  # fmt: skip
    R_end = np.array([[4.0, 0.0], [-1.0, 0.0], [2.0, 5.0]])

    def __init__(self, gamma: float) -> None:
        self.gamma = gamma
        self.end = 1 - self.P.sum(-1)  # [s, a]

    def values(self, policy: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns V [s], Q [s, a] and the advantages [s, a] of ``policy`` [s, a], by solving V = r + γ·P·V."""
        mean_reward = (self.P * self.R).sum(-1) + self.end * self.R_end  # [s, a]
        kernel = np.einsum("sa,sat->st", policy, self.P)
        value = np.linalg.solve(np.eye(3) - self.gamma * kernel, (policy * mean_reward).sum(-1))
        q_value = mean_reward + self.gamma * self.P @ value
        return value, q_value, q_value - value[:, None]

    def paths(self, policy: np.ndarray, start: int, length: int) -> list[dict[str, Any]]:
        """Returns all paths of ``length`` rows from ``start``, each with its probability.

        Each is a dict of ``prob``, and of lists: ``state`` (length + 1), ``action``, ``reward``, ``terminated`` and
        ``valid``. After the end of an episode rows are not valid, their state and action 0.
        """
        paths = [{"prob": 1.0, "state": [start], "action": [], "reward": [], "terminated": [], "valid": []}]
        for _ in range(length):
            paths = [longer for path in paths for longer in self._longer(policy, path)]
        return paths

    def _longer(self, policy: np.ndarray, path: dict[str, Any]) -> list[dict[str, Any]]:
        def plus(prob: float, state: int, **row: Any) -> dict[str, Any]:
            longer = {k: [*path[k], v] for k, v in row.items()}
            return {"prob": path["prob"] * prob, "state": [*path["state"], state], **longer}

        if path["terminated"] and (path["terminated"][-1] or not path["valid"][-1]):
            return [plus(1.0, 0, action=0, reward=0.0, terminated=False, valid=False)]
        s, found = path["state"][-1], []
        for a in range(2):
            for after in np.flatnonzero(self.P[s, a]):
                found.append(plus(policy[s, a] * self.P[s, a, after], int(after), action=a,
                                  reward=self.R[s, a, after], terminated=False, valid=True))  # fmt: skip
            if self.end[s, a] > 0:
                found.append(plus(policy[s, a] * self.end[s, a], 0, action=a, reward=self.R_end[s, a],
                                  terminated=True, valid=True))  # fmt: skip
        return found


def random_rows(rng: np.random.Generator, total: int, batch: int) -> dict[str, np.ndarray]:
    """Returns random ``reward``, ``value`` [T+1, B], ``ratio`` and masks with next-step autoreset.

    After each end of an episode comes a dummy row; some lanes begin with one, some end in padding, and some episodes
    are broken without an end.
    """
    terminated = np.zeros((total, batch), bool)
    truncated = np.zeros((total, batch), bool)
    valid = np.ones((total, batch), bool)
    for b in range(batch):
        dummy = rng.random() < 0.2
        length = total - int(rng.integers(0, total)) if rng.random() < 0.3 else total
        for t in range(total):
            if dummy or t >= length:
                valid[t, b] = dummy = False
                continue
            u = rng.random()
            terminated[t, b], truncated[t, b] = u < 0.15, 0.15 <= u < 0.3
            dummy = u < 0.35  # between 0.3 and 0.35 a fault broke the episode
    return {
        "value": rng.normal(size=(total + 1, batch)),
        "reward": rng.normal(size=(total, batch)),
        "ratio": np.exp(rng.normal(size=(total, batch))),
        "terminated": terminated,
        "truncated": truncated,
        "valid": valid,
    }
