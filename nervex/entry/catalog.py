"""The configurations that are shipped with the package, and how a name leads to one."""

import importlib
import importlib.resources
from collections.abc import Iterator
from importlib.resources.abc import Traversable
from pathlib import Path

from nervex.agent.plugin import PLUGIN_REGISTRY
from nervex.envs.registry import ENV_REGISTRY
from nervex.policy.base_policy import POLICY_REGISTRY
from nervex.utils.errors import ConfigError, did_you_mean

_ZOO = "app_zoo"
_SUFFIX = "_default_config.yaml"


def shipped_configs() -> dict[str, Path]:
    """Returns name -> path of the configurations of the application zoo (``cartpole_dqn``, ...)."""
    try:
        root = importlib.resources.files(_ZOO)
    except ModuleNotFoundError:
        return {}
    return {p.name.removesuffix(_SUFFIX): Path(str(p)) for p in _walk(root) if p.name.endswith(_SUFFIX)}


def find_config(name: str | Path) -> Path:
    """Returns the path of a configuration given by path or by shipped name.

    Raises:
        ConfigError: neither a file nor a shipped name.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.exists():
        return path  # a missing file is reported where it is read
    configs = shipped_configs()
    if str(name) in configs:
        return configs[str(name)]
    raise ConfigError(
        f"'{name}' is no file and no shipped config{did_you_mean(str(name), configs)} "
        f"(shipped: {', '.join(sorted(configs))}; a file ends in .yaml)"
    )


def _walk(folder: Traversable) -> Iterator[Traversable]:
    for item in folder.iterdir():
        if item.is_dir():
            if not item.name.startswith("__"):
                yield from _walk(item)
        else:
            yield item


def list_names(what: str) -> list[tuple[str, str]]:
    """Returns ``(name, where it comes from)`` of ``'policies'``, ``'envs'``, ``'configs'`` or ``'plugins'``."""
    if what == "configs":
        return [(name, _title(path)) for name, path in sorted(shipped_configs().items())]
    if what == "envs":
        for module in _zoo_env_modules():
            importlib.import_module(module)
        return [
            (name, f"env.import_names: [{ENV_REGISTRY.origin(name).split(':')[0]}]") for name in ENV_REGISTRY.names()
        ]
    entries = {"policies": POLICY_REGISTRY, "plugins": PLUGIN_REGISTRY}[what]
    return [(name, entries.origin(name)) for name in entries.names()]


def _zoo_env_modules() -> list[str]:
    """Returns the modules of the application zoo that register an env when they are imported."""
    root = importlib.resources.files(_ZOO)
    files = (Path(str(p)).relative_to(str(root)) for p in _walk(root) if p.name.endswith("_env.py"))
    return sorted(".".join((_ZOO, *path.with_suffix("").parts)) for path in files)


def _title(path: Path) -> str:
    first = path.read_text(encoding="utf-8").split("\n", 1)[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""
