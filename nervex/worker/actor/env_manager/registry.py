"""The names that ``env_manager_type`` of a configuration may take."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from nervex.utils.errors import ConfigError, did_you_mean
from nervex.utils.registry import Registry
from nervex.worker.actor.env_manager.env_manager import EnvManager

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


def create_env_manager(
    cfg_type: str, env_fn: Callable[[dict[str, Any]], Any], env_cfg: Iterable[dict[str, Any]], **options: Any
) -> EnvManager:
    """Returns a manager of the envs ``env_fn(cfg)``, one per config, not launched yet.

    Args:
        cfg_type: ``'base'``, ``'subprocess'``, ``'sync_subprocess'`` or a registered name.
        env_fn: env class, or callable that takes a config and returns an env.
        env_cfg: one config per env.
        options: keyword arguments of the manager; ``env_num`` is the number of configs when it is not given.

    Raises:
        ConfigError: unknown manager or option.
    """
    manager_class = ENV_MANAGER_REGISTRY.get(cfg_type)
    known = list(inspect.signature(manager_class).parameters)
    for name in options:
        if name not in known:
            near = did_you_mean(name, known)
            raise ConfigError(f"env manager '{cfg_type}' has no option '{name}' (env.manager.{name}){near}")
    configs = list(env_cfg)
    manager: EnvManager = manager_class(env_fn, configs, **{"env_num": len(configs), **options})
    return manager
