"""MountainCar: rock a weak car out of a valley, with three pushes or with a continuous force."""

from dataclasses import dataclass

from nervex.config.schema import option
from nervex.envs.gymnasium_env import GymnasiumEnv, GymnasiumMakeConfig
from nervex.envs.registry import register_env


@dataclass(kw_only=True)
class MountainCarEnvConfig(GymnasiumMakeConfig):
    """Keys of ``env_type: mountaincar``."""

    continuous: bool = option(
        False,
        doc="MountainCarContinuous-v0 (force in [-1, 1], 999 steps, solved at 90) in place of MountainCar-v0 (three "
        "pushes, 200 steps, solved at -110).",
    )


class MountainCarEnv(GymnasiumEnv):
    """Observation float32 ``[2]``: position, velocity. Terminates at the flag.

    Discrete: three actions (push left, none, push right), reward -1 per step. Continuous: action float32 ``[1]``,
    reward -0.1·action² per step and 100 at the flag.
    """

    config_class = MountainCarEnvConfig

    @property
    def env_id(self) -> str:
        """Id of the env in Gymnasium's registry, by ``continuous``."""
        return "MountainCarContinuous-v0" if self._cfg["continuous"] else "MountainCar-v0"

    @property
    def scale_action(self) -> bool:
        """Whether the agent acts in [-1, 1], which is the range of the continuous force itself."""
        return True


register_env("mountaincar", MountainCarEnv)
