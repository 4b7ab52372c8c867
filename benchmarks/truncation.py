"""The value before a time limit: for every policy and each of Gymnasium's autoreset conventions, learned and expected.

A ring of four states: every action leads from state s to s + 1 and pays s. The task never ends; an episode begins at
state 0 or 1 and is cut after three steps (``truncated``), so that state 3 is seen before the limit only:

    V(s) = s + γ·V((s + 1) mod 4)

For R2D2, whose network has a memory, episodes are cut after one step or more, three on average: it would otherwise know
by its history that it stands at the limit, where no policy with a memory ever learns a value.

Its twin ends (``terminated``) at state 0, so that V(s) is the sum of what is left. A library that takes a time limit
for the end of the task, or the first observation of the next episode for the last one of this, learns other numbers.

    python benchmarks/truncation.py                      # the table of docs/reliability.md
    python benchmarks/truncation.py --policy dqn ppo --peer PYTHON   # PYTHON: of an environment with Stable-Baselines3
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from common import put
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from nervex.config.source import ConfigSource
from nervex.entry.compile_config import compile_config
from nervex.entry.learning import ReplayLearning, RolloutLearning
from nervex.entry.serial_parts import build_parts
from nervex.envs.gymnasium_env import GymnasiumEnv
from nervex.envs.vector_env import ACT, VectorEnv, VectorStep
from nervex.rl_utils.value_rescale import value_inv_transform

STATES, LIMIT, GAMMA = 4, 3, 0.8
ENDS = ("truncated", "terminated")
CONVENTIONS = ("single env", *(mode.name for mode in AutoresetMode))
TOLERANCE = 0.25
ENV_NUM = 4


def expected(end: str) -> np.ndarray:
    """Returns V of each state, [4]; of the twin that terminates, of state 0 nothing is learned: NaN."""
    if end == "truncated":
        return np.array([sum(GAMMA**k * ((s + k) % STATES) for k in range(200)) for s in range(STATES)])
    values = [sum(GAMMA**k * (s + k) for k in range(STATES - s)) for s in range(1, STATES)]
    return np.array([np.nan, *values])


class Ring(gymnasium.Env):
    """One ring; ``box`` makes the action, which has no effect, a number in [-1, 1]; ``chance`` makes the limit one that
    may come with any step."""

    def __init__(self, end: str = "truncated", box: bool = False, chance: bool = False) -> None:
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (STATES,), np.float32)
        box_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.action_space = box_space if box else gymnasium.spaces.Discrete(2)
        self._end = end
        self._chance = chance

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        low, high = (1, STATES) if self._end == "terminated" else (0, 2)
        self._state = int(self.np_random.integers(low, high))
        self._left = int(self.np_random.geometric(1 / LIMIT)) if self._chance else LIMIT
        return self._obs(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        reward = float(self._state)
        self._state = (self._state + 1) % STATES
        self._left -= 1
        terminated = self._end == "terminated" and self._state == 0
        truncated = self._end == "truncated" and self._left == 0
        return self._obs(), reward, terminated, truncated, {}

    def _obs(self) -> np.ndarray:
        return np.eye(STATES, dtype=np.float32)[self._state]


gymnasium.register("NervexRing-v0", Ring)


class RingLanes(VectorEnv):
    """Gymnasium's vector env under one of its autoreset conventions as an engine of nerveX: a vector of one env for
    each lane, since the lanes of nerveX step alone.

    Whatever the convention, nerveX gets the final observation with the step that ends an episode, and the first one of
    the next episode with the step after.
    """

    seeded = False

    def __init__(self, mode: AutoresetMode, lane_num: int, options: dict[str, Any]) -> None:
        self._mode = mode
        self._lanes = [SyncVectorEnv([lambda: Ring(**options)], autoreset_mode=mode) for _ in range(lane_num)]
        self._first: list[Any] = [None] * lane_num  # of the episode that SAME_STEP has begun already

    def reset(self, seed: np.ndarray, out: Any) -> None:
        """See ``VectorEnv``."""
        for lane, number in enumerate(seed.tolist()):
            out[lane] = self._lanes[lane].reset(seed=number)[0][0]

    def step(self, action: Any, lane_id: np.ndarray, seed: np.ndarray, out: Any) -> VectorStep:
        """See ``VectorEnv``."""
        size = len(lane_id)
        reward, ends = np.zeros(size, np.float32), np.zeros((2, size), bool)
        for row, lane in enumerate(lane_id.tolist()):
            if seed[row] != ACT:
                out[lane] = self._begin(lane, action[row])
                continue
            obs, rewards, terminated, truncated, info = self._lanes[lane].step(action[row : row + 1])
            reward[row], ends[:, row] = rewards[0], (terminated[0], truncated[0])
            out[lane] = obs[0]
            if ends[:, row].any() and self._mode is AutoresetMode.SAME_STEP:
                self._first[lane] = obs[0].copy()
                out[lane] = info["final_obs"][0]
        info = {row: {"truncated": bool(ends[1, row])} for row in np.flatnonzero(ends.any(0)).tolist()}
        return VectorStep(reward, ends[0], ends[1], None, seed != ACT, info)

    def _begin(self, lane: int, action: Any) -> Any:
        if self._mode is AutoresetMode.SAME_STEP:
            return self._first[lane]
        if self._mode is AutoresetMode.DISABLED:
            return self._lanes[lane].reset(options={"reset_mask": np.ones(1, bool)})[0][0]
        return self._lanes[lane].step(np.asarray([action]))[0][0]  # NEXT_STEP ignores the action

    def close(self) -> None:
        """See ``VectorEnv``."""
        for lane in self._lanes:
            lane.close()


def ring_class(convention: str) -> type[GymnasiumEnv]:
    """Returns the env of nerveX whose vector follows ``convention``."""

    class RingTask(GymnasiumEnv):
        @classmethod
        def create_vector(cls, cfgs: list[dict[str, Any]]) -> VectorEnv:
            return RingLanes(AutoresetMode[convention], len(cfgs), cfgs[0]["make_kwargs"])

    return RingTask


_Q_NET = {"embedding_dim": 16, "hidden_dim_list": [16]}
_NET = {"embedding_dim": 16, "hidden_dim_list": [], "head_hidden_dim": 16}
_REPLAY = {"actor": {"n_sample": 32}, "replay_buffer": {"meta_maxlen": 4000, "max_reuse": float("inf")}}
_CRITIC = {"batch_size": 32, "learning_rate": 0.01, "algo": {"target_theta": 0.1}}

#: policy -> (further keys of section policy, updates or env steps)
POLICIES: dict[str, tuple[dict[str, Any], int]] = {
    "dqn": ({"model": _Q_NET, "learn": {"algo": {"target_update_freq": 10}}}, 250),
    "rainbow_dqn": (
        {"model": {**_Q_NET, "v_min": 0.0, "v_max": 15.0}, "learn": {"algo": {"target_update_freq": 10}}},
        300,
    ),
    "r2d2": (
        {
            "model": _Q_NET,
            "collect": {"unroll_len": 8},
            "learn": {"batch_size": 32, "algo": {"burnin_step": 2, "nstep": 1, "target_update_freq": 10}},
        },
        300,
    ),
    "a2c": ({"model": _NET, "collect": {"traj_len": 8}}, 400),
    "ppo": ({"model": _NET, "collect": {"traj_len": 16}, "learn": {"epoch_per_collect": 4}}, 400),
    "impala": ({"model": _NET, "collect": {"traj_len": 16, "unroll_len": 8}}, 400),
    "ddpg": ({"model": {"hidden_dim_list": [32]}, "learn": _CRITIC}, 400),
    "td3": ({"model": {"hidden_dim_list": [32]}, "learn": _CRITIC}, 400),
    "sac": (
        {
            "model": {"hidden_dim_list": [32]},
            "learn": {**_CRITIC, "algo": {"target_theta": 0.1, "alpha": 1e-4, "auto_alpha": False}},
        },
        400,
    ),
}
_CONTINUOUS = ("ddpg", "td3", "sac")
_ON_POLICY = ("a2c", "ppo", "impala")


def configuration(policy: str, convention: str, end: str) -> dict[str, Any]:
    """Returns the configuration of a case, without its env class."""
    keys, updates = POLICIES[policy]
    learn = {"batch_size": 32, "learning_rate": 0.01, **keys.get("learn", {})}
    learn["algo"] = {**learn.get("algo", {}), "discount_factor": GAMMA}
    if policy in _ON_POLICY:
        learn["lr_schedule"] = {"type": "linear"}
    else:
        learn["train_step"] = 8
    kind = "base" if convention == "single env" else "vector"
    ring = {"end": end, "box": policy in _CONTINUOUS, "chance": policy == "r2d2"}
    return {
        "env": {
            "env_type": "gymnasium", "env_id": "NervexRing-v0", "actor_env_num": ENV_NUM, "evaluator_env_num": 1,
            "env_manager_type": kind, "make_kwargs": ring,
        },
        "policy": {"policy_type": policy, **keys, "learn": learn},
        "max_train_iter": updates, "seed": 0, "torch_threads": 1,
        **({} if policy in _ON_POLICY else _REPLAY),
    }  # fmt: skip


def learned(policy: str, convention: str, end: str) -> np.ndarray:
    """Trains, and returns the learned value of each state, [4]."""
    source = ConfigSource.from_dict(configuration(policy, convention, end))
    compiled = compile_config(source)
    if convention != "single env":
        own = {"env_id": "NervexRing-v0", "make_kwargs": dict(compiled.cfg.env.make_kwargs)}
        setting = ring_class(convention), [dict(own) for _ in range(ENV_NUM)], [dict(own)]
        compiled = compile_config(source, env_setting=setting)
    parts = build_parts(compiled)
    try:
        kind = ReplayLearning if parts.rollout is None else RolloutLearning
        learning = kind(compiled.cfg, parts)
        while parts.learner.last_iter.val < compiled.cfg.max_train_iter:
            learning.loop(lambda: False)
        return values(policy, parts.policy)
    finally:
        parts.close()


def values(name: str, policy: Any) -> np.ndarray:
    """Returns what a policy holds for the value of each state, [4]; that of its own action where it has a Q."""
    obs = torch.eye(STATES)
    with torch.no_grad():
        if name == "r2d2":  # has a memory: state 0 begins an episode, and 1, 2 and 3 are one
            lanes = [policy.eval_mode.forward([min(s, 1)], {"obs": obs[s : s + 1]})["logit"] for s in range(STATES)]
            return value_inv_transform(torch.cat(lanes)).max(-1).values.double().numpy()
        output = policy.eval_mode.forward(np.arange(STATES), {"obs": obs})
        if name in _CONTINUOUS:
            q_value = policy.model({"obs": obs, "action": output["action"]}, mode="compute_q")["q_value"]
            found = q_value[0] if q_value.dim() == 2 else q_value
        elif name in _ON_POLICY:
            found = output["value"]
        else:
            found = output["logit"].max(-1).values
    return found.reshape(STATES).double().numpy()


def row(name: str, convention: str, end: str, found: np.ndarray) -> dict[str, Any]:
    """Returns a row of the table: state 3, the last before the end of the twin, and the largest error of any state."""
    want = expected(end)
    error = float(np.nanmax(np.abs(found - want)))
    return {"policy": name, "convention": convention, "end": end, "learned": round(float(found[3]), 2),
            "expected": round(float(want[3]), 2), "error": round(error, 2), "right": error <= TOLERANCE}  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    """Returns the rows as Markdown."""
    lines = [
        "| policy | autoreset | end | learned | expected | largest error of a state |",
        "|---|---|---|---|---|---|",
    ]
    for r in rows:
        mark = "" if r["right"] else f" (more than {TOLERANCE})"
        lines.append(f"| {r['policy']} | {r['convention']} | {r['end']} | {r['learned']:.2f} | {r['expected']:.2f} | "
                     f"{r['error']:.2f}{mark} |")  # fmt: skip
    return "\n".join(lines)


def main() -> int:
    """Prints the table; the exit code is 1 where a value of nerveX is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--policy", nargs="+", default=list(POLICIES), choices=list(POLICIES))
    parser.add_argument("--convention", nargs="+", default=list(CONVENTIONS), choices=CONVENTIONS)
    parser.add_argument("--end", nargs="+", default=list(ENDS), choices=ENDS)
    parser.add_argument("--peer", nargs="+", default=[], metavar="NAME=PYTHON",
                        help="sb3 or tianshou, and an interpreter that has it, for its rows")  # fmt: skip
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in args.policy:
        for convention in args.convention:
            for end in args.end:
                rows.append(row(name, convention, end, learned(name, convention, end)))
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    wrong = [r for r in rows if not r["right"]]
    for peer in args.peer:
        name, _, python = peer.partition("=")
        script = Path(__file__).parent / "peers" / f"{name}_truncation.py"
        output = subprocess.run([python, str(script)], check=True, stdout=subprocess.PIPE, text=True).stdout
        rows += [row(r["policy"], r["convention"], r["end"], np.array(r["value"]))
                 for r in map(json.loads, output.splitlines())]  # fmt: skip
    print(table(rows))
    if len(rows) >= len(POLICIES) * len(CONVENTIONS) * len(ENDS):  # all of them: what the page shows
        put(Path(__file__).parent.parent / "docs" / "reliability.md", "truncation", table(rows))
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
