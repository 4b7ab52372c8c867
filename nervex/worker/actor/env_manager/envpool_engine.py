"""EnvPool, the one place that imports it: pools of envs that are seeded when they are made."""

import importlib
from typing import Any, NamedTuple

import numpy as np

from nervex.utils.errors import ConfigError, MissingExtraError, did_you_mean

_SEED_MASK = 0x7FFFFFFF


class PoolStep(NamedTuple):
    """Rows of the lanes asked, in their order: arrays ``[b, ...]``, and EnvPool's own ``info`` of such arrays."""

    obs: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    info: dict[str, Any]


class EnvPoolEngine:
    """``B`` envs of an EnvPool task in step; some of them may step without the others.

    EnvPool takes seeds when a pool is made and at no other time: ``reset`` makes a new one, and what follows an
    episode's end goes on from the env's own generator.

    Args:
        task_id: as in EnvPool's list, ``'Pong-v5'``.
        env_num: number of envs.
        options: keyword arguments of the task.

    Raises:
        MissingExtraError: EnvPool is not installed.
        ConfigError: EnvPool has no such task.
    """

    def __init__(self, task_id: str, env_num: int, options: dict[str, Any]) -> None:
        try:
            self._envpool: Any = importlib.import_module("envpool")  # takes seconds: only where it is used
        except ImportError as e:
            raise MissingExtraError(
                "env.backend 'envpool' needs the package envpool, which is not installed; run: pip install "
                '"nervex[envpool]"'
            ) from e
        known = self._envpool.list_all_envs()
        if task_id not in known:
            raise ConfigError(f"EnvPool has no task '{task_id}'{did_you_mean(task_id, known)}; use another env.backend")
        self._task_id = task_id
        self._env_num = env_num
        self._options = options
        self._pool: Any = None

    @property
    def action_space(self) -> Any:
        """Gymnasium space of one env's action; there is one after the first ``reset``."""
        return self._pool.action_space

    def reset(self, seed: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
        """Makes a pool of these seeds, int64 ``[B]``, and returns its first observations and info.

        Raises:
            ConfigError: EnvPool does not take the options.
        """
        self.close()
        seeds = [int(s) & _SEED_MASK for s in seed]
        try:
            self._pool = self._envpool.make(
                self._task_id, env_type="gymnasium", num_envs=self._env_num, seed=seeds, **self._options
            )
        except (TypeError, ValueError, AssertionError, KeyError) as e:
            raise ConfigError(
                f"EnvPool cannot make '{self._task_id}' with {self._options}: {type(e).__name__}: {e}"
            ) from e
        obs, info = self._pool.reset()
        return obs, info

    def begin(self, lane_id: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins new episodes in some lanes and returns their observations and info."""
        obs, info = self._pool.reset(lane_id.astype(np.int32))
        assert (info["env_id"] == lane_id).all()
        return obs, info

    def step(self, action: np.ndarray, lane_id: np.ndarray) -> PoolStep:
        """Steps lanes; one whose last step ended its episode begins the next one, and its action is ignored."""
        step = PoolStep(*self._pool.step(action, lane_id.astype(np.int32)))
        assert (step.info["env_id"] == lane_id).all()
        return step

    def close(self) -> None:
        """Frees the pool."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()
