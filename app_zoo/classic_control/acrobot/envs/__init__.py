"""The env of Acrobot; importing this package registers it as ``env_type: acrobot``."""

from app_zoo.classic_control.acrobot.envs.acrobot_env import AcrobotEnv

__all__ = ["AcrobotEnv"]
