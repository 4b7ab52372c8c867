"""Gymnasium's own vector envs (array code of many envs at once) as engines of the manager ``vector``."""

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.utils.seeding import np_random

from nervex.envs.vector_env import ACT, VectorEnv, VectorStep
from nervex.utils.errors import ConfigError

_START_BOUND = 0.05  # of each number of CartPole's first state


class CartPoleVector(VectorEnv):
    """CartPole as Gymnasium's array code, in which a step of 8 or of 64 poles takes the same time.

    Gymnasium seeds and steps all poles together; here each has its own seeds and may step alone, because state and
    step count of a pole are a column of the env's arrays: an idle pole's is put back, and a new episode's is what
    Gymnasium's single env draws from the same seed.

    Args:
        env: Gymnasium's vector env.
        lane_num: number of poles.
    """

    def __init__(self, env: CartPoleVectorEnv, lane_num: int) -> None:
        self._env: Any = env
        self._all = np.arange(lane_num)
        self._action = np.zeros(lane_num, np.int64)

    def reset(self, seed: np.ndarray, out: np.ndarray) -> None:
        """See ``VectorEnv``."""
        self._env.reset()
        self._begin(self._all, seed)
        out[:] = self._env.state.T

    def step(self, action: np.ndarray, lane_id: np.ndarray, seed: np.ndarray, out: np.ndarray) -> VectorStep:
        """See ``VectorEnv``."""
        env = self._env
        idle = None
        if len(lane_id) < len(self._all):
            idle = np.delete(self._all, lane_id)
            state, steps = env.state[:, idle], env.steps[idle]
        self._action[lane_id] = action
        _, reward, terminated, truncated, _ = env.step(self._action)
        env.prev_done[:] = False  # it would begin episodes from a seed of its own
        if idle is not None:
            env.state[:, idle], env.steps[idle] = state, steps
            reward, terminated, truncated = reward[lane_id], terminated[lane_id], truncated[lane_id]
        begins = seed != ACT
        if np.count_nonzero(begins):
            self._begin(lane_id[begins], seed[begins])
            reward[begins], terminated[begins], truncated[begins] = 0, False, False
        if idle is None and np.array_equal(lane_id, self._all):
            out[:] = env.state.T
        else:
            out[lane_id] = env.state.T[lane_id]
        truncated = truncated & ~terminated
        info = {
            row: {"terminated": bool(terminated[row]), "truncated": bool(truncated[row])}
            for row in np.flatnonzero(terminated | truncated).tolist()
        }
        return VectorStep(reward, terminated, truncated, None, None, info)

    def close(self) -> None:
        """See ``VectorEnv``."""
        self._env.close()

    def _begin(self, lane_id: np.ndarray, seed: np.ndarray) -> None:
        for lane, number in zip(lane_id.tolist(), seed.tolist(), strict=True):
            self._env.state[:, lane] = np_random(number)[0].uniform(-_START_BOUND, _START_BOUND, size=4)
        self._env.steps[lane_id] = 0


def gymnasium_vector(env_id: str, lane_num: int, make_kwargs: Mapping[str, Any], wrappers: list[Any]) -> VectorEnv:
    """Returns Gymnasium's own vector env of an id as an engine.

    Raises:
        ConfigError: the id has none that can be seeded lane by lane, or wrappers are asked for.
    """
    spec = gymnasium.registry.get(env_id)
    if spec is None or not str(spec.vector_entry_point).endswith("CartPoleVectorEnv"):
        raise ConfigError(
            f"env '{env_id}' has no native vector of its own, which env.env_manager_type 'vector' needs; use 'base' or "
            "'sync_subprocess'"
        )
    if wrappers:
        raise ConfigError("env.wrappers wrap single envs, and env.env_manager_type 'vector' has none; use 'base'")
    kwargs = dict(make_kwargs)
    try:
        env = gymnasium.make_vec(env_id, lane_num, vectorization_mode="vector_entry_point", **kwargs)
    except (gymnasium.error.Error, TypeError, ValueError) as e:
        raise ConfigError(f"env '{env_id}' cannot be made with {kwargs}: {type(e).__name__}: {e}") from e
    assert isinstance(env.unwrapped, CartPoleVectorEnv)
    return CartPoleVector(env.unwrapped, lane_num)
