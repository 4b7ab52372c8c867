"""Pendulum: swing a pendulum up and hold it there by torque on its joint."""

from dataclasses import dataclass

from nervex.config.schema import option
from nervex.envs.gymnasium_env import GymnasiumEnv, GymnasiumMakeConfig
from nervex.envs.registry import register_env


@dataclass(kw_only=True)
class PendulumEnvConfig(GymnasiumMakeConfig):
    """Keys of ``env_type: pendulum``."""

    env_id: str = option("Pendulum-v1", doc="Ends after 200 steps.", choices=("Pendulum-v1",))
    use_act_scale: bool = option(True, doc="The agent acts in [-1, 1], scaled to the torque's [-2, 2] N·m.")


class PendulumEnv(GymnasiumEnv):
    """Observation float32 ``[3]``: cosine and sine of the angle, angular velocity (rad/s).

    Action float32 ``[1]``: torque. Reward -(angle² + 0.1·velocity² + 0.001·torque²). Never terminates: every episode
    is truncated after 200 steps.
    """

    config_class = PendulumEnvConfig

    @property
    def scale_action(self) -> bool:
        """Whether the agent acts in [-1, 1]: ``use_act_scale``."""
        return bool(self._cfg["use_act_scale"])


register_env("pendulum", PendulumEnv)
