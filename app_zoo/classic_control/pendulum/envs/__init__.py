"""The env of Pendulum; importing this package registers it as ``env_type: pendulum``."""

from app_zoo.classic_control.pendulum.envs.pendulum_env import PendulumEnv

__all__ = ["PendulumEnv"]
