"""The table of public names, read."""

import importlib
from pathlib import Path
from typing import Any, NamedTuple

import yaml

TABLE = Path(__file__).with_name("names.yaml")
ROOT = TABLE.parents[2]


class Name(NamedTuple):
    """A public name.

    Attributes:
        package: that gives it.
        name: of the function or class.
        methods: of the class that are tried one by one; none: it is tried as a whole.
        test: file that pins it, or a part of it, as pytest is given it.
    """

    package: str
    name: str
    methods: tuple[str, ...]
    test: str

    @property
    def path(self) -> str:
        return f"{self.package}.{self.name}"

    def load(self) -> Any:
        """Returns the function or class."""
        return getattr(importlib.import_module(self.package), self.name)


def read_names() -> list[Name]:
    """Returns all names of the table in its order."""
    names = []
    for section in yaml.safe_load(TABLE.read_text(encoding="utf-8")).values():
        for test, entries in section["tests"].items():
            for entry in entries:
                name, methods = (entry, []) if isinstance(entry, str) else next(iter(entry.items()))
                names.append(Name(section["package"], name, tuple(methods), test))
    return names
