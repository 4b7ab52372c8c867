"""Imports the modules that a configuration names."""

import hashlib
import importlib
import importlib.util
import logging
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from nervex.utils.errors import ConfigError, did_you_mean

_logger = logging.getLogger("nervex")


def import_names(names: Sequence[str], where: str, package: str = "") -> list[ModuleType]:
    """Imports modules by name (``my_pkg.my_policy``) or by path (``policies/my_policy.py``).

    A file that is given by path takes ``package`` as the package of its relative imports, so that a policy may begin
    with ``from .base_policy import Policy`` when ``package`` is ``nervex.policy``.

    Args:
        names: module names or absolute paths of Python files.
        where: config path of the list, for messages (``policy.import_names``).
        package: package that relative imports of a file given by path refer to.

    Raises:
        ConfigError: a module cannot be found or raises at import; the cause is chained.
    """
    return [_import_path(Path(n), where, package) if n.endswith(".py") else _import_module(n, where) for n in names]


def import_module(modules: Sequence[str]) -> None:
    """Imports modules for what they register.

    Args:
        modules: names, or absolute paths of Python files.

    Raises:
        ConfigError: a module cannot be found or raises at import; the cause is chained.
    """
    if isinstance(modules, str):
        raise ConfigError(f"import_module got the text '{modules}'; expected a list of names, ['{modules}']")
    import_names(modules, "import_module")


def try_import_mc() -> ModuleType | None:
    """Returns the client of a cluster's memory cache, module ``mc``; None, with a line in the log, where there is none.

    ``read_file(..., fs_type='mc')`` needs none: it reads the file behind the cache.
    """
    try:
        return importlib.import_module("mc")
    except ImportError:
        _logger.warning("there is no memory cache client (module mc) here; files are read from where they are")
        return None


def import_object(name: str, where: str, package: str = "") -> Any:
    """Returns what ``'module:Name'`` or ``'/path/of/file.py:Name'`` names.

    Args:
        name: module or absolute path, a colon, and the name in it.
        where: config path, for messages.
        package: package that relative imports of a file refer to.

    Raises:
        ConfigError: it has another form, the module cannot be imported, or has no such name.
    """
    place, _, attribute = name.rpartition(":")
    if not place or not attribute:
        raise ConfigError(f"{where} is '{name}'; expected 'module:Name' or 'file.py:Name'")
    (module,) = import_names([place], where, package)
    if not hasattr(module, attribute):
        found = [n for n in vars(module) if not n.startswith("_")]
        raise ConfigError(f"{where}: {place} has no '{attribute}'{did_you_mean(attribute, found)}")
    return getattr(module, attribute)


def _import_module(name: str, where: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as e:
        raise ConfigError(f"{where}: cannot import '{name}': {type(e).__name__}: {e}") from e


def _import_path(path: Path, where: str, package: str) -> ModuleType:
    path = path.resolve()
    if not path.is_file():
        raise ConfigError(f"{where}: no file {path}")
    name = f"nervex_user_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    if package:
        module.__package__ = package
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as e:
        del sys.modules[name]
        lines = [frame.lineno for frame in traceback.extract_tb(e.__traceback__) if frame.filename == str(path)]
        place = f"{path}:{lines[-1]}" if lines else str(path)
        raise ConfigError(f"{where}: {place} fails at import: {type(e).__name__}: {e}") from e
    return module
