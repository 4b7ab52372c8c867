"""Pickles that another process can load though it cannot import all that they refer to."""

import functools
import inspect
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import cloudpickle


def dumps_by_value(value: Any) -> bytes:
    """Returns a pickle of ``value``; code of modules that a fresh interpreter cannot import goes into it by value.

    Those are ``__main__``, a notebook, and files that were loaded by their path.
    """
    modules = {id(m): m for m in _modules_of(value)} | {
        id(m): m for name, m in list(sys.modules.items()) if name.startswith("nervex_user_")
    }
    registered = []
    try:
        for module in modules.values():
            if module.__name__ != "__main__" and not _importable(module):
                cloudpickle.register_pickle_by_value(module)
                registered.append(module)
        pickled: bytes = cloudpickle.dumps(value)
        return pickled
    finally:
        for module in registered:
            cloudpickle.unregister_pickle_by_value(module)


def _modules_of(value: Any) -> Iterator[ModuleType]:
    while isinstance(value, functools.partial):
        value = value.func
    owners = inspect.getmro(value) if inspect.isclass(value) else (value, type(value))
    for owner in owners:
        module = sys.modules.get(getattr(owner, "__module__", None) or "")
        if module is not None:
            yield module


def _importable(module: ModuleType) -> bool:
    """Whether the import system, asked afresh, finds the module in the very file that it came from."""
    name = module.__name__
    if name.partition(".")[0] in sys.stdlib_module_names:
        return True
    path: Any = None
    spec = None
    parts = name.split(".")
    for i in range(len(parts)):
        spec = _found(".".join(parts[: i + 1]), path)
        if spec is None:
            return False
        path = spec.submodule_search_locations
    file = getattr(module, "__file__", None)
    return file is None or spec is None or spec.origin == file


def _found(name: str, path: Any) -> Any:
    for finder in sys.meta_path:
        spec = finder.find_spec(name, path)
        if spec is not None:
            return spec
    return None
