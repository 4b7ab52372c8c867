"""Points the policy-gradient oracles at functions of other libraries, and prints how far they are apart.

    PYTHONPATH=tests python -m oracles.against_peers

A library that is not installed is named and left out; README.md beside this file says how to install them. The rows are
random lanes with next-step autoreset (a dummy row after each end). What a library is given is in its own layout: its
transitions alone, each with the value of its own next observation, or the rows as they are where it wants that. A
number in the table is the largest absolute difference over all transitions of a scenario.
"""

import importlib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from oracles import policy_gradient as oracle

GAMMA, LAMBDA, TOTAL, LANES = 0.95, 0.9, 24, 60


class Lane(NamedTuple):
    """One lane: its rows as they are [T] (``value`` [T+1]), and its transitions alone [n]."""

    rows: dict[str, np.ndarray]
    value: np.ndarray
    next_value: np.ndarray
    reward: np.ndarray
    ratio: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    done: np.ndarray  # the next transition belongs to another episode


class Case(NamedTuple):
    """A peer's function: what it computes (a key of :func:`expected`), and how it is called."""

    peer: str
    call: str
    quantity: str
    found: Callable[[Lane], np.ndarray]


def scenario(kind: str, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Random rows in which episodes end in one way only, or in all (``'all'``: also broken ones and padding)."""
    rows = oracle.random_rows(rng, TOTAL, LANES)
    if kind == "all":
        return rows
    ended = (rows["terminated"] | rows["truncated"]) & (kind != "no ends")
    rows["terminated"], rows["truncated"] = ended & (kind == "terminated"), ended & (kind == "truncated")
    rows["valid"] = np.concatenate([np.ones((1, LANES), bool), ~ended[:-1]])
    return rows


def lane_of(rows: dict[str, np.ndarray], b: int) -> Lane:
    lane = {k: v[:, b] for k, v in rows.items()}
    at = np.flatnonzero(lane["valid"])
    broken = np.append(~lane["valid"][1:], False)[at]
    terminated, truncated = lane["terminated"][at], lane["truncated"][at]
    return Lane(
        lane, lane["value"][at], lane["value"][at + 1], lane["reward"][at], lane["ratio"][at],
        terminated, truncated, terminated | truncated | broken,
    )  # fmt: skip


def expected(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the oracles say, [T, B] each."""
    masks = {k: rows[k] for k in ("terminated", "truncated", "valid")}
    value, reward, ratio = rows["value"], rows["reward"], rows["ratio"]
    target, adv = oracle.vtrace(ratio, value, reward, GAMMA, **masks)
    target_lambda, adv_lambda = oracle.vtrace(ratio, value, reward, GAMMA, LAMBDA, **masks)
    return {
        "GAE": oracle.gae(value, reward, GAMMA, LAMBDA, **masks),
        "λ-return": oracle.lambda_returns(value, reward, GAMMA, LAMBDA, **masks),
        "V-trace target": target,
        "V-trace advantage": adv,
        "V-trace target, λ": target_lambda,
        "V-trace advantage, λ": adv_lambda,
    }


def torchrl_cases() -> list[Case]:
    functional = importlib.import_module("torchrl.objectives.value.functional")
    torch = importlib.import_module("torch")

    def column(x: np.ndarray) -> Any:
        return torch.from_numpy(x.copy()).unsqueeze(-1)

    def gae(name: str, both: bool) -> Callable[[Lane], np.ndarray]:
        def found(lane: Lane) -> np.ndarray:
            columns = [column(x) for x in (lane.value, lane.next_value, lane.reward, lane.done)]
            terminated = {"terminated": column(lane.terminated)} if both else {}
            return getattr(functional, name)(GAMMA, LAMBDA, *columns, **terminated)[0].squeeze(-1).numpy()

        return found

    def lambda_return(name: str) -> Callable[[Lane], np.ndarray]:
        def found(lane: Lane) -> np.ndarray:
            columns = [column(x) for x in (lane.next_value, lane.reward, lane.done, lane.terminated)]
            return getattr(functional, name)(GAMMA, LAMBDA, *columns).squeeze(-1).numpy()

        return found

    def vtrace(at: int) -> Callable[[Lane], np.ndarray]:
        def found(lane: Lane) -> np.ndarray:
            log_pi = column(np.log(lane.ratio))
            columns = [column(x) for x in (lane.value, lane.next_value, lane.reward, lane.done, lane.terminated)]
            out = functional.vtrace_advantage_estimate(GAMMA, log_pi, torch.zeros_like(log_pi), *columns)
            return out[at].squeeze(-1).numpy()

        return found

    name = "torchrl"
    return [
        Case(name, "generalized_advantage_estimate(done, terminated)", "GAE",
             gae("generalized_advantage_estimate", True)),
        Case(name, "generalized_advantage_estimate(done)", "GAE", gae("generalized_advantage_estimate", False)),
        Case(name, "vec_generalized_advantage_estimate(done, terminated)", "GAE",
             gae("vec_generalized_advantage_estimate", True)),
        Case(name, "td_lambda_return_estimate", "λ-return", lambda_return("td_lambda_return_estimate")),
        Case(name, "vec_td_lambda_return_estimate", "λ-return", lambda_return("vec_td_lambda_return_estimate")),
        Case(name, "vtrace_advantage_estimate, target", "V-trace target", vtrace(1)),
        Case(name, "vtrace_advantage_estimate, advantage", "V-trace advantage", vtrace(0)),
    ]  # fmt: skip


def stable_baselines3_cases() -> list[Case]:
    buffers = importlib.import_module("stable_baselines3.common.buffers")
    spaces = importlib.import_module("gymnasium.spaces")
    torch = importlib.import_module("torch")

    def gae(bootstrap: bool, quantity: str) -> Callable[[Lane], np.ndarray]:
        def found(lane: Lane) -> np.ndarray:
            size = len(lane.reward)
            if size == 0:
                return np.zeros(0)
            buffer = buffers.RolloutBuffer(size, spaces.Box(-1, 1, (1,)), spaces.Discrete(2), "cpu", LAMBDA, GAMMA)
            open_end = lane.done & ~lane.terminated
            buffer.rewards[:, 0] = lane.reward + (GAMMA * lane.next_value * open_end if bootstrap else 0)
            buffer.values[:, 0] = lane.value
            buffer.episode_starts[:, 0] = np.append(True, lane.done[:-1])
            buffer.compute_returns_and_advantage(torch.tensor(lane.next_value[-1:]), lane.done[-1:])
            return (buffer.advantages if quantity == "GAE" else buffer.returns)[:, 0]

        return found

    # compute_returns_and_advantage; its PPO adds γ·V(final observation) to the reward at a time limit beforehand
    name = "stable-baselines3"
    return [
        Case(name, "RolloutBuffer.advantages, γ·V(final) in the reward", "GAE", gae(True, "GAE")),
        Case(name, "RolloutBuffer.returns, γ·V(final) in the reward", "λ-return", gae(True, "λ-return")),
        Case(name, "RolloutBuffer.advantages, rewards as they are", "GAE", gae(False, "GAE")),
    ]


def rlax_cases() -> list[Case]:
    rlax = importlib.import_module("rlax")
    importlib.import_module("jax").config.update("jax_enable_x64", True)

    def parts(lane: Lane, lambda_: float, cut: bool) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        rows = lane.rows
        ended = rows["truncated"] | ~rows["valid"] | np.append(~rows["valid"][1:], False)
        return rows, GAMMA * (1.0 - rows["terminated"]), np.where(ended & cut, 0.0, lambda_)

    def gae(cut: bool) -> Callable[[Lane], np.ndarray]:
        def found(lane: Lane) -> np.ndarray:
            rows, discount, lambda_ = parts(lane, LAMBDA, cut)
            out = rlax.truncated_generalized_advantage_estimation(rows["reward"], discount, lambda_, rows["value"])
            return np.asarray(out)[rows["valid"]]

        return found

    def vtrace(lambda_: float, quantity: str) -> Callable[[Lane], np.ndarray]:
        def found(lane: Lane) -> np.ndarray:
            rows, discount, lambdas = parts(lane, lambda_, True)
            value = rows["value"]
            out = rlax.vtrace_td_error_and_advantage(
                value[:-1], value[1:], rows["reward"], discount, rows["ratio"], lambdas
            )
            both = {"target": np.asarray(out.errors) + value[:-1], "advantage": np.asarray(out.pg_advantage)}
            return both[quantity][rows["valid"]]

        return found

    name = "rlax"
    return [
        Case(name, "truncated_generalized_advantage_estimation, λ of 0 at time limits", "GAE", gae(True)),
        Case(name, "truncated_generalized_advantage_estimation, one λ", "GAE", gae(False)),
        *[Case(name, f"vtrace_td_error_and_advantage, {q}", f"V-trace {q}", vtrace(1.0, q))
          for q in ("target", "advantage")],
        *[Case(name, f"vtrace_td_error_and_advantage, {q}, λ {LAMBDA}", f"V-trace {q}, λ", vtrace(LAMBDA, q))
          for q in ("target", "advantage")],
    ]  # fmt: skip


def ppo_difference() -> str:
    """The clipped surrogate of rlax against the oracle's."""
    rlax = importlib.import_module("rlax")
    rng = np.random.default_rng(0)
    logp, adv = rng.normal(size=(2, 500)) * 0.5
    zero = [0.0] * 500
    ours = oracle.ppo_losses(logp.tolist(), zero, zero, zero, adv.tolist(), zero, None, 0.2, False, None)
    theirs = float(rlax.clipped_surrogate_pg_loss(np.exp(logp), adv, 0.2))
    return f"rlax.clipped_surrogate_pg_loss: {abs(ours['policy_loss'] - theirs):.1e}"


def forever(case: Case) -> float:
    """A reward of 1 for ever, exact values 1/(1 − γ), a time limit in the middle: how far the advantage is from 0."""
    total = 10
    rows = {
        "value": np.full((total + 1, 1), 1 / (1 - GAMMA)),
        "reward": np.ones((total, 1)),
        "ratio": np.ones((total, 1)),
        "terminated": np.zeros((total, 1), bool),
        "truncated": np.zeros((total, 1), bool),
        "valid": np.ones((total, 1), bool),
    }
    rows["truncated"][4] = True
    rows["valid"][5], rows["reward"][5] = False, 0
    found = case.found(lane_of(rows, 0))
    worth = 0.0 if "return" not in case.quantity and "target" not in case.quantity else 1 / (1 - GAMMA)
    return float(np.abs(found - worth).max())


def main() -> None:
    kinds = ["no ends", "terminated", "truncated", "all"]
    rows = {kind: scenario(kind, np.random.default_rng(i)) for i, kind in enumerate(kinds)}
    truth = {kind: expected(table) for kind, table in rows.items()}
    print(f"{'':96}" + "".join(f"{k:>12}" for k in [*kinds, "for ever"]))
    for cases_of in (torchrl_cases, stable_baselines3_cases, rlax_cases):
        try:
            cases = cases_of()
        except ImportError as e:
            print(f"left out: {e}")
            continue
        for case in cases:
            worst = dict.fromkeys(kinds, 0.0)
            for kind in kinds:
                for b in range(LANES):
                    lane, valid = lane_of(rows[kind], b), rows[kind]["valid"][:, b]
                    if valid.any():
                        apart = np.abs(case.found(lane) - truth[kind][case.quantity][valid, b])
                        worst[kind] = max(worst[kind], float(np.where(np.isnan(apart), math.inf, apart).max()))
            numbers = "".join(f"{x:12.1e}" for x in [*worst.values(), forever(case)])
            print(f"{f'{case.peer}: {case.call} = {case.quantity}':96}{numbers}")
        if cases_of is rlax_cases:
            print(ppo_difference())


if __name__ == "__main__":
    main()
