"""The memory cue: the action that pays at the end of the episode is told at its start, and never again."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nervex.config.schema import build, option
from nervex.config.source import ConfigSource
from nervex.envs.base_env import BaseEnv, BaseEnvInfo, BaseEnvTimestep, EnvElementInfo
from nervex.envs.registry import register_env
from nervex.utils.errors import ConfigError, EnvFault, SpecError

_CELL = 32  # pixels
_WHITE, _GRAY = 255, 90


@dataclass(kw_only=True)
class MemoryCueEnvConfig:
    """Keys of ``env_type: memory_cue``."""

    delay: int = option(20, ge=1, unit="env steps", doc="From the cue to the step whose action counts.")
    cue_num: int = option(2, ge=2, doc="Number of cues, and of actions.")
    render_mode: str | None = option(None, doc="Makes render() work.", choices=(None, "rgb_array"))


class MemoryCueEnv(BaseEnv):
    """Observation float32 ``[cue_num + 2]``: the cue as one-hot (in the first row of an episode only), a flag that the
    next action counts, and a constant 1.

    An episode has ``delay + 1`` steps and then terminates. Its reward is 1 where the last action is the index of the
    cue; all other rewards are 0. So the optimal return is 1, and that of any policy without memory 1 / ``cue_num``.
    Cues are drawn uniformly.

    Args:
        cfg: keys of ``MemoryCueEnvConfig``; missing ones take their defaults.

    Raises:
        ConfigError: an unknown key or a wrong value.
    """

    config_class = MemoryCueEnvConfig

    def __init__(self, cfg: Mapping[str, Any]) -> None:
        self._cfg = build(self.config_class, dict(cfg), ConfigSource({}, name="the config of MemoryCueEnv"), ("env",))
        self._delay: int = self._cfg["delay"]
        self._cue_num: int = self._cfg["cue_num"]
        self._rng = np.random.default_rng()
        self._cue = 0
        self._count: int | None = None  # steps of the episode, None before the first

    def reset(self) -> np.ndarray:
        """Starts an episode and returns its first observation."""
        self._cue = int(self._rng.integers(self._cue_num))
        self._count = 0
        return self._obs()

    def step(self, action: Any) -> BaseEnvTimestep:
        """Applies ``action`` (0 to ``cue_num`` - 1) and returns the timestep.

        Raises:
            EnvFault: no episode is under way.
            SpecError: there is no such action.
        """
        if self._count is None or self._count > self._delay:
            raise EnvFault("memory_cue: step() without an episode under way; call reset() first")
        if not 0 <= int(action) < self._cue_num:
            raise SpecError(f"memory_cue: action {action} is not among its {self._cue_num} actions")
        done = self._count == self._delay
        reward = float(done and int(action) == self._cue)
        self._count += 1
        info = {"terminated": done, "truncated": False, **({"final_eval_reward": reward} if done else {})}
        return BaseEnvTimestep(self._obs(), reward, done, info)

    def seed(self, seed: int) -> None:
        """Makes the next ``reset`` start the episode of this seed; later resets go on from there."""
        self._rng = np.random.default_rng(seed)

    def render(self) -> np.ndarray:
        """Returns a frame, uint8 ``[64, W, 3]``: a cell per action above, white where the observation holds the cue,
        and the time that has passed below, white from the step on whose action counts.

        Raises:
            ConfigError: ``render_mode`` is not set.
        """
        if self._cfg["render_mode"] is None:
            raise ConfigError("memory_cue was made without frames; set env.render_mode to 'rgb_array'")
        count = self._count or 0
        frame = np.zeros((2 * _CELL, self._cue_num * _CELL, 3), np.uint8)
        for i in range(self._cue_num):
            shown = count == 0 and i == self._cue
            frame[4 : _CELL - 4, i * _CELL + 4 : (i + 1) * _CELL - 4] = _WHITE if shown else _GRAY
        passed = frame.shape[1] * min(count, self._delay) // self._delay
        frame[_CELL + 8 : 2 * _CELL - 8, :passed] = _WHITE if count >= self._delay else _GRAY
        return frame

    def close(self) -> None:
        """Nothing to free."""

    def info(self) -> BaseEnvInfo:
        """Returns the declaration of the spaces."""
        obs = EnvElementInfo(self._cue_num + 2, {"min": 0, "max": 1, "dtype": np.float32, "kind": "box"})
        last = self._cue_num - 1
        action = EnvElementInfo(self._cue_num, {"min": 0, "max": last, "dtype": np.int64, "kind": "discrete"})
        return BaseEnvInfo(1, obs, action, EnvElementInfo(1, {"min": 0, "max": 1, "dtype": np.float32}))

    def __repr__(self) -> str:
        return f"MemoryCueEnv(delay={self._delay}, cue_num={self._cue_num})"

    def _obs(self) -> np.ndarray:
        obs = np.zeros(self._cue_num + 2, np.float32)
        if self._count == 0:
            obs[self._cue] = 1.0
        obs[-2] = self._count == self._delay
        obs[-1] = 1.0
        return obs


register_env("memory_cue", MemoryCueEnv)
