"""The names that ``env_manager_type`` of a configuration may take."""

import inspect
import logging
from collections.abc import Callable, Iterable
from typing import Any

from nervex.utils.errors import ConfigError, did_you_mean
from nervex.utils.registry import Registry
from nervex.worker.actor.env_manager.auto import AUTO, pick_env_manager
from nervex.worker.actor.env_manager.env_manager import EnvManager

_logger = logging.getLogger("nervex")

_HERE = "nervex.worker.actor.env_manager"

ENV_MANAGER_REGISTRY = Registry(
    "env manager",
    {
        "base": f"{_HERE}.base_env_manager:BaseEnvManager",
        "subprocess": f"{_HERE}.subprocess_env_manager:SubprocessEnvManager",
        "sync_subprocess": f"{_HERE}.subprocess_env_manager:SyncSubprocessEnvManager",
        "vector": f"{_HERE}.vector_env_manager:VectorEnvManager",
    },
)


def manager_names() -> list[str]:
    """Returns what ``env_manager_type`` may be."""
    return [AUTO, *ENV_MANAGER_REGISTRY.names()]


def create_env_manager(
    cfg_type: str, env_fn: Callable[[dict[str, Any]], Any], env_cfg: Iterable[dict[str, Any]], **options: Any
) -> EnvManager:
    """Returns a manager of the envs ``env_fn(cfg)``, one per config, not launched yet.

    Args:
        cfg_type: ``'base'``, ``'subprocess'``, ``'sync_subprocess'``, ``'vector'`` or a registered name; ``'auto'``:
            as ``settled_manager`` chooses.
        env_fn: env class, or callable that takes a config and returns an env.
        env_cfg: one config per env.
        options: keyword arguments of the manager; ``env_num`` is the number of configs when it is not given.

    Raises:
        ConfigError: unknown manager or option.
    """
    configs = list(env_cfg)
    if cfg_type == AUTO:
        cfg_type, options = settled_manager(env_fn, configs, options)
    manager_class = ENV_MANAGER_REGISTRY.get(cfg_type)
    _check_options(cfg_type, options, _options_of(cfg_type))
    manager: EnvManager = manager_class(env_fn, configs, **{"env_num": len(configs), **options})
    return manager


def settled_manager(
    env_fn: Callable[[Any], Any], env_cfg: list[dict[str, Any]], options: dict[str, Any], kind: str | None = None
) -> tuple[str, dict[str, Any]]:
    """Returns what ``'auto'`` stands for: a kind of manager, chosen by a measurement, and those of the options that it
    has. Says in the log what was chosen and why.

    Args:
        env_fn, env_cfg: the envs.
        options: of any of the kinds that may be chosen.
        kind: what was chosen before; None: measure.

    Raises:
        ConfigError: no such kind has an option of that name.
    """
    every = {name for known in ("base", "sync_subprocess", "vector") for name in _options_of(known)}
    _check_options(AUTO, options, sorted(every))
    if kind is None:
        kind, reason = pick_env_manager(env_fn, env_cfg, worker_num=options.get("worker_num"))
        _logger.info("env manager auto: %s, since %s", kind, reason)
    known = _options_of(kind)
    return kind, {name: value for name, value in options.items() if name in known}


def _options_of(kind: str) -> list[str]:
    return list(inspect.signature(ENV_MANAGER_REGISTRY.get(kind)).parameters)


def _check_options(kind: str, options: dict[str, Any], known: list[str]) -> None:
    for name in options:
        if name not in known:
            near = did_you_mean(name, known)
            raise ConfigError(f"env manager '{kind}' has no option '{name}' (env.manager.{name}){near}")
