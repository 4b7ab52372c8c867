"""Functions and methods that do what they did, and return zeros of the same shape."""

import abc
import copy
import functools
import inspect
import sys
from collections.abc import Callable
from enum import Enum
from types import GeneratorType
from typing import Any

import numpy as np
import torch
from torch import nn


def zeros(value: Any) -> Any:
    """Returns zeros of the shape, dtype and structure of ``value``; a tensor's still has a graph, whose gradients are
    zero; of a function or module one that returns zeros; of another object a copy whose attributes are zeros."""
    for kind, make in _KINDS:
        if isinstance(value, kind):
            return make(value)
    if inspect.isclass(value):
        made = {"forward": zeroed(value.forward)} if hasattr(value, "forward") else {}
        return type(value.__name__, (value,), made)
    return zeroed(value) if inspect.isroutine(value) else _blank(value)


def _tensor(value: torch.Tensor) -> torch.Tensor:
    return torch.nan_to_num(value).mul(0) if value.requires_grad else torch.zeros_like(value)


def _dict(value: dict) -> dict:
    emptied = copy.copy(value)
    for key, part in value.items():
        dict.__setitem__(emptied, key, zeros(part))
    return emptied


def _sequence(value: Any) -> Any:
    parts = [zeros(part) for part in value]
    return tuple.__new__(type(value), parts) if hasattr(value, "_fields") else type(value)(parts)


def _module(value: nn.Module) -> nn.Module:
    value.forward = zeroed(value.forward)  # type: ignore[method-assign]
    return value


def _blank(value: Any) -> Any:
    """Returns a copy of an object whose plain attributes are zeros, and whose functions return zeros; None if it has no
    such attribute, or cannot be copied."""
    plain = torch.Tensor | np.ndarray | dict | list | tuple | int | float | str
    held = getattr(value, "__dict__", {}).items()
    attributes = {k: zeros(v) for k, v in held if isinstance(v, plain) or inspect.isroutine(v)}
    try:
        blank = copy.copy(value) if attributes else None
    except TypeError:
        return None
    if blank is not None:
        blank.__dict__.update(attributes)
    return blank


_KINDS: list[tuple[Any, Callable[[Any], Any]]] = [
    (torch.Tensor, _tensor),
    (np.ndarray, np.zeros_like),
    (Enum, _blank),
    (str | bytes | bool | int | float | complex | np.generic, lambda value: type(value)()),
    (dict, _dict),
    (list | tuple, _sequence),
    (nn.Module, _module),
    (GeneratorType, lambda value: map(zeros, value)),
]


def zeroed(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that returns zeros; one that is there for its effect alone (its annotation says None) does
    nothing; what had to be written by a subclass (it was abstract) need not be any more."""
    if getattr(function, "__annotations__", {}).get("return", ...) in (None, "None"):
        return _like(function, lambda *args, **kwargs: None)
    return _like(function, lambda *args, **kwargs: zeros(function(*args, **kwargs)))


def _like(function: Callable[..., Any], replacement: Callable[..., Any]) -> Callable[..., Any]:
    functools.update_wrapper(replacement, function)
    vars(replacement).pop("__isabstractmethod__", None)
    return replacement


def replace_method(owner: type, name: str) -> None:
    """Zeroes one method, or the reading of one property, of a class."""
    found = inspect.getattr_static(owner, name)
    if isinstance(found, property):
        replacement: Any = property(zeroed(found.fget), found.fset)
    elif isinstance(found, staticmethod | classmethod):
        replacement = type(found)(zeroed(found.__func__))
    else:
        replacement = zeroed(found)
    setattr(owner, name, replacement)
    abc.update_abstractmethods(owner)


def replace(owner: Any, method: str | None = None) -> None:
    """Zeroes a function in every loaded module that holds it, or a class: one method, the forward of a module, the
    values of an enumeration, the fields of a named tuple, or else all its public methods and its call."""
    if not inspect.isclass(owner):
        put_everywhere(owner, zeroed(owner))
    elif method is not None:
        replace_method(owner, method)
    elif issubclass(owner, nn.Module):
        replace_method(owner, "forward")
    elif issubclass(owner, Enum):
        for member in owner:
            member._value_ = zeros(member.value)
    elif issubclass(owner, tuple):
        new = owner.__new__
        owner.__new__ = lambda cls, *args, **kwargs: zeros(new(cls, *args, **kwargs))  # type: ignore[method-assign, assignment]
    else:
        names = [n for n in dir(owner) if not n.startswith("_") or n in ("__call__", "__get__", "__next__")]
        for name in names:
            found = inspect.getattr_static(owner, name)
            if inspect.isfunction(found) or isinstance(found, property | staticmethod | classmethod):
                replace_method(owner, name)


def put_everywhere(old: Any, new: Any) -> None:
    """Puts ``new`` in the place of ``old`` in every module that is loaded."""
    for module in list(sys.modules.values()):
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if value is old:
                setattr(module, name, new)
