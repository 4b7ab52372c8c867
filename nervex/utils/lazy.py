"""Public names of a package resolved at first use, so that importing nerveX stays fast."""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazy_exports(package: str, table: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Returns ``(__getattr__, __dir__)`` for a package's ``__init__``.

    Args:
        package: the package's ``__name__``.
        table: public name -> module that defines it (absolute), or the module itself when the name is its last part.
    """

    def get_attribute(name: str) -> Any:
        if name not in table:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        module = importlib.import_module(table[name])
        is_module = table[name] == f"{package}.{name}"
        found = module if is_module else getattr(module, name)
        setattr(sys.modules[package], name, found)  # the next time it is an attribute like any other
        return found

    return get_attribute, lambda: sorted(table)
