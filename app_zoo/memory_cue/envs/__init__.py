"""The env of the memory cue; importing this package registers it as ``env_type: memory_cue``."""

from app_zoo.memory_cue.envs.memory_cue_env import MemoryCueEnv

__all__ = ["MemoryCueEnv"]
