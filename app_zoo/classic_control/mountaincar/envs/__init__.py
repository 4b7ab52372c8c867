"""The env of MountainCar; importing this package registers it as ``env_type: mountaincar``."""

from app_zoo.classic_control.mountaincar.envs.mountaincar_env import MountainCarEnv

__all__ = ["MountainCarEnv"]
