"""Any Gymnasium environment by its id: spaces become columns, ends of episodes are told apart, wrappers are config."""

import copy
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from nervex.config.schema import build, option
from nervex.config.source import ConfigSource
from nervex.envs.base_env import BaseEnv, BaseEnvInfo, BaseEnvTimestep, EnvElementInfo
from nervex.envs.gymnasium_spaces import action_codec, observation_codec
from nervex.envs.gymnasium_vector import gymnasium_vector
from nervex.envs.vector_env import VectorEnv
from nervex.utils.errors import ConfigError, EnvFault, MissingExtraError, did_you_mean

# Keys of the env section that are not the env's own.
_SECTION_KEYS = ("import_names", "env_type", "env_manager_type", "manager", "actor_env_num", "evaluator_env_num")

# Module that an ImportError names -> what pip calls it.
_PIP_NAMES = {"ale_py": "ale-py", "cv2": "opencv-python", "jax": '"gymnasium[jax]"', "pygame": "pygame-ce"}


@dataclass(kw_only=True)
class GymnasiumMakeConfig:
    """Keys of every env that Gymnasium makes."""

    wrappers: list[Any] = option(
        default_factory=list,
        doc="Wrappers, innermost first: a name of gymnasium.wrappers or 'module:Class', or {type: name, **arguments}.",
    )
    make_kwargs: dict[str, Any] = option(
        default_factory=dict, doc="Keyword arguments of gymnasium.make (of the env's class)."
    )
    render_mode: str | None = option(
        None, doc="Makes render() work: the env draws its frames as arrays.", choices=(None, "rgb_array")
    )


@dataclass(kw_only=True)
class GymnasiumEnvConfig(GymnasiumMakeConfig):
    """Keys of ``env_type: gymnasium``."""

    env_id: str = option(doc="Id in Gymnasium's registry, or 'module:id' where importing the module registers it.")
    scale_action: bool = option(True, doc="The agent acts in [-1, 1] where a Box action is bounded.")


class GymnasiumEnv(BaseEnv):
    """One Gymnasium env under the contract of ``BaseEnv``.

    The simulator is made at the first ``reset`` or ``info``. Observations and actions are converted as
    ``gymnasium_spaces`` says; an observation may be the env's own array, valid until the next call (the env managers
    copy it into their block at once). ``info`` of a step holds ``terminated`` and ``truncated``, of which at most one
    is true: a step that both ends the task and reaches the time limit is a termination. ``info`` of an episode's last
    step also holds the numbers of Gymnasium's own info and ``final_eval_reward``, the undiscounted return (float64).

    Args:
        cfg: keys of ``config_class``; missing keys take their defaults, the keys of the ``env`` section that are not
            the env's own (``env_type``, ``actor_env_num``, ...) are ignored.

    Raises:
        ConfigError: an unknown key or a wrong value.
    """

    config_class: type[GymnasiumMakeConfig] = GymnasiumEnvConfig

    def __init__(self, cfg: Mapping[str, Any]) -> None:
        own = {key: value for key, value in cfg.items() if key not in _SECTION_KEYS}
        name = f"the config of {type(self).__name__}"
        self._cfg = build(self.config_class, own, ConfigSource({}, name=name), ("env",))
        self._env: gymnasium.Env | None = None
        self._info: BaseEnvInfo | None = None
        self._encode: Callable[[Any], Any]
        self._decode: Callable[[Any], Any]
        self._seed: int | None = None
        self._return = 0.0

    @classmethod
    def create_vector(cls, cfgs: list[dict[str, Any]]) -> VectorEnv:
        """Returns Gymnasium's own vector of the env, for the ids that have one.

        Raises:
            ConfigError: the id has none, or the configuration asks for what it cannot do.
        """
        envs = [cls(cfg) for cfg in cfgs]
        cfg = envs[0]._cfg
        return gymnasium_vector(envs[0].env_id, len(envs), cfg["make_kwargs"], cfg["wrappers"])

    @property
    def env_id(self) -> str:
        """Id of the env in Gymnasium's registry."""
        return str(self._cfg["env_id"])

    @property
    def scale_action(self) -> bool:
        """Whether the agent acts in [-1, 1] where a Box action is bounded."""
        return bool(self._cfg["scale_action"])

    @property
    def simulator(self) -> gymnasium.Env:
        """Gymnasium's env with its wrappers; made where it has not been yet."""
        return self._made()

    def reset(self, options: dict[str, Any] | None = None) -> Any:
        """Starts an episode and returns its first observation.

        Args:
            options: what this env's own ``reset`` takes as ``options``.

        Raises:
            ConfigError: the env cannot be made, or follows the API of the old Gym.
            MissingExtraError: a package that the env needs is not installed.
        """
        env = self._made()
        seed, self._seed = self._seed, None
        if seed is not None:
            env.action_space.seed(seed)
        result = env.reset(seed=seed, options=options)
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
            raise ConfigError(
                f"env '{self.env_id}' returned {type(result).__name__} from reset() where Gymnasium has (obs, info): "
                "it follows the old Gym API; port it to gymnasium.Env or write a BaseEnv of your own"
            )
        self._return = 0.0
        return self._encode(result[0])

    def step(self, action: Any) -> BaseEnvTimestep:
        """Applies ``action`` (as ``info().act_space`` declares it) and returns the timestep; its reward is a float.

        Raises:
            EnvFault: no episode has been started.
        """
        if self._env is None:
            raise EnvFault(f"env '{self.env_id}': step() before reset(); call reset() first")
        obs, reward, terminated, truncated, info = self._env.step(self._decode(action))
        reward = float(reward)
        self._return += reward
        if terminated or truncated:
            return BaseEnvTimestep(self._encode(obs), reward, True, self._final_info(bool(terminated), info))
        return BaseEnvTimestep(self._encode(obs), reward, False, {"terminated": False, "truncated": False})

    def seed(self, seed: int) -> None:
        """Makes the next ``reset`` start the episode of this seed; later resets go on from there."""
        self._seed = int(seed)

    def render(self) -> np.ndarray:
        """Returns the current frame, uint8 ``[H, W, 3]``.

        Raises:
            ConfigError: ``render_mode`` is not set, or the env draws no such frame.
            MissingExtraError: a package that drawing needs is not installed.
        """
        if self._cfg["render_mode"] is None:
            raise ConfigError(f"env '{self.env_id}' was made without frames; set env.render_mode to 'rgb_array'")
        try:
            frame = self._made().render()
        except gymnasium.error.DependencyNotInstalled as e:
            raise MissingExtraError(f"env '{self.env_id}' cannot draw its frames: {e}") from e
        if not (isinstance(frame, np.ndarray) and frame.ndim == 3 and frame.shape[2] == 3):
            got = f"an array {list(frame.shape)}" if isinstance(frame, np.ndarray) else type(frame).__name__
            raise ConfigError(f"env '{self.env_id}' rendered {got}, expected a frame [H, W, 3]")
        return np.asarray(frame, np.uint8)

    def close(self) -> None:
        """Frees the simulator; a later ``reset`` makes a new one."""
        if self._env is not None:
            self._env.close()
            self._env = None

    def info(self) -> BaseEnvInfo:
        """Returns the declaration of the spaces; makes the simulator where none has been made yet."""
        if self._info is None:
            self._made()
        assert self._info is not None
        return self._info

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.env_id})"

    def _final_info(self, terminated: bool, info: Mapping[str, Any]) -> dict[str, Any]:
        kept = {k: v for k, v in info.items() if isinstance(v, (bool, int, float, np.number, np.bool_))}
        ends = {"terminated": terminated, "truncated": not terminated}
        return {**kept, **ends, "final_eval_reward": self._return}

    def _made(self) -> gymnasium.Env:
        if self._env is None:
            env = _wrap(_make(self.env_id, self._cfg), self._cfg["wrappers"])
            obs, self._encode = observation_codec(env.observation_space, f"observation space of '{self.env_id}'")
            act, self._decode = action_codec(env.action_space, f"action space of '{self.env_id}'", self.scale_action)
            reward = EnvElementInfo(1, {"min": -np.inf, "max": np.inf, "dtype": np.float32})
            self._info = BaseEnvInfo(agent_num=1, obs_space=obs, act_space=act, rew_space=reward)
            self._env = env
        return self._env


def _make(env_id: str, cfg: Mapping[str, Any]) -> gymnasium.Env:
    """Makes the bare env. Gymnasium's checker stays off: it looks at each step again, ``nervex check`` does it once."""
    kwargs = {"disable_env_checker": True, **copy.deepcopy(cfg["make_kwargs"])}
    if cfg["render_mode"] is not None:
        kwargs["render_mode"] = cfg["render_mode"]
    try:
        if env_id.startswith("ALE/"):
            importlib.import_module("ale_py")  # registers its ids
        return gymnasium.make(env_id, **kwargs)
    except gymnasium.error.UnregisteredEnv as e:
        near = did_you_mean(env_id, gymnasium.registry)
        raise ConfigError(
            f"unknown env.env_id '{env_id}'{near} (ids of a package of your own: write 'module:id', where importing "
            "the module registers them)"
        ) from e
    except ImportError as e:
        raise _import_problem(env_id, e) from e
    except gymnasium.error.DependencyNotInstalled as e:
        raise MissingExtraError(f"env '{env_id}' cannot be made: {e}") from e
    except (gymnasium.error.Error, TypeError, ValueError) as e:
        raise ConfigError(f"env '{env_id}' cannot be made with {kwargs}: {type(e).__name__}: {e}") from e


def _import_problem(env_id: str, e: ImportError) -> Exception:
    module = (e.name or getattr(e.__cause__, "name", None) or "").partition(".")[0]
    prefix = env_id.rpartition(":")[0]
    if prefix and module == prefix.partition(".")[0]:
        return ConfigError(f"env.env_id '{env_id}': cannot import the module '{prefix}'")
    if module and isinstance(e, ModuleNotFoundError):
        return MissingExtraError(
            f"env '{env_id}' needs the package '{module}', which is not installed; run: pip install "
            f"{_PIP_NAMES.get(module, module)}"
        )
    return ConfigError(f"env '{env_id}' cannot be made: {e}")


def _wrap(env: gymnasium.Env, wrappers: list[Any]) -> gymnasium.Env:
    """Applies the wrappers of the configuration, the first one innermost."""
    for i, entry in enumerate(wrappers):
        where = f"env.wrappers[{i}]"
        name = entry.get("type") if isinstance(entry, Mapping) else entry
        if not isinstance(name, str):
            raise ConfigError(f"{where} is {entry!r}, expected a name or a mapping with the key 'type'")
        kwargs = copy.deepcopy({k: v for k, v in entry.items() if k != "type"}) if isinstance(entry, Mapping) else {}
        wrapper = _wrapper_class(name, where)
        try:
            env = wrapper(env, **kwargs)
        except gymnasium.error.DependencyNotInstalled as e:
            raise MissingExtraError(f"{where}: {name} cannot be made: {e}") from e
        except ImportError as e:
            raise MissingExtraError(f"{where}: {name} needs a package that is not installed: {e}") from e
        except (TypeError, ValueError, AttributeError, AssertionError, gymnasium.error.Error) as e:
            raise ConfigError(f"{where}: {name}({kwargs}) fails: {type(e).__name__}: {e}") from e
        if not isinstance(env, gymnasium.Env):
            raise ConfigError(f"{where}: {name} returned {type(env).__name__}, expected a gymnasium.Env")
    return env


def _wrapper_class(name: str, where: str) -> Callable[..., Any]:
    module_name, _, attribute = name.rpartition(":")
    if not module_name:
        known = [n for n in gymnasium.wrappers.__all__ if n != "vector"]
        if name not in known:
            raise ConfigError(
                f"{where}: no wrapper '{name}' in gymnasium.wrappers{did_you_mean(name, known)} (one of your own: "
                "'module:Class')"
            )
        module_name, attribute = "gymnasium.wrappers", name
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module_name), attribute)
        return found
    except (ImportError, AttributeError) as e:
        raise ConfigError(f"{where}: cannot import '{name}': {e}") from e
