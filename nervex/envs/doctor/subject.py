"""An env under examination: Gymnasium's or a ``BaseEnv``, played through the same three calls, each looked at."""

import contextlib
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from nervex.envs.base_env import BaseEnvTimestep, spec_tree
from nervex.envs.doctor.finding import ERROR, NOTE, WARNING, Broken, Findings
from nervex.envs.doctor.spaces import gymnasium_spec, problems
from nervex.envs.gymnasium_spaces import action_codec, observation_codec
from nervex.utils.errors import NerveXError, SpecError


class Step(NamedTuple):
    """What a step gave; both flags may be set, which is then a finding."""

    obs: Any
    reward: float
    terminated: bool
    truncated: bool
    info: Mapping[str, Any]


class Clock:
    """Seconds of every call of the env while it is on, and the call that is under way (for the watchdog)."""

    def __init__(self) -> None:
        self.build: list[float] = []
        self.reset: list[float] = []
        self.step: list[float] = []
        self.running: tuple[str, float] | None = None
        self.on = True


class Subject:
    """One instance of the env.

    Args:
        env: a ``gymnasium.Env`` or a ``BaseEnv``.
        findings: where what is wrong goes.
        clock: where seconds go.

    Attributes:
        obs_spec, action_spec: trees of ``LeafSpec``.
        resets_inside: how often the env called its own ``reset`` during a step.
    """

    def __init__(self, env: Any, findings: Findings, clock: Clock) -> None:
        self.findings, self._clock = findings, clock
        self.env = env
        self.is_gymnasium = isinstance(env, gymnasium.Env)
        self.bare = env.unwrapped if self.is_gymnasium else env
        self.episode, self.count = -1, 0
        self.resets_inside = 0
        self._stepping = False
        self._seed: int | None = None
        self._read_spaces()

    def _read_spaces(self) -> None:
        if self.is_gymnasium:
            try:
                spaces = self.env.observation_space, self.env.action_space
                observation_codec(spaces[0], "observation space")
                action_codec(spaces[1], "action space")
            except (NerveXError, AttributeError, TypeError) as e:
                raise self._broken("space", f"the spaces cannot be used: {e}", "declare both in __init__") from e
            self.obs_spec, self.action_spec = map(gymnasium_spec, spaces)
            return
        info = self._call("info()", self.env.info)
        if not hasattr(info, "obs_space") or not hasattr(info, "act_space"):
            raise self._broken("space", f"info() returned a {type(info).__name__}", "return a BaseEnvInfo")
        try:
            self.obs_spec, self.action_spec = spec_tree(info.obs_space), spec_tree(info.act_space, is_action=True)
        except (SpecError, TypeError, ValueError, AttributeError) as e:
            raise self._broken("space", f"info() declares no usable spaces: {e}", "declare shape and dtype") from e
        self.reward_bounds = _reward_bounds(info)

    def watch_resets(self) -> None:
        """Counts the calls of ``reset`` that the env makes itself during a step."""
        inner = self.bare.reset

        def watched(*args: Any, **kwargs: Any) -> Any:
            self.resets_inside += self._stepping
            return inner(*args, **kwargs)

        with contextlib.suppress(AttributeError):  # an env with slots cannot be watched
            self.bare.reset = watched

    def reset(self, seed: int | None = None) -> Any:
        """Begins an episode (of this seed) and returns its first observation.

        Raises:
            Broken: nothing can be played.
        """
        self.episode, self.count = self.episode + 1, 0
        if self.is_gymnasium:
            obs = self._gymnasium_reset(seed)
        else:
            if seed is not None:
                self._call("seed()", self.env.seed, seed)
            obs = self._call("reset()", self.env.reset, times=self._clock.reset)
            if isinstance(obs, tuple) and obs and isinstance(obs[-1], Mapping):
                raise self._broken(
                    "reset-return",
                    f"reset() returned a tuple of {len(obs)} that ends in a dict",
                    "return the observation alone, as BaseEnv.reset does",
                )
        self._look("reset()", obs)
        return obs

    def _gymnasium_reset(self, seed: int | None) -> Any:
        result = self._call("reset()", self.env.reset, times=self._clock.reset, seed=seed)
        if not (isinstance(result, tuple) and len(result) == 2):
            got = f"a tuple of {len(result)}" if isinstance(result, tuple) else f"a {type(result).__name__}"
            raise self._broken("reset-return", f"reset() returned {got}, Gymnasium has (obs, info)", "return obs, {}")
        if not isinstance(result[1], Mapping):
            raise self._broken("reset-return", f"the info of reset() is a {type(result[1]).__name__}", "return obs, {}")
        return result[0]

    def step(self, action: Any) -> Step:
        """Applies ``action`` and returns what came.

        Raises:
            Broken: the env raised, or what came is no timestep.
        """
        self.count += 1
        self._stepping = True
        result = self._call("step()", self.env.step, action, times=self._clock.step)
        self._stepping = False
        step = self._from_gymnasium(result) if self.is_gymnasium else self._from_base(result)
        self._look("step()", step.obs)
        return step

    def _from_gymnasium(self, result: Any) -> Step:
        if not isinstance(result, tuple) or len(result) != 5:
            got = f"{len(result)} values" if isinstance(result, tuple) else f"a {type(result).__name__}"
            raise self._broken(
                "step-return",
                f"step() returned {got}, Gymnasium has 5: obs, reward, terminated, truncated, info",
                "return the five (the old Gym had four)",
            )
        obs, reward, terminated, truncated, info = result
        if not isinstance(info, Mapping):
            raise self._broken("info", f"the info of {self.where()} is a {type(info).__name__}", "return a dict")
        return Step(
            obs, self._reward(reward), self._flag(terminated, "terminated"), self._flag(truncated, "truncated"), info
        )

    def _from_base(self, result: Any) -> Step:
        if not isinstance(result, tuple) or len(result) != 4:
            got = f"{len(result)} values" if isinstance(result, tuple) else f"a {type(result).__name__}"
            raise self._broken(
                "step-return",
                f"step() returned {got}, BaseEnv has 4",
                "return BaseEnvTimestep(obs, reward, done, info)",
            )
        obs, reward, done, info = BaseEnvTimestep(*result)
        if not isinstance(info, Mapping):
            raise self._broken("info", f"the info of {self.where()} is a {type(info).__name__}", "return a dict")
        done = self._flag(done, "done")
        truncated = self._flag(info.get("truncated", False), "info['truncated']")
        terminated = self._flag(info.get("terminated", done and not truncated), "info['terminated']")
        if done != (terminated or truncated):
            self.findings.add(
                ERROR,
                "end-flags",
                f"{self.where()} has done={done} with terminated={terminated} and truncated={truncated}",
                "done must be their union: set info['truncated'] on the last step only",
            )
            terminated, truncated = done and not truncated, done and truncated
        if "TimeLimit.truncated" in info and "truncated" not in info:
            self.findings.add(
                WARNING,
                "old-truncated",
                f"the info of {self.where()} has 'TimeLimit.truncated', which is not read",
                "call it 'truncated'",
            )
        return Step(obs, self._reward(reward), terminated, truncated, info)

    def close(self) -> None:
        """Closes the env."""
        self._call("close()", self.env.close)

    def where(self) -> str:
        """Returns the place in words."""
        return f"episode {self.episode}, step {self.count}"

    def _look(self, call: str, obs: Any) -> None:
        for level, kind, what, fix in problems(self.obs_spec, obs, "obs", self.is_gymnasium):
            self.findings.add(level, kind, f"{call} sent in {self.where()}: {what}", fix)
            if kind in ("obs-keys", "obs-shape") or (kind == "obs-type" and level == ERROR):
                raise Broken

    def _reward(self, value: Any) -> float:
        plain = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
        if not plain:
            self._odd_reward(value)
        number = float(np.asarray(value).reshape(-1)[0])
        if isinstance(value, np.unsignedinteger) and number > np.iinfo(value.dtype).max // 2:
            self.findings.add(
                WARNING,
                "reward-wraps",
                f"the reward of {self.where()} is {number:.0f} in {value.dtype}, which has no negative numbers: "
                f"-{np.iinfo(value.dtype).max + 1 - number:.0f} would look like that",
                "compute rewards in int or float",
            )
        if not np.isfinite(number):
            self.findings.add(
                ERROR,
                "reward-finite",
                f"the reward of {self.where()} is {number}",
                "find the division, root or overflow that makes it",
            )
        bounds = None if self.is_gymnasium else self.reward_bounds
        if bounds is not None and not bounds[0] - 1e-5 <= number <= bounds[1] + 1e-5 and np.isfinite(number):
            self.findings.add(
                WARNING,
                "reward-bounds",
                f"the reward of {self.where()} is {number:.6g}, rew_space declares [{bounds[0]:.6g}, {bounds[1]:.6g}]",
                "correct rew_space in info()",
            )
        return number

    def _odd_reward(self, value: Any) -> None:
        try:
            array = np.asarray(value)
        except (TypeError, ValueError, RuntimeError):
            array = np.asarray(None)
        got = f"{_short(value)} ({type(value).__name__})"
        if array.size != 1 or array.dtype.kind not in "biuf":
            raise self._broken("reward-type", f"the reward of {self.where()} is {got}", "return one float")
        level = NOTE if array.dtype.kind == "b" and array.ndim == 0 else WARNING
        self.findings.add(level, "reward-type", f"the reward of {self.where()} is {got}", "return float(reward)")

    def _flag(self, value: Any, name: str) -> bool:
        if isinstance(value, bool | np.bool_):
            return bool(value)
        try:
            array = np.asarray(value)
        except (TypeError, ValueError, RuntimeError):
            array = np.asarray(None)
        if array.size != 1 or array.dtype.kind not in "biu":
            raise self._broken(
                "flag-type",
                f"{name} of {self.where()} is {_short(value)} ({type(value).__name__})",
                "return True or False",
            )
        level = NOTE if array.ndim == 0 and array.item() in (0, 1) else WARNING
        self.findings.add(
            level,
            "flag-type",
            f"{name} of {self.where()} is {_short(value)} ({type(value).__name__})",
            "return True or False",
        )
        return bool(array.item())

    def _call(
        self, name: str, function: Callable[..., Any], *args: Any, times: list[float] | None = None, **kwargs: Any
    ) -> Any:
        begin = time.perf_counter()
        self._clock.running = (name, begin)
        try:
            result = function(*args, **kwargs)
        except Exception as e:
            every = traceback.extract_tb(e.__traceback__)
            frames = every[1:] or every  # the first is this file's
            place = f"{frames[-1].filename}:{frames[-1].lineno}"
            fix = "mend the line that is named"
            if isinstance(e, TypeError) and "unexpected keyword" in str(e) and name == "reset()":
                fix = "declare reset(self, *, seed=None, options=None)"
            called = f"step({_short(args[0])})" if name == "step()" else name
            at = f" in {self.where()}" if self.episode >= 0 else ""
            raise self._broken(
                f"raises-{name.partition('(')[0]}",
                f"{called} raised {type(e).__name__}: {_short(e)}{at} [{place}]",
                fix,
            ) from e
        finally:
            self._clock.running = None
        if times is not None and self._clock.on:
            times.append(time.perf_counter() - begin)
        return result

    def _broken(self, kind: str, what: str, fix: str) -> Broken:
        self.findings.add(ERROR, kind, what, fix)
        return Broken()


def _reward_bounds(info: Any) -> tuple[float, float] | None:
    value = getattr(getattr(info, "rew_space", None), "value", None)
    if not isinstance(value, Mapping):
        return None
    low, high = value.get("min", -np.inf), value.get("max", np.inf)
    return (float(low), float(high)) if np.ndim(low) == np.ndim(high) == 0 else None


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
