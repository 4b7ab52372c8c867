"""MuJoCo robots in EnvPool."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from nervex.envs.vector_env import ACT, VectorEnv, VectorStep
from nervex.worker.actor.env_manager.envpool_engine import EnvPoolEngine


class MujocoPool(VectorEnv):
    """``B`` robots of one kind in EnvPool, whose task has the id and the numbers of Gymnasium's.

    EnvPool seeds a robot when the pool is made and never again; what it does not offer is Gymnasium's wrappers, the
    frames of a camera, and coming back to a saved state.

    Args:
        env_id: as ``'HalfCheetah-v5'``.
        lane_num: number of robots.
        options: keyword arguments of the robot.
        scale_action: actions come in [-1, 1] and are scaled to the motors' range.
    """

    seeded = False

    def __init__(self, env_id: str, lane_num: int, options: Mapping[str, Any], scale_action: bool) -> None:
        self._engine = EnvPoolEngine(env_id, lane_num, dict(options))
        self._scale = scale_action
        self._low = self._high = np.zeros(0)

    def reset(self, seed: np.ndarray, out: np.ndarray) -> None:
        """See ``VectorEnv``."""
        out[:], _ = self._engine.reset(seed)
        space = self._engine.action_space
        self._low, self._high = space.low.astype(np.float64), space.high.astype(np.float64)

    def step(self, action: np.ndarray, lane_id: np.ndarray, seed: np.ndarray, out: np.ndarray) -> VectorStep:
        """See ``VectorEnv``."""
        motors = action.astype(np.float64)
        if self._scale:
            motors = (self._high + self._low) / 2 + (self._high - self._low) / 2 * motors
            motors = np.clip(motors, self._low, self._high)
        step = self._engine.step(motors, lane_id)
        out[lane_id] = step.obs
        acts = seed == ACT
        terminated = step.terminated & acts
        truncated = step.truncated & acts & ~terminated
        info = {
            row: {"terminated": bool(terminated[row]), "truncated": bool(truncated[row])}
            for row in np.flatnonzero(terminated | truncated).tolist()
        }
        return VectorStep(np.where(acts, step.reward, 0.0), terminated, truncated, None, None, info)

    def close(self) -> None:
        """See ``VectorEnv``."""
        self._engine.close()
