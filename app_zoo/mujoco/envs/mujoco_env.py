"""The MuJoCo robots of Gymnasium, in Gymnasium or in EnvPool."""

import logging
import os
import sys
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import gymnasium

from app_zoo.mujoco.envs.mujoco_pool import MujocoPool
from nervex.config.schema import option
from nervex.envs.gymnasium_env import GymnasiumEnv, GymnasiumMakeConfig
from nervex.envs.registry import register_env
from nervex.utils.errors import ConfigError, MissingExtraError

_ROBOTS = (
    "Ant", "HalfCheetah", "Hopper", "Humanoid", "HumanoidStandup", "InvertedDoublePendulum", "InvertedPendulum",
    "Pusher", "Reacher", "Swimmer", "Walker2d",
)  # fmt: skip


@dataclass(kw_only=True)
class MujocoEnvConfig(GymnasiumMakeConfig):
    """Keys of ``env_type: mujoco``; ``make_kwargs`` are those of the robot (``ctrl_cost_weight``, ...) and
    ``max_episode_steps``."""

    env_id: str = option(
        doc="Robot, in the fifth version of its rewards and observations.",
        choices=tuple(f"{robot}-v5" for robot in _ROBOTS),
    )
    scale_action: bool = option(True, doc="The agent acts in [-1, 1], scaled to the range of the motors.")
    backend: str = option(
        "gymnasium",
        doc="Engine: envpool is the one of env_manager_type: vector, gymnasium that of all others.",
        choices=("gymnasium", "envpool"),
    )


class MujocoEnv(GymnasiumEnv):
    """One robot (Todorov et al. 2012, https://doi.org/10.1109/IROS.2012.6386109; tasks of Gymnasium, version 5).

    Observation float32, action float32 ``[motors]`` in [-1, 1]. Hopper, Walker2d, Ant and the humanoid terminate when
    they fall, the pendulums when they drop; every episode is truncated at its time limit (1000 steps; Reacher 50,
    Pusher 100).

    Raises:
        MissingExtraError: MuJoCo is not installed, when the simulator is made.
    """

    config_class = MujocoEnvConfig

    @classmethod
    def create_vector(cls, cfgs: list[dict[str, Any]]) -> MujocoPool:
        """Returns one EnvPool of all envs, which must have the same configuration.

        Raises:
            ConfigError: ``backend`` is not ``envpool``, wrappers are asked for, or the configurations differ.
            MissingExtraError: EnvPool is not installed.
        """
        checked = [cls(cfg)._cfg for cfg in cfgs]
        cfg = checked[0]
        if any(other != cfg for other in checked):
            raise ConfigError("the envs of one native vector have the same configuration; got different ones")
        if cfg["backend"] != "envpool":
            raise ConfigError(
                f"env.env_manager_type 'vector' steps MuJoCo in EnvPool, env.backend is '{cfg['backend']}'; set "
                "env.backend to 'envpool', or env.env_manager_type to 'base' or 'sync_subprocess'"
            )
        if cfg["wrappers"]:
            raise ConfigError("env.wrappers are Gymnasium's, and EnvPool takes none; leave them out or change backend")
        return MujocoPool(cfg["env_id"], len(cfgs), cfg["make_kwargs"], cfg["scale_action"])

    def _made(self) -> gymnasium.Env:
        if self._env is None:
            missing = [name for name in ("mujoco", "imageio") if find_spec(name) is None]
            if missing:
                raise MissingExtraError(
                    f"env '{self.env_id}' needs the package {missing[0]}, which is not installed; run: pip install "
                    '"nervex[mujoco]"'
                )
            _log_warnings()
            if self._cfg["render_mode"] is not None and sys.platform == "linux":
                os.environ.setdefault("MUJOCO_GL", "egl")  # draws without a screen
        return super()._made()


def _log_warnings() -> None:
    """Sends MuJoCo's warnings to the log, once each, in place of a line on the terminal and in a file for every env."""
    mujoco = import_module("mujoco")
    if mujoco.get_mju_user_warning() is None:
        mujoco.set_mju_user_warning(_log_warning)


@cache
def _log_warning(text: str) -> None:
    # what is deprecated stands in Gymnasium's files of the robots, not in the user's
    logging.getLogger("nervex").log(logging.DEBUG if "deprecated" in text else logging.WARNING, "MuJoCo: %s", text)


register_env("mujoco", MujocoEnv)
