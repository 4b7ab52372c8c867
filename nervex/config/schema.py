"""Dataclasses as schemas of the configuration.

    @dataclass
    class EpsConfig:
        type: Literal["exp", "linear"] = option("exp", doc="shape of the decay")
        start: float = option(0.95, ge=0, le=1, doc="exploration rate at iteration 0")

    @dataclass
    class CommandConfig:
        eps: EpsConfig = option(default_factory=EpsConfig)

    cfg = build(CommandConfig, source.data["policy"]["command"], source, ("policy", "command"))

A class with ``open_keys: ClassVar[bool] = True`` keeps the keys that it does not know as they are.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from copy import deepcopy
from typing import Any, get_args, get_origin, get_type_hints

from nervex.config.checker import (
    NOTHING,
    Checker,
    Entry,
    IntOrInf,
    Rule,
    as_mapping,
    entries_of,
    section_class,
    type_text,
    understood,
)
from nervex.config.frozen import FrozenConfig
from nervex.config.source import ConfigSource, fail, locate, where
from nervex.utils.yaml_reader import KeyPath, dotted

__all__ = ["IntOrInf", "build", "check_signature", "describe", "fail", "key_paths", "locate", "option", "where"]


def option(
    default: Any = dataclasses.MISSING,
    doc: str = "",
    unit: str = "",
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    choices: Collection[Any] | None = None,
    default_factory: Callable[[], Any] | None = None,
) -> Any:
    """Returns a dataclass field that carries its checks and documentation.

    Without ``default`` and ``default_factory`` the key is required, unless the field is a section (a dataclass):
    that is then built from its own defaults. Fields with and without default may stand in any order.

    Args:
        default: its value when the user gives none; lists and dicts are copied for every use.
        doc: one line for the documentation.
        unit: such as ``env steps``.
        ge: smallest number allowed; bounds hold for every number inside lists and mappings too.
        gt: number that must be exceeded.
        le: largest number allowed.
        lt: number that must not be reached.
        choices: the values allowed.
        default_factory: makes the default; for a section, its class, or a function that returns an instance or a
            mapping, whose values then go before the defaults of the class.
    """
    required = default is dataclasses.MISSING and default_factory is None
    rule = Rule(doc, unit, ge, gt, le, lt, None if choices is None else tuple(choices), required)
    metadata = {"option": rule}
    if required:
        return dataclasses.field(default_factory=_no_default, metadata=metadata)
    if default_factory is not None:
        return dataclasses.field(default_factory=default_factory, metadata=metadata)
    if default.__hash__ is None:
        return dataclasses.field(default_factory=functools.partial(deepcopy, default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def build(
    cls: type,
    data: Mapping[str, Any] | None,
    source: ConfigSource,
    path: KeyPath = (),
    elsewhere: Mapping[str, Collection[str]] | None = None,
) -> dict[str, Any]:
    """Returns ``data`` checked against the schema ``cls``: plain, nested, every key of the schema filled in.

    Numbers take the type that the schema names (``1e5`` is an int for an int option). Sequences are lists, also where
    the annotation is a tuple, so that a saved and a fresh configuration are equal. ``data`` is neither changed nor
    aliased.

    Args:
        cls: a dataclass whose fields are made by ``option``.
        data: what the user gave at ``path``; None is an empty section.
        source: where it comes from, for the places in messages.
        path: key path of ``data`` in the source.
        elsewhere: key -> dotted paths at which other schemas know it (see ``key_paths``), so that a key at the wrong
            level is told where it belongs. The keys of ``cls`` itself are known already.

    Raises:
        ConfigError: one line for each of the first three problems: unknown key, missing key, wrong type, out of range.
    """
    places = {key: list(paths) for key, paths in (elsewhere or {}).items()}
    for key, paths in key_paths(cls, path).items():
        places.setdefault(key, []).extend(paths)
    checker = Checker(source, places)
    result = checker.section(cls, data, path)
    checker.finish()
    return result


def complete(cls: type, cfg: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns a section that a caller wrote by hand, checked and with defaults filled in; one of a compiled
    configuration is returned as it is."""
    if isinstance(cfg, FrozenConfig):
        return cfg
    source = ConfigSource.from_dict(cfg, name=cls.__name__)
    return FrozenConfig(build(cls, source.data, source))


def key_paths(cls: type, path: KeyPath = ()) -> dict[str, list[str]]:
    """Returns every key of a schema with the dotted paths at which it stands, ``path`` before them."""
    places: dict[str, list[str]] = {}
    for key, entry in entries_of(cls).items():
        places.setdefault(key, []).append(dotted((*path, key)))
        nested = section_class(entry.annotation)
        if nested:
            for sub, paths in key_paths(nested, (*path, key)).items():
                places.setdefault(sub, []).extend(paths)
    return places


def check_signature(
    function: Callable[..., Any],
    kwargs: Mapping[str, Any] | None,
    source: ConfigSource,
    path: KeyPath,
    later: Collection[str] = (),
) -> dict[str, Any]:
    """Returns ``kwargs`` checked against what a function or class takes.

    Values are checked and converted where the parameter is annotated with plain types (``int``, ``list[int]``,
    ``str | None``, ...); a value equal to the parameter's default always passes.

    Args:
        function: a function, a class, or a ``functools.partial`` of one.
        kwargs: such as ``policy.model``; None is empty.
        source: where they come from, for the places in messages.
        path: their key path.
        later: parameters that the caller fills in itself, not missing yet.

    Raises:
        ConfigError: a key that it does not take, a required one that is missing, or a value of the wrong type.
    """
    checker = Checker(source)
    if kwargs is not None and not isinstance(kwargs, Mapping):
        checker.wrong(path, kwargs, "mapping")
        checker.finish()
    name = _name_of(function)
    parameters, takes_any = _parameters(function)
    result = {}
    for key, value in (kwargs or {}).items():
        parameter = parameters.get(key)
        result[key] = deepcopy(value)
        if parameter is None:
            if not takes_any:
                checker.unknown((*path, key), parameters, f"{name} takes")
        elif not _is_default(value, parameter) and understood(parameter.annotation):
            result[key] = checker.value(parameter.annotation, value, (*path, key), Rule())
    for key, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and key not in result and key not in later:
            checker.missing((*path, key), f"{name} needs it")
    checker.finish()
    return result


def describe(cls: type, path: KeyPath = ()) -> list[dict[str, str]]:
    """Returns the documentation of a schema: a row per option, sections flattened.

    Each row has ``path``, ``type``, ``default`` (as in YAML, or ``required``), ``unit``, ``doc``, ``constraint``.
    """
    return _describe(cls, path, {})


def _describe(cls: type, path: KeyPath, defaults: Mapping[str, Any]) -> list[dict[str, str]]:
    rows = []
    for key, entry in entries_of(cls).items():
        default = defaults.get(key, entry.default())
        nested = section_class(entry.annotation)
        if nested is not entry.annotation:
            rows.append(_row((*path, key), entry, default))
        if nested is not None:
            rows += _describe(nested, (*path, key), as_mapping(default))
        args = get_args(entry.annotation)
        if get_origin(entry.annotation) is dict and (named := section_class(args[1])):
            rows += _describe(named, (*path, key, "<name>"), {})
    return rows


def _row(path: KeyPath, entry: Entry, default: Any) -> dict[str, str]:
    return {
        "path": dotted(path),
        "type": type_text(entry.annotation),
        "default": "required" if default is NOTHING else _yaml_text(default),
        "unit": entry.rule.unit,
        "doc": entry.rule.doc,
        "constraint": entry.rule.text(),
    }


def _yaml_text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return str(value)


def _no_default() -> Any:
    raise TypeError("a required option has no default; build() takes it from the configuration")


def _parameters(function: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    """Returns the parameters that may be given by name, annotations resolved, and whether there is a ``**kwargs``."""
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):  # a built-in without one: nothing can be said
        return {}, True
    hints = _hints(function)
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = {
        name: p.replace(annotation=hints.get(name, p.empty))
        for name, p in signature.parameters.items()
        if p.kind in by_name
    }
    return parameters, any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())


def _is_default(value: Any, parameter: inspect.Parameter) -> bool:
    return type(value) is type(parameter.default) and bool(value == parameter.default)


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    inner = _innermost(function)
    try:
        target = getattr(inner, "__init__", inner) if isinstance(inner, type) else inner
        return get_type_hints(target, include_extras=True)
    except (NameError, TypeError, AttributeError):  # annotations that only a type checker can resolve
        return {}


def _innermost(function: Callable[..., Any]) -> Any:
    while isinstance(function, functools.partial):
        function = function.func
    return function


def _name_of(function: Callable[..., Any]) -> str:
    return getattr(_innermost(function), "__name__", str(function))
