"""Tasks of a few steps whose answers are known, for tests that train a policy in seconds. Importing registers the envs.

| task | env | known |
|---|---|---|
| ``corridor`` | 5 states, left and right, -0.1 per step and 1 at the end | Q* |
| ``bandit`` | 3 contexts, 3 arms, one step | the best arms, Q |
| ``bandit_heads`` | the same with a second head of 2 arms | the best pairs |
| ``bandit_mask`` | the arms; in two contexts the best one is masked, and taking it an error | the best allowed arms |
| ``endless`` | one state, 2 arms that pay 0 and 1, cut by a time limit after 3 steps | Q* = r + γ / (1 − γ) |
| ``target`` | one step, reward -(a − x/2)² for the observation x | a* = x/2, Q |
| ``endless_target`` | the same plus 1, cut by a time limit after 3 steps | Q* = r + γ / (1 − γ) |
| ``memory_cue`` | 3 steps; the last action should be the cue of the first observation | return 1, 0.5 without memory |
"""

import copy
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from oracles import mdp

import app_zoo.memory_cue.envs  # noqa: F401 - registers memory_cue
from nervex.config.schema import build, option
from nervex.config.source import ConfigSource
from nervex.envs.base_env import BaseEnv, BaseEnvInfo, BaseEnvTimestep, EnvElementInfo
from nervex.envs.registry import register_env
from nervex.utils.errors import SpecError

#: task -> keys of section ``env``
TASKS: dict[str, dict[str, Any]] = {
    "corridor": {"env_type": "tiny_corridor"},
    "bandit": {"env_type": "tiny_bandit"},
    "bandit_heads": {"env_type": "tiny_bandit", "kind": "heads"},
    "bandit_mask": {"env_type": "tiny_bandit", "kind": "mask"},
    "endless": {"env_type": "tiny_endless"},
    "target": {"env_type": "tiny_target"},
    "endless_target": {"env_type": "tiny_target", "endless": True},
    "memory_cue": {"env_type": "memory_cue", "delay": 2},
}

#: task -> the mean return of the best policy
OPTIMUM = {"corridor": 0.7, "bandit": 2.7 / 3, "bandit_heads": 4.2 / 3, "bandit_mask": 1.9 / 3, "endless": 3.0,
           "target": 0.0, "endless_target": 3.0, "memory_cue": 1.0}  # fmt: skip

CORRIDOR_STATES = 5
CORRIDOR_STEP_REWARD = -0.1
BANDIT_PAY = np.array([[1.0, 0.0, 0.6], [0.1, 0.9, 0.3], [0.4, 0.1, 0.8]])  # [context, arm]
BANDIT_SECOND_PAY = np.array([[0.0, 0.5], [0.5, 0.0], [0.2, 0.5]])  # [context, arm of the second head]
BANDIT_ALLOWED = np.array([[False, True, True], [True, True, True], [True, True, False]])  # [context, arm]


def tiny_config(task: str, policy_type: str, envs: int = 4, **changes: Any) -> dict[str, Any]:
    """Returns a small configuration for ``serial_pipeline``.

    Args:
        task: a key of ``TASKS``.
        policy_type: registered name of the policy.
        envs: number of collecting and of evaluating envs.
        changes: further keys, dotted with '__' for the dots (``policy__learn__batch_size=16``).
    """
    cfg: dict[str, Any] = {
        "env": {**TASKS[task], "actor_env_num": envs, "evaluator_env_num": envs},
        "policy": {"policy_type": policy_type},
        "evaluator": {"n_episode": 40, "eval_freq": 1_000_000},
        "seed": 0,
    }
    for key, value in changes.items():
        *path, last = key.split("__")
        node = cfg
        for part in path:
            node = node.setdefault(part, {})
        node[last] = copy.deepcopy(value)
    return cfg


def corridor_obs() -> np.ndarray:
    """Returns the observations of all states, [S, S]."""
    return np.eye(CORRIDOR_STATES, dtype=np.float32)


def corridor_q(gamma: float) -> np.ndarray:
    """Returns Q* [S, 2]: with k = S − s steps to go, Q*(s, right) = γ^(k−1) − 0.1·(1 − γ^k) / (1 − γ), and
    Q*(s, left) = −0.1 + γ·Q*(max(s − 1, 0), right)."""
    task = mdp.corridor(CORRIDOR_STATES)
    return mdp.optimal_values(task._replace(reward=task.reward + CORRIDOR_STEP_REWARD), gamma)[1]


def bandit_q(kind: str = "arms") -> np.ndarray:
    """Returns the reward of each action, [context, arm]; -inf where it is masked; [context, arm, arm of the second
    head] for ``'heads'``."""
    if kind == "heads":
        return BANDIT_PAY[:, :, None] + BANDIT_SECOND_PAY[:, None, :]
    return np.where(BANDIT_ALLOWED, BANDIT_PAY, -np.inf) if kind == "mask" else BANDIT_PAY


def bandit_best(kind: str = "arms") -> np.ndarray:
    """Returns the best action of each context, [context] or [context, heads]."""
    if kind == "heads":
        return np.stack([BANDIT_PAY.argmax(1), BANDIT_SECOND_PAY.argmax(1)], axis=1)
    return bandit_q(kind).argmax(1)


def endless_q(gamma: float) -> np.ndarray:
    """Returns Q* [2]: the time limit ends no task, so it is reward + γ / (1 − γ)."""
    return np.array([0.0, 1.0]) + gamma / (1 - gamma)


def target_action(x: np.ndarray) -> np.ndarray:
    """Returns the best action for observations ``x``."""
    return 0.5 * x


def target_q(x: np.ndarray, action: np.ndarray, gamma: float = 0.0, endless: bool = False) -> np.ndarray:
    """Returns Q*: -(a − x/2)², and if endless 1 + γ / (1 − γ) more."""
    return -((action - target_action(x)) ** 2) + (1 / (1 - gamma) if endless else 0.0)


class TinyEnv(BaseEnv):
    """What the envs here share. A step outside of an episode is an error, as is an action that the space lacks."""

    def __init__(self, cfg: dict[str, Any]) -> None:
        assert self.config_class is not None
        self.cfg = build(self.config_class, dict(cfg), ConfigSource({}, name=type(self).__name__), ("env",))
        self.rng = np.random.default_rng()
        self.count = 0
        self.running = False

    def seed(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def reset(self) -> Any:
        self.count, self.running = 0, True
        return self.begin()

    def step(self, action: Any) -> BaseEnvTimestep:
        if not self.running:
            raise SpecError(f"{self}: step() outside of an episode")
        self.count += 1
        obs, reward, terminated, truncated = self.move(action)
        done = terminated or truncated
        self.running = not done
        return BaseEnvTimestep(obs, float(reward), done, {"terminated": terminated, "truncated": truncated})

    def begin(self) -> Any:
        """Returns the first observation of an episode."""
        raise NotImplementedError

    def move(self, action: Any) -> tuple[Any, float, bool, bool]:
        """Returns ``(obs, reward, terminated, truncated)``."""
        raise NotImplementedError

    def arm(self, action: Any, number: int) -> int:
        if not 0 <= int(action) < number:
            raise SpecError(f"{self}: action {action} is not among {number}")
        return int(action)

    def close(self) -> None:
        self.running = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def _declared(obs: Any, action: EnvElementInfo) -> BaseEnvInfo:
    return BaseEnvInfo(1, obs, action, EnvElementInfo(1, {"dtype": np.float32}))


def _vector(size: int, low: float = 0.0) -> EnvElementInfo:
    return EnvElementInfo(size, {"min": low, "max": 1.0, "dtype": np.float32, "kind": "box"})


def _arms(*numbers: int) -> EnvElementInfo:
    kind = "discrete" if len(numbers) == 1 else "multi_discrete"
    shape = numbers[0] if len(numbers) == 1 else numbers
    return EnvElementInfo(shape, {"min": 0, "max": np.array(numbers) - 1, "dtype": np.int64, "kind": kind})


@dataclass(kw_only=True)
class CorridorConfig:
    time_limit: int = option(20, ge=1, doc="steps after which an episode is truncated")


class CorridorEnv(TinyEnv):
    """``oracles.mdp.corridor`` with -0.1 per step; episodes begin in any state. Observation: one-hot of the state."""

    config_class = CorridorConfig

    def begin(self) -> np.ndarray:
        self.state = int(self.rng.integers(CORRIDOR_STATES))
        return corridor_obs()[self.state]

    def move(self, action: Any) -> tuple[Any, float, bool, bool]:
        right = self.arm(action, 2) == 1
        terminated = right and self.state == CORRIDOR_STATES - 1
        self.state = min(self.state + 1, CORRIDOR_STATES - 1) if right else max(self.state - 1, 0)
        obs = corridor_obs()[self.state]
        truncated = not terminated and self.count >= self.cfg["time_limit"]
        return obs, terminated + CORRIDOR_STEP_REWARD, terminated, truncated

    def info(self) -> BaseEnvInfo:
        return _declared(_vector(CORRIDOR_STATES), _arms(2))


@dataclass(kw_only=True)
class BanditConfig:
    kind: Literal["arms", "heads", "mask"] = option("arms", doc="one head, two heads, or one with masked arms")


class BanditEnv(TinyEnv):
    """One step. Observation: one-hot of the context; with masks ``{'context', 'action_mask'}``."""

    config_class = BanditConfig

    def begin(self) -> Any:
        self.context = int(self.rng.integers(3))
        return self.obs()

    def obs(self) -> Any:
        row = np.eye(3, dtype=np.float32)[self.context]
        if self.cfg["kind"] != "mask":
            return row
        return {"context": row, "action_mask": BANDIT_ALLOWED[self.context].copy()}

    def move(self, action: Any) -> tuple[Any, float, bool, bool]:
        if self.cfg["kind"] == "heads":
            first, second = self.arm(action[0], 3), self.arm(action[1], 2)
            return self.obs(), BANDIT_PAY[self.context, first] + BANDIT_SECOND_PAY[self.context, second], True, False
        arm = self.arm(action, 3)
        if self.cfg["kind"] == "mask" and not BANDIT_ALLOWED[self.context, arm]:
            raise SpecError(f"{self}: arm {arm} is masked in context {self.context}")
        return self.obs(), BANDIT_PAY[self.context, arm], True, False

    def info(self) -> BaseEnvInfo:
        context: Any = _vector(3)
        if self.cfg["kind"] == "mask":
            mask = EnvElementInfo(3, {"min": False, "max": True, "dtype": np.bool_, "kind": "box"})
            context = {"context": context, "action_mask": mask}
        return _declared(context, _arms(3, 2) if self.cfg["kind"] == "heads" else _arms(3))


@dataclass(kw_only=True)
class EndlessConfig:
    time_limit: int = option(3, ge=1, doc="steps after which an episode is truncated")


class EndlessEnv(TinyEnv):
    """The action is the reward. Observation: 1, always."""

    config_class = EndlessConfig

    def begin(self) -> np.ndarray:
        return np.ones(1, np.float32)

    def move(self, action: Any) -> tuple[Any, float, bool, bool]:
        return self.begin(), self.arm(action, 2), False, self.count >= self.cfg["time_limit"]

    def info(self) -> BaseEnvInfo:
        return _declared(_vector(1), _arms(2))


@dataclass(kw_only=True)
class TargetConfig:
    endless: bool = option(False, doc="pay 1 more, and truncate after three steps in place of terminating after one")


class TargetEnv(TinyEnv):
    """Observation: x, drawn from [-1, 1] anew for each step. Actions are clipped to [-1, 1]."""

    config_class = TargetConfig

    def begin(self) -> np.ndarray:
        self.x = self.rng.uniform(-1, 1, 1).astype(np.float32)
        return self.x

    def move(self, action: Any) -> tuple[Any, float, bool, bool]:
        action = np.clip(np.asarray(action, np.float32).reshape(1), -1, 1)
        endless = self.cfg["endless"]
        reward = float(target_q(self.x, action)[0]) + endless
        return self.begin(), reward, not endless, endless and self.count >= 3

    def info(self) -> BaseEnvInfo:
        return _declared(_vector(1, -1.0), _vector(1, -1.0))


register_env("tiny_corridor", CorridorEnv)
register_env("tiny_bandit", BanditEnv)
register_env("tiny_endless", EndlessEnv)
register_env("tiny_target", TargetEnv)
