"""A configuration as the user gave it, with the place of every key for the messages."""

import os
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from nervex.utils.errors import ConfigError
from nervex.utils.yaml_reader import KeyPath, dotted, parse_yaml, read_yaml, to_plain

COMMAND_LINE = 0  # the "line" of a key that an override on the command line sets


@dataclass(frozen=True)
class ConfigSource:
    """What the user configured, before defaults and checks.

    Attributes:
        data: plain dicts with string keys, lists and scalars.
        positions: key path -> line of the file (from 1), or ``COMMAND_LINE``.
        name: file name for messages.
        directory: folder of the file, to which its relative paths refer; None when there is no file.
    """

    data: dict[str, Any]
    positions: dict[KeyPath, int] = field(default_factory=dict)
    name: str = "config"
    directory: Path | None = None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], name: str = "config") -> "ConfigSource":
        """Returns a source with a deep copy of ``data``, as plain dicts and lists.

        Args:
            data: any nested mapping (dict, EasyDict, ...); tuples become lists.
            name: what messages call it.

        Raises:
            ConfigError: it is no mapping, or holds something that a YAML file cannot.
        """
        if not isinstance(data, Mapping):
            raise ConfigError(f"{name} is a {type(data).__name__}; expected a mapping")
        return cls(to_plain(data, name), name=name)


def read_source(path: str | os.PathLike[str]) -> ConfigSource:
    """Reads a YAML file strictly, see ``nervex.utils.yaml_reader``.

    Raises:
        ConfigError: whatever is wrong with the file, with its name and line.
    """
    parsed = read_yaml(path)
    return ConfigSource(parsed.data, parsed.lines, Path(path).name, Path(path).resolve().parent)


def apply_overrides(source: ConfigSource, overrides: Iterable[str]) -> ConfigSource:
    """Returns a new source in which ``key.sub=value`` texts replace values.

    Args:
        source: stays as it is.
        overrides: such as ``"policy.learn.batch_size=32"`` or ``"env.wrappers=[a, b]"``; values are YAML, nothing
            after the ``=`` is None.

    Raises:
        ConfigError: an override has no ``=`` or no key, its value is not YAML, or it leads through a plain value.
    """
    data, positions = deepcopy(source.data), dict(source.positions)
    for override in overrides:
        path, value = _parse_override(override)
        holder = data
        for depth, part in enumerate(path[:-1], start=1):
            held = holder.get(part)
            if held is None:  # absent, or a section with nothing in it
                held = holder[part] = {}
                positions.setdefault(path[:depth], COMMAND_LINE)
            if not isinstance(held, dict):
                raise ConfigError(
                    f"cannot set '{dotted(path)}' on the command line: '{dotted(path[:depth])}' is {held!r}, "
                    "not a mapping"
                )
            holder = held
        holder[path[-1]] = value
        positions = {known: line for known, line in positions.items() if known[: len(path)] != path}
        positions[path] = COMMAND_LINE
    return replace(source, data=data, positions=positions)


def locate(source: ConfigSource, path: KeyPath) -> str:
    """Returns where a key stands: ``cartpole.yaml:14``, ``the command line``, or the bare name of the source.

    A key that the user did not write is located at the section around it.
    """
    for end in range(len(path), 0, -1):
        line = source.positions.get(path[:end])
        if line is not None:
            return "the command line" if line == COMMAND_LINE else f"{source.name}:{line}"
    return source.name


def where(source: ConfigSource, path: KeyPath) -> str:
    """Returns ``locate`` with its preposition: ``in cartpole.yaml:14``, ``on the command line``."""
    place = locate(source, path)
    return f"on {place}" if place == "the command line" else f"in {place}"


def fail(source: ConfigSource, path: KeyPath, message: str) -> NoReturn:
    """Raises a ConfigError that reads ``'policy.x' in cartpole.yaml:14 <message>``."""
    raise ConfigError(f"'{dotted(path)}' {where(source, path)} {message}")


def _parse_override(override: str) -> tuple[tuple[str, ...], Any]:
    key, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"'{override}' on the command line has no '='; expected key.sub=value")
    path = tuple(part.strip() for part in key.split("."))
    if not all(path):
        raise ConfigError(f"'{override}' on the command line has an empty key; expected key.sub=value")
    name = f"'{override}' on the command line"
    parsed = parse_yaml(text, name, numbered=False)
    if parsed.data is None and text.lstrip().startswith("#"):
        raise ConfigError(f"{name} gives only a YAML comment; quote the value")
    return path, parsed.data
