"""Small tasks whose values are known: by hand, and by solving their linear equations (NumPy only)."""

from typing import Any, NamedTuple

import numpy as np


class MDP(NamedTuple):
    """A finite task.

    Attributes:
        transition: probability of going on in s', [S, N, S]; what is missing to 1 terminates the task.
        reward: expected reward of taking a in s, [S, N].
        start: state in which an episode begins.
    """

    transition: np.ndarray
    reward: np.ndarray
    start: int = 0


def corridor(state_num: int) -> MDP:
    """Action 0 goes left (and stays at the wall), 1 right; leaving the last state to the right pays 1 and ends it.

    By hand: Q*(s, right) = γ^(S−1−s), Q*(s, left) = γ·Q*(max(s − 1, 0), right).
    """
    transition, reward = np.zeros((state_num, 2, state_num)), np.zeros((state_num, 2))
    for s in range(state_num):
        transition[s, 0, max(s - 1, 0)] = 1
        if s + 1 < state_num:
            transition[s, 1, s + 1] = 1
    reward[-1, 1] = 1
    return MDP(transition, reward)


def two_state_chain(stay: float, end: float) -> MDP:
    """One action. State 0 pays 1 and stays with probability ``stay``, else goes to 1; state 1 pays −2 and ends with
    probability ``end``, else goes back to 0.

    By hand: V(1) = −2 + γ·(1 − end)·V(0) and V(0) = (1 − 2·γ·(1 − stay)) / (1 − γ·stay − γ²·(1 − stay)·(1 − end)).
    """
    transition = np.array([[[stay, 1 - stay]], [[1 - end, 0.0]]])
    return MDP(transition, np.array([[1.0], [-2.0]]))


def ring(state_num: int) -> MDP:
    """One action, no end: from s to s + 1 and from the last state to 0, with reward s + 1 in s.

    By hand: V(0) = Σ_s γ^s·(s + 1) / (1 − γ^S).
    """
    transition = np.zeros((state_num, 1, state_num))
    for s in range(state_num):
        transition[s, 0, (s + 1) % state_num] = 1
    return MDP(transition, np.arange(1.0, state_num + 1)[:, None])


def values(mdp: MDP, policy: np.ndarray, gamma: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns V [S] and Q [S, N] of ``policy`` [S, N]: V = r_π + γ·P_π·V, solved."""
    kernel = np.einsum("sa,sat->st", policy, mdp.transition)
    value = np.linalg.solve(np.eye(len(kernel)) - gamma * kernel, (policy * mdp.reward).sum(-1))
    return value, mdp.reward + gamma * mdp.transition @ value


def optimal_values(mdp: MDP, gamma: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns V* [S] and Q* [S, N] by policy iteration."""
    state_num, action_num = mdp.reward.shape
    best = np.zeros(state_num, int)
    while True:
        value, q_value = values(mdp, np.eye(action_num)[best], gamma)
        better = np.where(q_value.max(-1) > q_value[np.arange(state_num), best] + 1e-12, q_value.argmax(-1), best)
        if (better == best).all():
            return value, q_value
        best = better


def play(
    mdp: MDP, policy: np.ndarray, rng: np.random.Generator, row_num: int, time_limit: float = np.inf
) -> dict[str, np.ndarray]:
    """Returns rows of one lane with next-step autoreset, as an actor stores them.

    The row after an episode's end is a dummy (``valid`` False, reward 0) whose state is the true final one; where the
    task terminated there is none, so that state is −1. A time limit ends an episode after ``time_limit`` steps.

    Returns:
        ``state`` (row_num + 1), ``action``, ``reward``, ``terminated``, ``truncated``, ``valid`` (row_num).
    """
    rows: dict[str, list[Any]] = {k: [] for k in ("state", "action", "reward", "terminated", "truncated", "valid")}
    state, count, ended = mdp.start, 0, False
    for _ in range(row_num):
        rows["state"].append(state)
        if ended:
            row: tuple[Any, ...] = (0, 0.0, False, False, False)
            state, count, ended = mdp.start, 0, False
        else:
            action = int(rng.choice(policy.shape[1], p=policy[state]))
            going_on = mdp.transition[state, action]
            drawn = int(rng.choice(len(going_on) + 1, p=[*going_on, max(1 - going_on.sum(), 0)]))
            count += 1
            terminated = drawn == len(going_on)
            ended = terminated or count >= time_limit
            row = (action, mdp.reward[state, action], terminated, ended and not terminated, True)
            state = -1 if terminated else drawn
        for key, x in zip(("action", "reward", "terminated", "truncated", "valid"), row, strict=True):
            rows[key].append(x)
    rows["state"].append(state)
    return {k: np.array(v) for k, v in rows.items()}
