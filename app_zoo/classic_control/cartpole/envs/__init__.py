"""The env of CartPole; importing this package registers it as ``env_type: cartpole``."""

from app_zoo.classic_control.cartpole.envs.cartpole_env import CartPoleEnv

__all__ = ["CartPoleEnv"]
