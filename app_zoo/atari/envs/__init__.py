"""The env of the Atari games; importing this package registers it as ``env_type: atari``."""

from app_zoo.atari.envs.atari_env import AtariEnv

__all__ = ["AtariEnv"]
