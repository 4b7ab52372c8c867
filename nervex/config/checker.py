"""Checks values against type annotations and dataclasses, and collects what is wrong."""

import dataclasses
import functools
import math
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from nervex.config.source import ConfigSource, where
from nervex.utils.errors import ConfigError, did_you_mean
from nervex.utils.yaml_reader import KeyPath, dotted

MAX_PROBLEMS = 3
_MAX_LISTED = 12

IntOrInf: TypeAlias = Annotated[int | float, "positive int or infinity"]
"""A positive int, or infinity written ``inf``, ``.inf`` or ``'inf'``; the value is an int or ``float('inf')``."""

NOTHING = object()


@dataclass(frozen=True)
class Rule:
    """What an option says besides its type; bounds and choices hold for every number and string within the value."""

    doc: str = ""
    unit: str = ""
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    choices: tuple[Any, ...] | None = None
    required: bool = False

    def admits(self, value: Any) -> bool:
        """Returns whether a scalar is one of the choices and, if a number, within the bounds."""
        if self.choices is not None and value not in self.choices:
            return False
        if isinstance(value, bool) or not isinstance(value, int | float):
            return True
        return (
            (self.ge is None or value >= self.ge)
            and (self.gt is None or value > self.gt)
            and (self.le is None or value <= self.le)
            and (self.lt is None or value < self.lt)
        )

    def text(self) -> str:
        """Returns the bounds or choices in words: ``at least 1``; empty when there are none."""
        if self.choices is not None:
            return "one of " + ", ".join(repr(choice) for choice in self.choices)
        if self.ge is not None and self.le is not None:
            return f"from {self.ge} to {self.le}"
        bounds = {"at least": self.ge, "greater than": self.gt, "at most": self.le, "less than": self.lt}
        return " and ".join(f"{word} {bound}" for word, bound in bounds.items() if bound is not None)


@dataclass(frozen=True)
class Entry:
    """One field of a schema."""

    annotation: Any
    rule: Rule
    field: dataclasses.Field[Any]

    def default(self) -> Any:
        """Returns a fresh default, or ``NOTHING`` when the key is required."""
        factory = self.field.default_factory
        if self.rule.required or (_is_section(self.annotation) and factory is self.annotation):
            return NOTHING  # a section is built from the defaults of its class, so that it may hold required keys
        if factory is not dataclasses.MISSING:
            return factory()
        return NOTHING if self.field.default is dataclasses.MISSING else self.field.default


@functools.cache
def entries_of(cls: type) -> dict[str, Entry]:
    """Returns the fields of a schema dataclass: key -> entry, in order."""
    hints = get_type_hints(cls, include_extras=True)
    return {
        f.name: Entry(hints[f.name], f.metadata.get("option", Rule()), f) for f in dataclasses.fields(cls) if f.init
    }


def section_class(annotation: Any) -> type | None:
    """Returns the dataclass behind an annotation that is one dataclass, or that or None."""
    members = [m for m in get_args(annotation) if m is not types.NoneType] if _is_union(annotation) else [annotation]
    return members[0] if len(members) == 1 and _is_section(members[0]) else None


def type_text(annotation: Any) -> str:
    """Returns an annotation in a user's words: ``int``, ``list of str``, ``'exp' or 'linear'``, ``int or null``."""
    args = get_args(annotation)
    if annotation == IntOrInf:
        return "positive int or inf"
    if get_origin(annotation) is Annotated:
        return type_text(args[0])
    if get_origin(annotation) is Literal:
        return " or ".join(repr(arg) for arg in args)
    if _is_union(annotation):
        return " or ".join(type_text(arg) for arg in args)
    return _plain_text(annotation)


def _plain_text(annotation: Any) -> str:
    if _is_section(annotation):
        return "mapping"
    args = get_args(annotation)
    kind = _KIND_OF.get(get_origin(annotation) or annotation, getattr(annotation, "__name__", str(annotation)))
    if kind == "list" and args:
        return f"list of {', '.join(map(type_text, args)) if _is_fixed(annotation) else type_text(args[0])}"
    return f"{kind} of {type_text(args[1])}" if kind == "mapping" and args else kind


def expected_text(annotation: Any, rule: Rule) -> str:
    """Returns what an option takes: ``int, at least 1``."""
    constraint = rule.text()
    return f"{type_text(annotation)}, {constraint}" if constraint else type_text(annotation)


def understood(annotation: Any) -> bool:
    """Returns whether ``Checker.value`` knows every part of an annotation."""
    if get_origin(annotation) in (Literal, Annotated):
        return get_origin(annotation) is Literal or annotation == IntOrInf
    kind = get_origin(annotation) or annotation
    return kind in _HANDLERS and all(arg is Ellipsis or understood(arg) for arg in get_args(annotation))


def known_text(names: Collection[str]) -> str:
    """Returns the names in a row, cut when there are many."""
    listed = ", ".join(list(names)[:_MAX_LISTED])
    return f"{listed} and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else listed or "none"


class Checker:
    """Converts values and collects the problems met on the way.

    Args:
        source: the user's configuration, for the places in messages.
        elsewhere: key -> dotted paths at which that key is known, for keys written at the wrong level.
    """

    def __init__(self, source: ConfigSource, elsewhere: Mapping[str, Collection[str]] | None = None) -> None:
        self.source = source
        self.problems: list[str] = []
        self._elsewhere = elsewhere or {}

    def finish(self) -> None:
        """Raises one ConfigError with a line for each of the first problems, if there are any."""
        if self.problems:
            lines = self.problems[:MAX_PROBLEMS]
            more = len(self.problems) - len(lines)
            raise ConfigError("\n".join(lines) + (f"\nand {more} more" if more else ""))

    def section(self, cls: type, data: Any, path: KeyPath, defaults: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Returns a mapping with every key of the dataclass ``cls``, checked, defaults filled in."""
        if data is None:  # a section of which every line is commented out
            data = {}
        if not isinstance(data, Mapping):
            self.wrong(path, data, "mapping")
            return {}
        entries, defaults = entries_of(cls), defaults or {}
        result = {}
        for key, entry in entries.items():
            default = defaults.get(key, entry.default())
            nested = section_class(entry.annotation)
            if nested and (isinstance(data.get(key), Mapping) or _is_section(entry.annotation)):
                result[key] = self.section(nested, data.get(key), (*path, key), as_mapping(default))
            elif key in data:
                result[key] = self.value(entry.annotation, data[key], (*path, key), entry.rule)
            elif default is NOTHING:
                self.missing((*path, key), f"expected {expected_text(entry.annotation, entry.rule)}")
            else:
                result[key] = self._default(cls, key, default)
        for key in data:
            if key not in entries and getattr(cls, "open_keys", False):
                result[key] = self._anything(Any, data[key], (*path, key), Rule())
            elif key not in entries:
                self.unknown((*path, key), entries)
        return result

    def value(self, annotation: Any, value: Any, path: KeyPath, rule: Rule) -> Any:
        """Returns ``value`` as the annotation asks for (an int as float, say); notes a problem when it cannot be."""
        if _is_section(annotation):
            return self.section(annotation, value, path)
        kind = get_origin(annotation) or annotation
        if kind not in _HANDLERS:
            raise TypeError(f"a schema cannot hold {annotation!r} ('{dotted(path)}')")
        return _HANDLERS[kind](self, annotation, value, path, rule)

    def wrong(self, path: KeyPath, value: Any, expected: str, kind: bool = True) -> None:
        """Notes a value that is not what was expected."""
        self.problems.append(f"'{dotted(path)}' {self._where(path)} is {shown(value, kind)}; expected {expected}")

    def missing(self, path: KeyPath, why: str) -> None:
        """Notes a required key that is not there."""
        self.problems.append(f"missing key '{dotted(path)}' {self._where(path)}; {why}")

    def unknown(self, path: KeyPath, known: Collection[str], owner: str = "known here") -> None:
        """Notes an unknown key, with the place where it belongs or the nearest known one."""
        key = str(path[-1])
        near = sorted(self._elsewhere.get(key, ()), key=lambda place: -_common(place, path))
        hint = f"; did you mean '{near[0]}'?" if near else did_you_mean(key, known)
        hint = hint or f"; {owner}: {known_text(known)}"
        self.problems.append(f"unknown key '{dotted(path)}' {self._where(path)}{hint}")

    def _where(self, path: KeyPath) -> str:
        return where(self.source, path)

    def _default(self, cls: type, key: str, default: Any) -> Any:
        entry = entries_of(cls)[key]
        trial = Checker(ConfigSource({}, name=f"the defaults of {cls.__name__}"))
        result = trial.value(entry.annotation, _as_data(default), (key,), entry.rule)
        if trial.problems:
            raise TypeError(trial.problems[0])
        return result

    def _anything(self, annotation: Any, value: Any, path: KeyPath, rule: Rule) -> Any:
        if isinstance(value, Mapping):
            return {k: self._anything(annotation, v, (*path, k), rule) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [self._anything(annotation, v, (*path, i), rule) for i, v in enumerate(value)]
        return self._bounded(annotation, value, path, rule)

    def _bounded(self, annotation: Any, value: Any, path: KeyPath, rule: Rule) -> Any:
        if isinstance(value, float) and math.isnan(value):
            expected = "a number" if annotation is Any else expected_text(annotation, rule)
            self.wrong(path, value, expected, kind=False)
        elif value is not None and not rule.admits(value):
            expected = expected_text(annotation, rule)
            near = did_you_mean(value, rule.choices) if rule.choices and isinstance(value, str) else ""
            self.wrong(path, value, expected + near, kind=False)
        return value

    def _scalar(self, annotation: Any, value: Any, path: KeyPath, rule: Rule) -> Any:
        if type(value) is annotation:
            return self._bounded(annotation, value, path, rule)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if annotation is float and number and abs(value) < 1e308:
            return float(self._bounded(annotation, value, path, rule))
        if annotation is int and isinstance(value, float) and value.is_integer():
            return int(self._bounded(annotation, value, path, rule))
        hint = f" (quote it: '{value}')" if annotation is str and number else ""
        self.wrong(path, value, expected_text(annotation, rule) + hint)
        return value

    def _int_or_inf(self, annotation: Any, value: Any, path: KeyPath, rule: Rule) -> Any:
        if annotation != IntOrInf:
            return self.value(get_args(annotation)[0], value, path, rule)
        if isinstance(value, str) and value.strip("'\" ").lower() in ("inf", ".inf"):
            value = math.inf
        whole = isinstance(value, int | float) and not isinstance(value, bool)
        if not whole or not (value == math.inf or (value >= 1 and value == math.floor(value))):
            self.wrong(path, value, expected_text(annotation, rule), kind=not whole)
            return value
        return self._bounded(annotation, value if value == math.inf else int(value), path, rule)

    def _literal(self, annotation: Any, value: Any, path: KeyPath, rule: Rule) -> Any:
        options = get_args(annotation)
        if not any(type(option) is type(value) and option == value for option in options):
            same_type = any(type(option) is type(value) for option in options)
            near = did_you_mean(value, options) if isinstance(value, str) else ""
            self.wrong(path, value, type_text(annotation) + near, kind=not same_type)
        return value

    def _union(self, annotation: Any, value: Any, path: KeyPath, rule: Rule) -> Any:
        members = get_args(annotation)
        exact = [m for m in members if _data_type(m) is type(value)]
        trials = []
        for member in [*exact, *(m for m in members if m not in exact)]:
            trial = Checker(self.source, self._elsewhere)
            result = trial.value(member, value, path, rule)
            if not trial.problems:
                return result
            trials.append(trial)
        if exact and isinstance(value, dict | list):  # the trouble is inside: say where
            self.problems += min(trials[: len(exact)], key=lambda trial: len(trial.problems)).problems
        else:
            self.wrong(path, value, expected_text(annotation, rule), kind=not exact)
        return value

    def _sequence(self, annotation: Any, value: Any, path: KeyPath, rule: Rule) -> Any:
        args = get_args(annotation)
        fixed = _is_fixed(annotation)
        if not isinstance(value, list | tuple) or (fixed and len(value) != len(args)):
            self.wrong(path, value, expected_text(annotation, rule))
            return value
        kinds = args if fixed else (args[0] if args else Any,) * len(value)
        return [self.value(kind, v, (*path, i), rule) for i, (kind, v) in enumerate(zip(kinds, value, strict=True))]

    def _mapping(self, annotation: Any, value: Any, path: KeyPath, rule: Rule) -> Any:
        if not isinstance(value, Mapping):
            self.wrong(path, value, expected_text(annotation, rule))
            return value
        kind = get_args(annotation)[1] if get_args(annotation) else Any
        return {k: self.value(kind, v, (*path, k), rule) for k, v in value.items()}


_HANDLERS: dict[Any, Callable[[Checker, Any, Any, KeyPath, Rule], Any]] = {
    **dict.fromkeys((bool, int, float, str, types.NoneType), Checker._scalar),
    **dict.fromkeys((Union, types.UnionType), Checker._union),
    **dict.fromkeys((list, tuple, Sequence), Checker._sequence),
    **dict.fromkeys((dict, Mapping), Checker._mapping),
    Any: Checker._anything,
    Annotated: Checker._int_or_inf,
    Literal: Checker._literal,
}
_KIND_OF: dict[Any, str] = {
    **dict.fromkeys((list, tuple, Sequence), "list"),
    **dict.fromkeys((dict, Mapping), "mapping"),
    types.NoneType: "null",
    Any: "anything",
    bool: "true or false",
}


def shown(value: Any, kind: bool = True) -> str:
    """Returns a value as the user wrote it, cut when long, with its type unless ``kind`` is False."""
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return "a mapping"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    text = text if len(text) <= 60 else f"{text[:57]}..."
    return f"{text} ({type(value).__name__})" if kind else text


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, types.UnionType)


def _is_fixed(annotation: Any) -> bool:
    """Whether it is a tuple of so many items (``tuple[int, str]``)."""
    return get_origin(annotation) is tuple and Ellipsis not in get_args(annotation)


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and dataclasses.is_dataclass(annotation)


def _data_type(annotation: Any) -> Any:
    """The type that data of this annotation has before any conversion."""
    kind = get_origin(annotation) or annotation
    if _is_section(kind) or kind is Mapping:
        return dict
    return list if kind in (tuple, Sequence) else kind


def as_mapping(default: Any) -> Mapping[str, Any]:
    """Returns a section's default as key -> default; each of them may be a dataclass again."""
    if _is_instance(default):
        return {f.name: getattr(default, f.name) for f in dataclasses.fields(default)}
    return default if isinstance(default, Mapping) else {}


def _is_instance(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _as_data(default: Any) -> Any:
    if _is_instance(default) or isinstance(default, Mapping):
        return {key: _as_data(value) for key, value in as_mapping(default).items()}
    return [_as_data(item) for item in default] if isinstance(default, list | tuple) else default


def _common(place: str, path: KeyPath) -> int:
    parts = place.split(".")
    return next((i for i, (a, b) in enumerate(zip(parts, path, strict=False)) if a != b), len(path))
