"""Acrobot: swing the end of a two-link pendulum above a height by torque on the middle joint."""

from dataclasses import dataclass

from nervex.config.schema import option
from nervex.envs.gymnasium_env import GymnasiumEnv, GymnasiumEnvConfig
from nervex.envs.registry import register_env


@dataclass(kw_only=True)
class AcrobotEnvConfig(GymnasiumEnvConfig):
    """Keys of ``env_type: acrobot``."""

    env_id: str = option("Acrobot-v1", doc="Ends after 500 steps (solved at -100).", choices=("Acrobot-v1",))


class AcrobotEnv(GymnasiumEnv):
    """Observation float32 ``[6]``: cosine and sine of both joint angles, both angular velocities (rad/s).

    Three actions: torque -1, 0, 1 (N·m). Reward -1 per step, 0 on the step that reaches the height and terminates.
    """

    config_class = AcrobotEnvConfig


register_env("acrobot", AcrobotEnv)
