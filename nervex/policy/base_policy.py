"""The interface of an algorithm: learn, collect, eval and command modes."""

import logging
from abc import ABC, abstractmethod
from collections import namedtuple
from collections.abc import Mapping
from typing import Any, Literal, Optional

import torch

from nervex.agent.agent import Agent
from nervex.config.frozen import FrozenConfig
from nervex.config.schema import build
from nervex.config.source import ConfigSource
from nervex.model.normalized import NormalizedModel, RewardScale
from nervex.policy.config import OpenPolicyConfig, PolicyConfig
from nervex.torch_utils.captured import CapturedFunction
from nervex.torch_utils.compiled import CompiledFunction, tensor_functions
from nervex.torch_utils.device import to_device
from nervex.torch_utils.guarded_optimizer import GuardedOptimizer
from nervex.torch_utils.lr_schedule import LRSchedule
from nervex.torch_utils.precision import autocast_dtype
from nervex.utils.errors import ConfigError, NerveXError, did_you_mean
from nervex.utils.import_helper import import_object
from nervex.utils.registry import Registry

POLICY_REGISTRY = Registry(
    "policy",
    {
        "dqn": "nervex.policy.dqn:DQNPolicy",
        "rainbow_dqn": "nervex.policy.rainbow_dqn:RainbowDQNPolicy",
        "r2d2": "nervex.policy.r2d2:R2D2Policy",
        "a2c": "nervex.policy.a2c:A2CPolicy",
        "ppo": "nervex.policy.ppo:PPOPolicy",
        "impala": "nervex.policy.impala:IMPALAPolicy",
        "ddpg": "nervex.policy.ddpg:DDPGPolicy",
        "td3": "nervex.policy.td3:TD3Policy",
        "sac": "nervex.policy.sac:SACPolicy",
        "bc": "nervex.policy.bc:BCPolicy",
        "cql": "nervex.policy.cql:CQLPolicy",
        "iql": "nervex.policy.iql:IQLPolicy",
    },
)

_logger = logging.getLogger("nervex")
_FIELDS = ("learn", "collect", "eval", "command")


def register_policy(name: str, policy_class: type) -> None:
    """Makes ``policy_class`` available to configurations as ``policy_type: name``."""
    POLICY_REGISTRY.register(name, policy_class)


def create_policy(cfg: Mapping[str, Any], model_type: type | None = None, **kwargs: Any) -> "Policy":
    """Returns the policy that section ``policy`` of a configuration names."""
    policy: Policy = POLICY_REGISTRY.get(cfg["policy_type"])(cfg, model_type=model_type, **kwargs)
    return policy


class Policy(ABC):
    """An algorithm. Each process enables the modes that it needs; the others are not built.

    Args:
        cfg: section ``policy`` of a configuration (defaults are filled in).
        model: a network to use; None: ``_create_model_from_cfg``.
        model_type: class of the network, called with ``cfg.model`` as keyword arguments.
        enable_field: modes to build, of ``'learn', 'collect', 'eval', 'command'``; None: all.
    """

    config_class: type[PolicyConfig] = OpenPolicyConfig
    #: kinds of action space that the policy serves (see ``nervex.envs.base_env.LeafSpec.kind``)
    action_kinds: tuple[str, ...] = ("discrete", "multi_discrete", "multi_binary", "box")
    #: whether learn mode returns a ``priority`` per sample
    gives_priority = True
    #: where its batches come from: ``'replay'``, ``'rollout'`` (on-policy: each rollout is learned from once), or
    #: ``'dataset'`` (offline: recorded episodes, and no env that collects)
    data_path: Literal["replay", "rollout", "dataset"] = "replay"

    learn_function = namedtuple(
        "learn_function",
        ["data_preprocess", "forward", "reset", "info", "state_dict_handle", "set_setting", "monitor_vars"],
    )
    collect_function = namedtuple(
        "collect_function",
        ["data_preprocess", "forward", "data_postprocess", "process_transition", "get_train_sample", "reset",
         "set_setting"],
    )  # fmt: skip
    eval_function = namedtuple(
        "eval_function", ["data_preprocess", "forward", "data_postprocess", "reset", "set_setting"]
    )
    command_function = namedtuple("command_function", ["get_setting_learn", "get_setting_collect", "get_setting_eval"])

    def __init__(
        self,
        cfg: Mapping[str, Any],
        model: torch.nn.Module | None = None,
        model_type: type | None = None,
        enable_field: list[str] | None = None,
    ) -> None:
        for field in enable_field or ():
            if field not in _FIELDS:
                raise ConfigError(f"unknown policy mode '{field}'{did_you_mean(field, _FIELDS)}")
        self._cfg: Any = cfg if isinstance(cfg, FrozenConfig) else self.complete_config(cfg)
        self._use_cuda: bool = self._cfg.use_cuda
        if self._use_cuda and not torch.cuda.is_available():
            raise ConfigError("policy.use_cuda is true, but torch sees no CUDA device; set it to false")
        self._device = torch.device("cuda" if self._use_cuda else "cpu")
        self._enabled = tuple(_FIELDS if enable_field is None else enable_field)
        self._window: Any = None
        self._learn_setting_set: Any = set()
        self._collect_setting_set: Any = set()
        self._eval_setting_set: Any = set()
        if {"learn", "collect", "eval"} & set(self._enabled):
            created = self._build_model(model_type) if model is None else model
            self._model: torch.nn.Module = self._normalized(created).to(self._device)
        for field in self._enabled:
            getattr(self, f"_init_{field}")()
        self._lr_schedule = self._build_lr_schedule() if "learn" in self._enabled else None
        if self._cfg.learn.get("precision", "fp32") == "bf16":
            self._autocast()
        if self._device.type == "cpu" and self._cfg.learn.get("capture", True):
            self._capture()
        if "learn" in self._enabled and self._cfg.learn.get("compile", False):
            self._compile()

    def _build_model(self, model_type: type | None) -> torch.nn.Module:
        if model_type is None and self._cfg.model_type:
            model_type = import_object(self._cfg.model_type, "policy.model_type", package="nervex.model")
        try:
            return self._create_model_from_cfg(self._cfg, model_type)
        except (RuntimeError, TypeError, ValueError) as e:
            if isinstance(e, NerveXError):
                raise
            reason = str(e).strip().split("\n")[0]
            raise ConfigError(
                f"the network cannot be built from policy.model = {self._cfg.model.to_dict()}: "
                f"{type(e).__name__}: {reason}"
            ) from e

    def _normalized(self, model: torch.nn.Module) -> torch.nn.Module:
        """Puts the running normalizations that the configuration asks for around and beside the network."""
        cfg = self._cfg.normalize
        if cfg.obs and not isinstance(model, NormalizedModel):
            if cfg.obs_dim is None:
                raise ConfigError("policy.normalize.obs is true, and policy.normalize.obs_dim is missing; give it")
            model = NormalizedModel(model, cfg.obs_dim, cfg.clip_obs)
        if cfg.reward and not hasattr(model, "reward_scale"):
            gamma = self._cfg.learn.get("algo", {}).get("discount_factor", 0.99)
            model.add_module("reward_scale", RewardScale(gamma, cfg.clip_reward))
        return model

    def _build_lr_schedule(self) -> LRSchedule | None:
        cfg = self._cfg.learn.lr_schedule
        if cfg.type == "constant" and not cfg.warmup:
            return None
        if cfg.length is None and cfg.type != "constant":
            raise ConfigError(
                f"policy.learn.lr_schedule.type is '{cfg.type}', which needs its length; give "
                "policy.learn.lr_schedule.length in learner iterations, or a budget (max_train_iter, max_env_step)"
            )
        optimizers = [part for part in vars(self).values() if isinstance(part, torch.optim.Optimizer)]
        return LRSchedule(optimizers, cfg.type, cfg.length or 1, cfg.end_factor, cfg.warmup)

    def _autocast(self) -> None:
        """Makes the agent of learn mode compute in bfloat16, and that of collect mode where learning compares what the
        two give."""
        dtype = autocast_dtype("bf16", self._device)
        for name in ("_agent", "_collect_agent")[: 2 if self.data_path == "rollout" else 1]:
            agent = getattr(self, name, None)
            if isinstance(agent, Agent):
                agent.autocast(dtype)

    def _capture(self) -> None:
        """Lets the methods that are functions of tensors, and the agents that act, be played from tapes."""
        parts = vars(self).values()
        modules = [part for part in parts if isinstance(part, torch.nn.Module)]
        modules += [model for part in parts if isinstance(part, Agent) for model in part.models]
        optimizers = [part for part in parts if isinstance(part, GuardedOptimizer)]
        learns = "learn" in self._enabled and not self._cfg.learn.get("compile", False)
        for name in tensor_functions(type(self)) if learns else ():
            setattr(self, name, CapturedFunction(getattr(self, name), modules, optimizers, holder=self))
        for agent in [getattr(self, name, None) for name in ("_collect_agent", "_eval_agent")]:
            if isinstance(agent, Agent):
                agent.capture()

    def _compile(self) -> None:
        """Puts compiled functions in the place of the methods that are functions of tensors."""
        names = tensor_functions(type(self))
        if not names:
            _logger.warning(
                "policy.learn.compile is true, but policy %s marks no method with nervex.torch_utils.tensor_function; "
                "its updates run eagerly", type(self).__name__,
            )  # fmt: skip
        optimizers = [part for part in vars(self).values() if isinstance(part, GuardedOptimizer)]
        for name in names:
            setattr(self, name, CompiledFunction(getattr(self, name), self._model, optimizers, self._device))

    def _learn(self, data: Any) -> dict[str, Any]:
        assert self._lr_schedule is not None
        output = self._forward_learn(data)
        self._lr_schedule.step()
        return output

    @classmethod
    def complete_config(cls, cfg: Mapping[str, Any]) -> FrozenConfig:
        """Returns ``cfg`` checked against the policy's schema, with defaults filled in."""
        source = ConfigSource.from_dict(cfg, name="policy config")
        return FrozenConfig(build(cls.config_class, source.data, source))

    @classmethod
    def model_class(cls, cfg: Mapping[str, Any]) -> Any:
        """Returns the class (or function) that ``cfg['model']`` are the arguments of, when it is known beforehand."""
        return None

    @property
    def model(self) -> torch.nn.Module:
        """The network."""
        return self._model

    @property
    def window(self) -> Any:
        """What a training sample is in terms of stored rows (``nervex.data.window``); None when
        ``get_train_sample`` returns finished items."""
        return self._window

    @property
    def learn_mode(self) -> Any:
        """The functions that a learner calls."""
        forward = self._forward_learn if self._lr_schedule is None else self._learn
        return Policy.learn_function(
            self._data_preprocess_learn, forward, self._reset_learn, self._info_learn,
            self._state_dict_handle, lambda setting: self.set_setting("learn", setting), self._monitor_vars_learn,
        )  # fmt: skip

    @property
    def collect_mode(self) -> Any:
        """The functions that an actor calls."""
        return Policy.collect_function(
            self._data_preprocess_collect, self._forward_collect, self._data_postprocess_collect,
            self._process_transition, self._get_train_sample, self._reset_collect,
            lambda setting: self.set_setting("collect", setting),
        )  # fmt: skip

    @property
    def eval_mode(self) -> Any:
        """The functions that an evaluator calls."""
        return Policy.eval_function(
            self._data_preprocess_eval, self._forward_eval, self._data_postprocess_eval, self._reset_eval,
            lambda setting: self.set_setting("eval", setting),
        )  # fmt: skip

    @property
    def command_mode(self) -> Any:
        """The functions that a command calls."""
        return Policy.command_function(self._get_setting_learn, self._get_setting_collect, self._get_setting_eval)

    def observe(self, columns: Mapping[str, Any]) -> None:
        """Updates the running normalizations.

        Args:
            columns: rows [T, b, ...] as an actor gives them, each row once, in the order of its lane.
        """
        cfg = self._cfg.normalize
        if not (cfg.obs or cfg.reward):
            return
        columns = to_device(dict(columns), self._device)
        if cfg.obs:
            self._model.observe(columns["obs"], columns["valid"])  # type: ignore[operator]
        if cfg.reward:
            ends = columns["terminated"], columns["truncated"], columns["valid"]
            self._model.reward_scale.observe(columns["reward"], *ends, columns["lane_id"])  # type: ignore[operator, union-attr]

    def scaled_reward(self, reward: torch.Tensor) -> torch.Tensor:
        """Returns rewards divided by the running standard deviation of the return, if the configuration asks for it."""
        if not self._cfg.normalize.reward:
            return reward
        return self._model.reward_scale.scale(reward.to(self._device)).to(reward.device)  # type: ignore[operator, union-attr]

    def set_setting(self, mode_name: str, setting: Mapping[str, Any]) -> None:
        """Writes each ``{k: v}`` to ``self._k`` when ``k`` is a setting of the mode."""
        known = getattr(self, f"_{mode_name}_setting_set")
        for key, value in setting.items():
            if key in known:
                setattr(self, f"_{key}", value)

    @abstractmethod
    def _create_model_from_cfg(self, cfg: Any, model_type: Optional[type] = None) -> torch.nn.Module: ...  # noqa: UP045

    @abstractmethod
    def _init_learn(self) -> None: ...

    @abstractmethod
    def _init_collect(self) -> None: ...

    @abstractmethod
    def _init_eval(self) -> None: ...

    def _init_command(self) -> None:  # noqa: B027 - a policy without commands needs none
        """Nothing to command unless a policy says so."""

    @abstractmethod
    def _data_preprocess_learn(self, data: Any) -> Any: ...

    @abstractmethod
    def _forward_learn(self, data: Any) -> dict[str, Any]: ...

    @abstractmethod
    def _data_preprocess_collect(self, data: Any) -> tuple[Any, Any]: ...

    @abstractmethod
    def _forward_collect(self, data_id: Any, data: Any) -> dict[str, Any]: ...

    @abstractmethod
    def _data_postprocess_collect(self, data_id: Any, data: Any) -> dict[int, Any]: ...

    @abstractmethod
    def _process_transition(self, obs: Any, agent_output: dict[str, Any], timestep: Any) -> Any: ...

    @abstractmethod
    def _get_train_sample(self, traj_cache: Any) -> Any: ...

    @abstractmethod
    def _data_preprocess_eval(self, data: Any) -> tuple[Any, Any]: ...

    @abstractmethod
    def _forward_eval(self, data_id: Any, data: Any) -> dict[str, Any]: ...

    @abstractmethod
    def _data_postprocess_eval(self, data_id: Any, data: Any) -> dict[int, Any]: ...

    def _reset_learn(self, data_id: Any = None) -> None:  # noqa: B027
        """Learn mode keeps no state per lane."""

    def _reset_collect(self, data_id: Any = None) -> None:  # noqa: B027
        """Forgets the lanes' state in collect mode."""

    def _reset_eval(self, data_id: Any = None) -> None:  # noqa: B027
        """Forgets the lanes' state in eval mode."""

    def _get_setting_learn(self, command_info: dict[str, Any]) -> dict[str, Any]:
        return {}

    def _get_setting_collect(self, command_info: dict[str, Any]) -> dict[str, Any]:
        return {}

    def _get_setting_eval(self, command_info: dict[str, Any]) -> dict[str, Any]:
        return {}

    def _info_learn(self) -> str:
        return str(self._model)

    def _monitor_vars_learn(self) -> list[str]:
        return ["cur_lr", "total_loss"]

    def _state_dict_handle(self) -> dict[str, Any]:
        return {"model": self._model, **({"optimizer": self._optimizer} if hasattr(self, "_optimizer") else {})}

    def load_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Begins with these weights of the network, as if it had been built with them."""
        self._model.load_state_dict(weights)

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Returns everything that the policy would need to go on, beside the model's weights."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` gave."""
