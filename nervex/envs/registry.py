"""Environment names of the configuration, and the settings of the env pools that they lead to."""

from collections.abc import Mapping
from typing import Any

from nervex.envs.base_env import BaseEnv
from nervex.utils.import_helper import import_names
from nervex.utils.registry import Registry

ENV_REGISTRY = Registry(
    "env",
    {
        "gymnasium": "nervex.envs.gymnasium_env:GymnasiumEnv",
    },
)


def register_env(name: str, env_class: type[BaseEnv]) -> None:
    """Makes ``env_class`` available to configurations as ``env_type: name``."""
    ENV_REGISTRY.register(name, env_class)


def get_vec_env_setting(cfg: Mapping[str, Any]) -> tuple[type[BaseEnv], list[dict], list[dict]]:
    """Returns ``(env class, configs of the actor's envs, configs of the evaluator's envs)`` of an ``env`` section.

    The caller's mapping is left as it is; the env's own keys are the section without ``import_names``, ``env_type``
    and ``env_manager_type``.
    """
    import_names(cfg.get("import_names") or [], "env.import_names")
    env_class = ENV_REGISTRY.get(cfg["env_type"])
    own = {k: v for k, v in cfg.items() if k not in ("import_names", "env_type", "env_manager_type", "manager")}
    return env_class, env_class.create_actor_env_cfg(own), env_class.create_evaluator_env_cfg(own)
