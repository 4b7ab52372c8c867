"""The configurations that are shipped with the package, and how a name leads to one."""

import importlib.resources
from collections.abc import Iterator
from importlib.resources.abc import Traversable
from pathlib import Path

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
