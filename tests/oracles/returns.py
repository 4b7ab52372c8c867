"""Targets and losses of action values as their definitions say them: Python floats (64 bit), one sample at a time."""

from collections.abc import Callable, Sequence

Row = Sequence[float]


def nstep_return(reward: Row, next_value: float, done: float, gamma: float, value_gamma: float | None = None) -> float:
    """G = Σ_i γ^i·r_i + γ^n·(1 − done)·V, of one sample with rewards r_0 .. r_{n−1}."""
    total = 0.0
    for i, r in enumerate(reward):
        total += gamma**i * r
    factor = gamma ** len(reward) if value_gamma is None else value_gamma
    return total + factor * (1.0 - done) * next_value


def td_errors(
    q: Sequence[Row],
    next_q: Sequence[Row],
    action: Sequence[int],
    next_action: Sequence[int] | None,
    reward: Sequence[Row],
    done: Row,
    gamma: float,
    value_gamma: Row | None = None,
) -> list[float]:
    """δ_b = G_b − Q(s_b, a_b); ``reward`` [B][n], everything else one entry per sample."""
    errors = []
    for b in range(len(q)):
        next_value = max(next_q[b]) if next_action is None else next_q[b][next_action[b]]
        factor = None if value_gamma is None else value_gamma[b]
        errors.append(nstep_return(reward[b], next_value, done[b], gamma, factor) - q[b][action[b]])
    return errors


def weighted_mean_square(errors: Row, weight: Row | None) -> float:
    """Σ_b w_b·δ_b² / B."""
    return sum(e * e * (1.0 if weight is None else weight[b]) for b, e in enumerate(errors)) / len(errors)


def optimal_q(
    state_num: int,
    action_num: int,
    step: Callable[[int, int], tuple[int, float, bool]],
    gamma: float,
    sweeps: int = 2000,
) -> list[list[float]]:
    """Q* of a deterministic MDP by value iteration; ``step(s, a)`` returns ``(s', r, terminated)``."""
    q = [[0.0] * action_num for _ in range(state_num)]
    for _ in range(sweeps):
        for s in range(state_num):
            for a in range(action_num):
                after, reward, terminated = step(s, a)
                q[s][a] = reward + (0.0 if terminated else gamma * max(q[after]))
    return q


def corridor(state_num: int) -> Callable[[int, int], tuple[int, float, bool]]:
    """A corridor: action 0 goes left (and stays at the wall), 1 right; reaching the last state pays 1 and ends it."""

    def step(s: int, a: int) -> tuple[int, float, bool]:
        after = max(s - 1, 0) if a == 0 else s + 1
        end = after == state_num - 1
        return after, float(end), end

    return step
