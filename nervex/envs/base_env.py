"""The contract of an environment: four calls, an ``info()`` that declares its spaces, and 4-tuple timesteps."""

import copy
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np

from nervex.utils.errors import SpecError


class BaseEnvTimestep(NamedTuple):
    """What one env step returns.

    Attributes:
        obs: observation after the step; at an episode's end its true final observation.
        reward: reward of the step.
        done: the episode ended, terminated or truncated.
        info: ``truncated`` (bool) says that a time limit ended the episode; ``final_eval_reward`` (float) is the
            return of the episode, in the info of its last step (the sum of the rewards when absent).
    """

    obs: Any
    reward: Any
    done: Any
    info: dict[str, Any]


class EnvElementInfo(NamedTuple):
    """One element of an env's interface: an observation, an action or a reward.

    Attributes:
        shape: int for a one-dimensional space, a tuple otherwise; the number of actions of a discrete space; a tuple
            of those numbers for a multi-discrete one.
        value: ``{'min', 'max', 'dtype'}``, and ``'kind'``: ``'box'``, ``'discrete'``, ``'multi_discrete'`` or
            ``'multi_binary'``. Without a kind, an integer action is discrete and all else is a box.
        to_agent_processor: callable from env data to agent data, or None.
        from_agent_processor: callable from agent data to env data, or None.
    """

    shape: Any
    value: dict[str, Any]
    to_agent_processor: Any = None
    from_agent_processor: Any = None


class BaseEnvInfo(NamedTuple):
    """What an env declares about itself. A nested observation or action is a dict of ``EnvElementInfo``."""

    agent_num: int
    obs_space: Any
    act_space: Any
    rew_space: Any

    @property
    def obs_shape(self) -> Any:
        """Alias of ``obs_space``."""
        return self.obs_space

    @property
    def act_shape(self) -> Any:
        """Alias of ``act_space``."""
        return self.act_space


class LeafSpec(NamedTuple):
    """Array form of one element: what a row of its column looks like.

    Attributes:
        shape: shape of one row.
        dtype: numpy dtype of the column.
        low, high: bounds, broadcastable to ``shape`` (``-inf`` / ``inf`` where unbounded).
        kind: ``'box'``, ``'discrete'``, ``'multi_discrete'`` or ``'multi_binary'``.
        n: number of values of a discrete leaf, tuple of them for a multi-discrete one, else 0.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    low: Any
    high: Any
    kind: str
    n: Any = 0


def leaf_spec(element: EnvElementInfo, is_action: bool = False) -> LeafSpec:
    """Returns the array form of ``element``.

    Raises:
        SpecError: the element declares no dtype, or an unknown kind.
    """
    value = element.value
    if "dtype" not in value:
        raise SpecError(f"element {element} declares no dtype; add value['dtype'] in the env's info()")
    dtype = np.dtype(value["dtype"])
    low, high = value.get("min", -np.inf), value.get("max", np.inf)
    shape = element.shape if isinstance(element.shape, tuple) else (int(element.shape),)
    default = "discrete" if is_action and dtype.kind in "iu" and len(shape) == 1 else "box"
    kind = value.get("kind", default)
    if kind == "discrete":
        return LeafSpec((), np.dtype(np.int64), 0, int(shape[0]) - 1, kind, int(shape[0]))
    if kind == "multi_discrete":
        return LeafSpec((len(shape),), np.dtype(np.int64), 0, np.asarray(shape) - 1, kind, tuple(int(n) for n in shape))
    if kind in ("box", "multi_binary"):
        return LeafSpec(tuple(int(n) for n in shape), dtype, low, high, kind)
    raise SpecError(f"unknown kind '{kind}' of element {element}; expected box, discrete, multi_discrete, multi_binary")


def spec_tree(space: Any, is_action: bool = False) -> Any:
    """Returns ``space`` (an element or a nested dict of elements) with every element in its array form.

    Raises:
        SpecError: a key cannot name a column, or an element is not declared fully.
    """
    if isinstance(space, dict):
        for key in space:
            if not isinstance(key, str) or "/" in key:
                raise SpecError(f"key {key!r} of a nested space is no column name; use text without '/'")
        return {k: spec_tree(v, is_action) for k, v in space.items()}
    return leaf_spec(space, is_action)


class BaseEnv(ABC):
    """A single environment. Subclasses create the simulator at the first ``reset``, not in ``__init__``: one instance
    is built only to be asked for its ``info()``.

    ``config_class`` may name a dataclass that declares the env's own config keys; without it they are not checked.
    """

    timestep = BaseEnvTimestep
    info_template = BaseEnvInfo
    config_class: type | None = None

    @abstractmethod
    def __init__(self, cfg: dict[str, Any]) -> None: ...

    @abstractmethod
    def reset(self) -> Any:
        """Starts an episode and returns its first observation."""

    @abstractmethod
    def step(self, action: Any) -> BaseEnvTimestep:
        """Applies ``action`` and returns the timestep."""

    @abstractmethod
    def seed(self, seed: int) -> None:
        """Makes the next ``reset`` start the episode of this seed."""

    @abstractmethod
    def close(self) -> None:
        """Frees the simulator."""

    @abstractmethod
    def info(self) -> BaseEnvInfo:
        """Returns the declaration of the env's spaces, without a simulator being needed for long."""

    @abstractmethod
    def __repr__(self) -> str: ...

    @staticmethod
    def create_actor_env_cfg(cfg: dict[str, Any]) -> list[dict[str, Any]]:
        """Returns one config per collecting env (``actor_env_num`` of them), none sharing data with another."""
        return _replicate(cfg, "actor_env_num")

    @staticmethod
    def create_evaluator_env_cfg(cfg: dict[str, Any]) -> list[dict[str, Any]]:
        """Returns one config per evaluating env (``evaluator_env_num`` of them), none sharing data with another."""
        return _replicate(cfg, "evaluator_env_num")


def _replicate(cfg: dict[str, Any], num_key: str) -> list[dict[str, Any]]:
    own = {k: v for k, v in cfg.items() if k not in ("actor_env_num", "evaluator_env_num")}
    return [copy.deepcopy(own) for _ in range(cfg.get(num_key, 1))]
