"""Strict, safe YAML: plain data only, the line of every key, and one clear error for whatever is wrong.

Differences from ``yaml.safe_load``: tags, duplicate keys, keys that are not words, several documents, endless or huge
expansions are errors; ``1e-3`` and ``inf`` are floats; only ``true`` and ``false`` are booleans (``on``, ``off``,
``yes``, ``no`` are strings); dates, sexagesimal (``1:30``) and old octal (``010``) numbers are strings.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from nervex.utils.errors import ConfigError, did_you_mean

KeyPath: TypeAlias = tuple[str | int, ...]

MAX_BYTES = 1_000_000
MAX_NODES = 100_000
MAX_DEPTH = 64
MAX_INT_BITS = 1024

_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"
_DIGITS = r"[0-9]+(?:_[0-9]+)*"
_FLOAT = rf"[-+]?(?:(?:{_DIGITS}\.(?:{_DIGITS})?|\.{_DIGITS})(?:[eE][-+]?[0-9]+)?|{_DIGITS}[eE][-+]?[0-9]+)"

# (tag, pattern, possible first characters): what an unquoted scalar may mean besides a string.
SCALAR_RESOLVERS: tuple[tuple[str, re.Pattern[str], list[str]], ...] = (
    (f"{_TAG}null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    (f"{_TAG}bool", re.compile(r"^(?:true|false)$", re.IGNORECASE), list("tTfF")),
    (f"{_TAG}int", re.compile(r"^[-+]?(?:0|[1-9][0-9]*(?:_[0-9]+)*|0x[0-9a-fA-F]{1,16})$"), list("-+0123456789")),
    (
        f"{_TAG}float",
        re.compile(rf"^(?:{_FLOAT}|[-+]?\.?(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"),
        list("-+.0123456789iI"),
    ),
    (_MERGE, re.compile(r"^<<$"), ["<"]),
)


@dataclass(frozen=True)
class ParsedYaml:
    """What a YAML text says.

    Attributes:
        data: plain dicts with string keys, lists, strings, numbers, booleans and None.
        lines: key path -> line (from 1) at which the key, or the list item, stands.
    """

    data: Any
    lines: dict[KeyPath, int] = field(default_factory=dict)


def dotted(path: KeyPath) -> str:
    """Returns a key path as users write it: ``('a', 'b', 2)`` is ``'a.b[2]'``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def read_yaml(path: str | os.PathLike[str]) -> ParsedYaml:
    """Reads a YAML file whose top level is a mapping.

    Raises:
        ConfigError: the file is missing, unreadable, too large, not UTF-8, or not such a YAML file; the message names
            file and line.
    """
    path = Path(path)
    name = path.name
    parsed = parse_yaml(_read_text(path), name)
    if parsed.data is None:
        raise ConfigError(f"{name} is empty; expected a mapping such as 'policy: ...'")
    if not isinstance(parsed.data, dict):
        raise ConfigError(
            f"the top level of {name} is a {type(parsed.data).__name__}; expected a mapping such as 'policy: ...'"
        )
    return parsed


def parse_yaml(text: str, name: str, numbered: bool = True) -> ParsedYaml:
    """Parses one YAML document of any kind; an empty text is None.

    Args:
        text: the YAML text.
        name: where the text comes from, for messages (``cartpole.yaml``).
        numbered: whether messages give the line too (``cartpole.yaml:14``).

    Raises:
        ConfigError: the text is not strict YAML.
    """
    builder = _Builder(name, numbered)
    try:
        loader = _Loader(text, builder)
        try:
            node = loader.get_node() if loader.check_node() else None
            if node is not None and loader.check_node():
                line = loader.event_line()
                raise ConfigError(f"{builder.at(line)} begins a second document ('---'); expected only one")
        finally:
            loader.dispose()
    except yaml.reader.ReaderError as e:
        line = text.count("\n", 0, e.position) + 1
        raise ConfigError(f"{builder.at(line)} holds a character that YAML does not allow ({e.reason})") from e
    except yaml.MarkedYAMLError as e:
        raise ConfigError(_syntax_message(e, builder)) from e
    except ConfigError:
        raise
    except (ValueError, OverflowError) as e:  # PyYAML's scanner lets numbers of escapes and directives through
        raise ConfigError(f"{name} is not valid YAML: {e}") from e
    return ParsedYaml(None if node is None else builder.build(node, ()), builder.lines)


def to_plain(value: Any, name: str, path: KeyPath = ()) -> Any:
    """Returns a deep copy of ``value`` as plain data: dict, list, str, int, float, bool, None.

    Mappings (EasyDict too) become dicts, tuples lists, NumPy scalars numbers, file paths strings.

    Args:
        value: the data of a user.
        name: what it is called in messages.
        path: key path of ``value``.

    Raises:
        ConfigError: a key is not a string, a value is of another kind, or the data contains itself.
    """
    if len(path) > MAX_DEPTH:
        raise ConfigError(f"'{dotted(path[:3])}' in {name} is nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, Mapping):
        for key in value:
            _check_key(key, path, name)
        return {str(k): to_plain(v, name, (*path, k)) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(v, name, (*path, i)) for i, v in enumerate(value)]
    return _plain_scalar(value, name, path)


def _plain_scalar(value: Any, name: str, path: KeyPath) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Integral):
        if int(value).bit_length() > MAX_INT_BITS:
            raise ConfigError(f"'{dotted(path)}' in {name} is an int of {int(value).bit_length()} bits")
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise ConfigError(
        f"'{dotted(path)}' in {name} is of type {type(value).__name__}; "
        "expected numbers, strings, booleans, None, lists and mappings"
    )


def _check_key(key: Any, path: KeyPath, where: str) -> None:
    if not isinstance(key, str):
        inside = f" of '{dotted(path)}'" if path else ""
        raise ConfigError(f"key {key!r}{inside} in {where} is of type {type(key).__name__}; expected a string")
    if len(key) > 4 and key.startswith("__") and key.endswith("__"):
        raise ConfigError(f"key '{dotted((*path, key))}' in {where} is reserved by Python; expected another name")


def _read_text(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():
            kind = "a directory" if path.is_dir() else "not a regular file"
            raise ConfigError(f"{path} is {kind}; expected a YAML file")
        if not path.is_file():
            raise ConfigError(f"no file {path}{_near_file(path)}")
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ConfigError(f"{path.name} has {size} bytes; a configuration has at most {MAX_BYTES}")
        return path.read_bytes().decode("utf-8")
    except OSError as e:
        raise ConfigError(f"cannot read {path}: {e.strerror or e}") from e
    except UnicodeDecodeError as e:
        line = e.object.count(b"\n", 0, e.start) + 1
        raise ConfigError(f"{path.name}:{line} is not UTF-8 text (byte 0x{e.object[e.start]:02x})") from e


def _near_file(path: Path) -> str:
    if not path.parent.is_dir():
        return ""
    names = [p.name for p in path.parent.iterdir() if p.suffix in (".yaml", ".yml")]
    return did_you_mean(path.name, names, likeness=0.8)


def _syntax_message(error: yaml.MarkedYAMLError, builder: "_Builder") -> str:
    unclosed = error.context_mark is not None and "flow" in (error.context or "")  # the healthy line after it is named
    mark = error.context_mark if unclosed else error.problem_mark or error.context_mark
    where = builder.at(mark.line + 1, mark.column + 1) if mark else builder.name
    problem = ": ".join(part for part in (error.context, error.problem) if part)
    hint = "; indent with spaces, not tabs" if "'\\t'" in problem else ""
    return f"{where} is not valid YAML: {problem}{hint}"


class _Loader(yaml.SafeLoader):
    """Composes nodes only; refuses tags and deep nesting before they are built."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (PyYAML's own declaration)

    def __init__(self, text: str, builder: "_Builder") -> None:
        super().__init__(text)
        self._builder = builder
        self._depth = 0
        self._composed = 0

    def event_line(self) -> int:
        """Returns the line of the next event."""
        self.peek_event()  # type: ignore[no-untyped-call]
        assert self.current_event is not None
        return _line(self.current_event)

    def compose_node(self, parent: Any, index: Any) -> Any:
        line = self.event_line()
        tag = getattr(self.current_event, "tag", None)
        if tag is not None:
            shown = tag.replace(_TAG, "!!")
            raise ConfigError(f"{self._builder.at(line)} has the tag '{shown}'; tags are not allowed, use plain values")
        if self._depth >= MAX_DEPTH:
            raise ConfigError(f"{self._builder.at(line)} is nested more than {MAX_DEPTH} levels deep")
        self._composed += 1
        if self._composed > MAX_NODES:
            raise ConfigError(f"{self._builder.at(line)} goes beyond {MAX_NODES} values; keep large data elsewhere")
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


for _resolver in SCALAR_RESOLVERS:
    _Loader.add_implicit_resolver(*_resolver)


class _Builder:
    """Turns composed nodes into plain data and notes the lines."""

    def __init__(self, name: str, numbered: bool) -> None:
        self.name = name
        self.lines: dict[KeyPath, int] = {}
        self._numbered = numbered
        self._open: set[int] = set()
        self._visited = 0

    def at(self, line: int, column: int | None = None) -> str:
        """Returns ``name:line`` (with ``, column N``), or the bare name for a text without lines."""
        if not self._numbered:
            return self.name
        return f"{self.name}:{line}" + (f", column {column}" if column else "")

    def build(self, node: yaml.Node, path: KeyPath) -> Any:
        self._count(node)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        with self._opened(node, path):
            if isinstance(node, yaml.SequenceNode):
                return [self._item(item, item, (*path, i)) for i, item in enumerate(node.value)]
            assert isinstance(node, yaml.MappingNode)
            return {k: self._item(*pair, (*path, k)) for k, pair in self._pairs(node, path).items()}

    def _item(self, marked: yaml.Node, value: yaml.Node, path: KeyPath) -> Any:
        self.lines[path] = _line(marked)
        return self.build(value, path)

    def _pairs(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Returns key -> (key node, value node): the mapping's own keys, and those merged in by ``<<``."""
        own: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        merge: tuple[yaml.Node, yaml.Node] | None = None
        for key_node, value_node in node.value:
            self._count(key_node)
            is_merge = key_node.tag == _MERGE
            key = "<<" if is_merge else self._key(key_node, path)
            first = merge if is_merge else own.get(key)
            if first is not None:
                raise ConfigError(
                    f"duplicate key '{dotted((*path, key))}' in {self.at(_line(key_node))}; "
                    f"line {_line(first[0])} sets it already"
                )
            if is_merge:
                merge = (key_node, value_node)
            else:
                own[key] = (key_node, value_node)
        return {**self._merged(merge[1], path), **own} if merge else own

    def _merged(self, node: yaml.Node, path: KeyPath) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
        merged: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for source in reversed(sources):  # the first one named wins
            self._count(source)
            if not isinstance(source, yaml.MappingNode):
                raise ConfigError(f"'<<' in {self.at(_line(node))} merges what is not a mapping; expected '<<: *name'")
            with self._opened(source, path):
                merged.update(self._pairs(source, path))
        return merged

    def _key(self, node: yaml.Node, path: KeyPath) -> str:
        where = self.at(_line(node))
        if not isinstance(node, yaml.ScalarNode):
            raise ConfigError(f"a key in {where} is a list or mapping; keys are strings")
        key = self._scalar(node, path)
        if not isinstance(key, str):
            kind = type(key).__name__
            raise ConfigError(f"key '{node.value}' in {where} reads as {kind}; keys are strings, quote it")
        _check_key(key, path, where)
        return key

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        text: str = node.value
        kind = node.tag.removeprefix(_TAG)
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        if kind not in ("int", "float"):
            return text
        if kind == "int" and len(text) * 3 > MAX_INT_BITS:
            raise ConfigError(f"{self._key_at(node, path)} is a number of {len(text)} digits")
        value = int(text, 16 if "0x" in text else 10) if kind == "int" else _float(text)
        if value in (float("inf"), float("-inf")) and "n" not in text.lower():
            raise ConfigError(f"{self._key_at(node, path)} is {text}, which is too large for a float; write inf")
        return value

    def _key_at(self, node: yaml.Node, path: KeyPath) -> str:
        return f"'{dotted(path)}' in {self.at(_line(node))}"

    def _count(self, node: yaml.Node) -> None:
        self._visited += 1
        if self._visited > MAX_NODES:
            raise ConfigError(f"{self.at(_line(node))} expands to more than {MAX_NODES} values; use fewer aliases")

    @contextmanager
    def _opened(self, node: yaml.Node, path: KeyPath) -> Iterator[None]:
        where = self.at(_line(node))
        if id(node) in self._open:
            raise ConfigError(f"the alias of the value in {where} stands inside that value; expected no recursion")
        if len(self._open) >= MAX_DEPTH:
            raise ConfigError(f"'{dotted(path[:3])}' in {where} is nested more than {MAX_DEPTH} levels deep")
        self._open.add(id(node))
        yield
        self._open.discard(id(node))


def _float(text: str) -> float:
    word = text.lower()
    return float(word.replace(".", "") if "n" in word else word)  # '.inf' and '.nan' have a dot in YAML only


def _line(marked: Any) -> int:
    """The line (from 1) of a node or event."""
    return int(marked.start_mark.line) + 1
