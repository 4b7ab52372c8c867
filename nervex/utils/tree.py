"""Maps over nested dicts, lists and tuples of arrays (``optree``, typed as what it is here: anything)."""

from collections.abc import Callable
from typing import Any

import optree

tree_map: Callable[..., Any] = optree.tree_map
"""``tree_map(fn, tree, *rest)`` returns the tree of ``fn(leaf, *rest_leaves)``; dict keys in sorted order."""

tree_map_: Callable[..., Any] = optree.tree_map_
"""The same for a function that works in place."""

tree_leaves: Callable[[Any], list[Any]] = optree.tree_leaves
"""Returns the leaves."""

tree_flatten_with_path: Callable[[Any], tuple[list[Any], list[Any], Any]] = optree.tree_flatten_with_path
"""Returns the paths of the leaves, the leaves, and the structure."""
