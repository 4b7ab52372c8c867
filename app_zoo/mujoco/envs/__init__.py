"""The env of the MuJoCo robots; importing this package registers it as ``env_type: mujoco``."""

from app_zoo.mujoco.envs.mujoco_env import MujocoEnv

__all__ = ["MujocoEnv"]
