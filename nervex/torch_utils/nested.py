"""A map over nested containers that keeps every type: dicts of their own class, namedtuples, lists, tuples."""

import copy
from collections.abc import Callable, Sequence
from typing import Any


def map_nested(leaf: Callable[[Any], Any], item: Any, ignore_keys: Sequence[str] = ()) -> Any:
    """Returns ``item`` with ``leaf(value)`` in place of each value that is no dict, list or tuple.

    Unlike ``nervex.utils.tree`` it keeps the order of keys, looks into subclasses of dict, and takes None for a leaf.

    Args:
        leaf: called with each value.
        item: nested dicts, lists, tuples and namedtuples; they are not changed.
        ignore_keys: dict keys, at any depth, whose values stay as they are.
    """
    if isinstance(item, dict):
        mapped = copy.copy(item)
        for key, value in item.items():
            if key not in ignore_keys:
                mapped[key] = map_nested(leaf, value, ignore_keys)
        return mapped
    if isinstance(item, list | tuple):
        parts = [map_nested(leaf, value, ignore_keys) for value in item]
        return type(item)(*parts) if hasattr(item, "_fields") else type(item)(parts)
    return leaf(item)
