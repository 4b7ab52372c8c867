"""CartPole: push a cart left or right so that the pole on it stays up."""

from dataclasses import dataclass

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


class CartPoleEnv(GymnasiumEnv):
    """Observation float32 ``[4]``: cart position (m), cart velocity (m/s), pole angle (rad), its velocity (rad/s).

    Two actions: push left, push right. Reward 1 per step. Terminates when the pole falls or the cart leaves.
    """

    config_class = CartPoleEnvConfig


register_env("cartpole", CartPoleEnv)
