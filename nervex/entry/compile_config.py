"""From a configuration file to a complete, checked and frozen configuration with the classes behind its names."""

import copy
import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from nervex.config.frozen import FrozenConfig
from nervex.config.schema import build, check_signature, fail, key_paths, where
from nervex.config.source import COMMAND_LINE, ConfigSource
from nervex.entry.relations import check_data_path, check_relations, settle_values, share_values
from nervex.entry.sections import EnvConfig, MainConfig
from nervex.envs.base_env import BaseEnvInfo, LeafSpec, spec_tree
from nervex.envs.registry import ENV_REGISTRY
from nervex.policy.base_policy import POLICY_REGISTRY, Policy
from nervex.utils.errors import ConfigError, NerveXError, did_you_mean
from nervex.utils.import_helper import import_names, import_object
from nervex.worker.actor.env_manager.registry import manager_names
from nervex.worker.learner.registry import LEARNER_REGISTRY

EnvSetting = tuple[Callable[[Any], Any], list[dict[str, Any]], list[dict[str, Any]]]


@dataclass(frozen=True)
class CompiledConfig:
    """A configuration that is ready to run.

    Attributes:
        cfg: complete, frozen.
        policy_class, model_type: the algorithm, and a user's network class or None.
        env_fn, actor_env_cfg, evaluator_env_cfg: how to build the envs.
        info: what the env declares.
    """

    cfg: FrozenConfig
    policy_class: type[Policy]
    model_type: Any
    env_fn: Callable[[Any], Any]
    actor_env_cfg: list[dict[str, Any]]
    evaluator_env_cfg: list[dict[str, Any]]
    info: BaseEnvInfo

    @property
    def name(self) -> str:
        """Name of the run."""
        return str(self.cfg.common.name)


def compile_config(
    source: ConfigSource,
    env_setting: EnvSetting | None = None,
    policy_type: type[Policy] | None = None,
    model_type: Any = None,
    model_given: bool = False,
) -> CompiledConfig:
    """Checks everything that can be checked before anything starts.

    Args:
        source: the user's file, with overrides applied.
        env_setting: ``(env class, configs of the actor's envs, configs of the evaluator's envs)`` in place of
            section ``env``.
        policy_type: policy class in place of ``policy.policy_type``.
        model_type: network class, called with ``policy.model``.
        model_given: a network instance will be used, so ``policy.model`` is not needed.

    Raises:
        ConfigError: one to three lines that say what is wrong, where, and how to mend it.
    """
    source = replace(source, data=copy.deepcopy(source.data))
    data = source.data
    for section, replaced in (("env", env_setting), ("policy", policy_type)):
        if replaced is not None and data.get(section) is None:
            data[section] = {}
        if section in data and not isinstance(data[section], dict):
            fail(source, (section,), f"is {data[section]!r}; expected a mapping")
    main = build(MainConfig, data, source)  # problems of the top level come before anything is imported
    if not main["common"]["name"]:
        main["common"]["name"] = _default_name(source)
    policy_class = _policy_class(main, source, policy_type)
    check_data_path(policy_class.data_path, source)
    share_values(source, policy_class.config_class)
    main = {**build(MainConfig, data, source), "common": main["common"]}
    places = key_paths(policy_class.config_class, ("policy",))
    main["policy"] = build(policy_class.config_class, data["policy"], source, ("policy",), places)
    main["policy"]["import_names"] = _absolute(main["policy"]["import_names"], source, "policy")
    if main["policy"]["model_type"] and model_type is None:
        name = main["policy"]["model_type"] = _absolute_object(main["policy"]["model_type"], source)
        model_type = import_object(name, _place(source, "policy", "model_type"), package="nervex.model")
    if main["policy"]["use_cuda"] and not torch.cuda.is_available():
        fail(source, ("policy", "use_cuda"), "is true, but torch sees no CUDA device; set it to false")
    env_fn, actor_cfg, evaluator_cfg = env_setting or _env_setting(main, data, source)
    settle_values(main)
    _check_learner(main, source)
    if not actor_cfg or not evaluator_cfg:
        raise ConfigError(f"there are {len(actor_cfg)} collecting and {len(evaluator_cfg)} evaluating envs; expected "
                          "at least one of each")  # fmt: skip
    info = _env_info(env_fn, actor_cfg[0], source)
    _check_action(policy_class, info, main, source)
    if main["policy"]["normalize"]["obs"]:
        main["policy"]["normalize"]["obs_dim"] = _dim(spec_tree(info.obs_space))
    if not model_given:
        _fill_model(main, policy_class, model_type, info, source)
    check_relations(main, source, len(actor_cfg), policy_class.data_path)
    return CompiledConfig(FrozenConfig(main), policy_class, model_type, env_fn, actor_cfg, evaluator_cfg, info)


def _default_name(source: ConfigSource) -> str:
    stem = Path(source.name).stem.removesuffix("_default_config").removesuffix("_config")
    return stem or "run"


def _place(source: ConfigSource, *path: str) -> str:
    return f"'{'.'.join(path)}' {where(source, path)}"


def _absolute(names: list[str], source: ConfigSource, section: str) -> list[str]:
    typed = source.positions.get((section, "import_names")) == COMMAND_LINE
    base = Path.cwd() if typed or source.directory is None else source.directory
    return [str((base / n).resolve()) if n.endswith(".py") else n for n in names]


def _absolute_object(name: str, source: ConfigSource) -> str:
    """Returns ``'file.py:Name'`` with the path of the file made absolute; other names as they are."""
    place, colon, attribute = name.rpartition(":")
    typed = source.positions.get(("policy", "model_type")) == COMMAND_LINE
    base = Path.cwd() if typed or source.directory is None else source.directory
    return f"{(base / place).resolve()}{colon}{attribute}" if place.endswith(".py") else name


def _policy_class(main: dict[str, Any], source: ConfigSource, given: type[Policy] | None) -> type[Policy]:
    policy = main["policy"]
    names = policy.get("import_names") or []
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        fail(source, ("policy", "import_names"), f"is {names!r}; expected a list of module names or .py files")
    import_names(_absolute(names, source, "policy"), _place(source, "policy", "import_names"), package="nervex.policy")
    if given is not None:
        return given
    name = policy.get("policy_type")
    if not isinstance(name, str):
        if name is None:
            raise ConfigError(f"missing key 'policy.policy_type' in {source.name}; known: {POLICY_REGISTRY.names()}")
        fail(source, ("policy", "policy_type"), f"is {name!r}; expected the name of a policy")
    if name not in POLICY_REGISTRY:
        known = POLICY_REGISTRY.names()
        fail(source, ("policy", "policy_type"), f"is '{name}', no such policy{did_you_mean(name, known)} "
             f"(known: {', '.join(known)}; a policy of your own needs policy.import_names)")  # fmt: skip
    policy_class: type[Policy] = POLICY_REGISTRY.get(name)
    return policy_class


def _check_learner(main: dict[str, Any], source: ConfigSource) -> None:
    """The modules of policy and env, which may register a learner, have been imported by now."""
    name, known = main["learner"]["learner_type"], LEARNER_REGISTRY.names()
    if name not in known:
        fail(source, ("learner", "learner_type"), f"is '{name}', no such learner{did_you_mean(name, known)} (known: "
             f"{', '.join(known)}; name the module of your own in policy.import_names)")  # fmt: skip
    if LEARNER_REGISTRY.get(name).has_graph():
        fail(source, ("learner", "learner_type"), f"is '{name}', which has _setup_agent and takes no policy; run it "
             "by a SingleMachineRunner")  # fmt: skip


def _env_setting(main: dict[str, Any], data: dict[str, Any], source: ConfigSource) -> EnvSetting:
    general = build(EnvConfig, data["env"], source, ("env",))
    general["import_names"] = _absolute(general["import_names"], source, "env")
    import_names(general["import_names"], _place(source, "env", "import_names"))
    name = general["env_type"]
    if name not in ENV_REGISTRY:
        known = ENV_REGISTRY.names()
        fail(source, ("env", "env_type"), f"is '{name}', no such env{did_you_mean(name, known)} (known: "
             f"{', '.join(known)}; name its module in env.import_names, or use env_type: gymnasium "
             "with an env_id)")  # fmt: skip
    manager = general["env_manager_type"]
    if manager not in manager_names():
        known = manager_names()
        fail(source, ("env", "env_manager_type"), f"is '{manager}', no such env manager{did_you_mean(manager, known)} "
             f"(known: {', '.join(known)})")  # fmt: skip
    env_class = ENV_REGISTRY.get(name)
    shared = {f.name: general[f.name] for f in dataclasses.fields(EnvConfig)}
    own = {k: v for k, v in general.items() if k not in shared}
    if env_class.config_class is not None:
        own = build(env_class.config_class, own, source, ("env",), key_paths(EnvConfig, ("env",)))
    main["env"] = {**shared, **own}
    numbers = {k: shared[k] for k in ("actor_env_num", "evaluator_env_num")}
    return (
        env_class,
        env_class.create_actor_env_cfg(copy.deepcopy({**own, **numbers})),
        env_class.create_evaluator_env_cfg(copy.deepcopy({**own, **numbers})),
    )


def _env_info(env_fn: Callable[[Any], Any], cfg: dict[str, Any], source: ConfigSource) -> BaseEnvInfo:
    try:
        env = env_fn(copy.deepcopy(cfg))
        info = env.info()
        env.close()
    except NerveXError as e:
        named = re.search(r"\benv\.(\w+)", str(e))  # the key that the env complains about
        raise ConfigError(f"{_place(source, 'env', *(named.groups() if named else ()))}: {e}") from e
    except Exception as e:
        name = getattr(env_fn, "__name__", env_fn)
        raise ConfigError(f"env {name} failed before its first reset: {type(e).__name__}: {e}") from e
    if not hasattr(info, "obs_space") or not hasattr(info, "act_space"):
        raise ConfigError(f"info() of env {env_fn} returned {type(info).__name__}; expected a BaseEnvInfo")
    return info  # type: ignore[no-any-return]


def _check_action(policy_class: type[Policy], info: BaseEnvInfo, main: dict[str, Any], source: ConfigSource) -> None:
    spec = spec_tree(info.act_space, is_action=True)
    kind = "nested" if isinstance(spec, dict) else spec.kind
    if kind not in policy_class.action_kinds:
        name = main["policy"].get("policy_type") or policy_class.__name__
        env = main["env"].get("env_id") or main["env"].get("env_type")
        fail(source, ("policy", "policy_type"),
             f"is '{name}', which serves {' and '.join(policy_class.action_kinds)} actions; env '{env}' takes {kind} "
             "ones; choose another policy or another env")  # fmt: skip


def _fill_model(
    main: dict[str, Any], policy_class: type[Policy], model_type: Any, info: BaseEnvInfo, source: ConfigSource
) -> None:
    """Fills in ``obs_dim`` and ``action_dim`` from the env, and checks the arguments of the network."""
    model = main["policy"]["model"]
    obs, action = spec_tree(info.obs_space), spec_tree(info.act_space, is_action=True)
    dims = {"obs_dim": _dim(obs), "action_dim": _dim(action), "action_type": _action_type(action)}
    for key, value in dims.items():
        if value is not None and key in model and _as_shape(model[key]) != _as_shape(value):
            what = "observations" if key == "obs_dim" else "actions"
            fail(source, ("policy", "model", key), f"is {model[key]}, the env has {what} of {value}; leave the "
                 "key out, it is filled in from the env")  # fmt: skip
    known = {k: v for k, v in dims.items() if v is not None}
    if "obs_dim" not in known and "obs_dim" not in model and model_type is None:
        fail(source, ("env",), f"has observations of several parts ({', '.join(spec_tree(info.obs_space))}), which the "
             "networks here do not take; flatten them with env.wrappers: [FlattenObservation], or give a network of "
             "your own (model_type)")  # fmt: skip
    target = model_type or policy_class.model_class({**main["policy"], "model": {**known, **model}})
    if target is None:  # a user's policy, which builds its network from the tutorial's keys
        known.pop("action_type", None)
        main["policy"]["model"] = {**known, **model}
        return
    parameters = check_signature(target, model, source, ("policy", "model"), later=tuple(known))
    accepted = {k: v for k, v in known.items() if k not in parameters and _accepts(target, k)}
    main["policy"]["model"] = {**accepted, **parameters}


def _action_type(spec: Any) -> str | None:
    if not isinstance(spec, LeafSpec):
        return None
    return {"discrete": "discrete", "multi_discrete": "multi_discrete", "box": "continuous"}.get(spec.kind)


def _dim(spec: Any) -> Any:
    """Returns the size that a network is built with: int for vectors and discrete actions, list for images and
    several heads, a mapping of them for observations of several parts (masks of actions aside), None for deeper ones.
    """
    if not isinstance(spec, LeafSpec):
        parts = {k: _dim(v) for k, v in spec.items() if k != "action_mask"}
        return parts if parts and not any(v is None or isinstance(v, dict) for v in parts.values()) else None
    if spec.kind == "discrete":
        return spec.n
    if spec.kind == "multi_discrete":
        return list(spec.n)
    return spec.shape[0] if len(spec.shape) == 1 else list(spec.shape)


def _as_shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _as_shape(v) for k, v in value.items()}
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _accepts(target: Any, key: str) -> bool:
    try:
        check_signature(target, {key: None}, ConfigSource({}), (), later=())
    except ConfigError as e:
        return "unknown key" not in str(e)
    return True
