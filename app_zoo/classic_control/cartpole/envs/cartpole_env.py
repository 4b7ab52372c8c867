"""CartPole: push a cart left or right so that the pole on it stays up."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from nervex.config.schema import option
from nervex.envs.gymnasium_env import GymnasiumEnv, GymnasiumEnvConfig
from nervex.envs.registry import register_env


@dataclass(kw_only=True)
class CartPoleEnvConfig(GymnasiumEnvConfig):
    """Keys of ``env_type: cartpole``."""

    env_id: str = option(
        "CartPole-v1",
        doc="CartPole-v1 ends after 500 steps (solved at 475), CartPole-v0 after 200 (solved at 195).",
        choices=("CartPole-v1", "CartPole-v0"),
    )
    mask_velocity: bool = option(
        False, doc="Leave both velocities out of the observation: a policy needs memory to keep the pole up."
    )


class PositionOnly(gymnasium.ObservationWrapper):
    """CartPole's observation without the velocities: float32 ``[2]``, cart position (m) and pole angle (rad)."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        space = env.observation_space
        assert isinstance(space, gymnasium.spaces.Box)
        self.observation_space = gymnasium.spaces.Box(space.low[::2], space.high[::2], dtype=np.float32)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return observation[::2]


class CartPoleEnv(GymnasiumEnv):
    """Observation float32 ``[4]``: cart position (m), cart velocity (m/s), pole angle (rad), its velocity (rad/s); with
    ``mask_velocity`` float32 ``[2]``: position and angle.

    Two actions: push left, push right. Reward 1 per step. Terminates when the pole falls or the cart leaves.
    """

    config_class = CartPoleEnvConfig

    def __init__(self, cfg: Mapping[str, Any]) -> None:
        super().__init__(cfg)
        if self._cfg["mask_velocity"]:
            self._cfg["wrappers"] = [f"{__name__}:{PositionOnly.__name__}", *self._cfg["wrappers"]]


register_env("cartpole", CartPoleEnv)
