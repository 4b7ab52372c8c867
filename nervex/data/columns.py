"""Columns: nested dicts of arrays that share their leading dimensions."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from nervex.utils.tree import tree_flatten_with_path, tree_map

Columns = dict[str, Any]


def to_plain(tree: Any) -> Any:
    """Returns ``tree`` with every mapping and named tuple in it turned into a plain dict (arrays are shared)."""
    if isinstance(tree, Mapping):
        return {k: to_plain(v) for k, v in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return {k: to_plain(getattr(tree, k)) for k in tree._fields}
    return tree


def to_numpy(tree: Any) -> Any:
    """Returns ``tree`` with tensors replaced by arrays that share their memory (copied when on a GPU)."""
    return tree_map(lambda x: x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x), tree)


def flatten(tree: Columns) -> dict[str, np.ndarray]:
    """Returns the leaves of nested columns by path, in key order: ``{'obs/agent_state': array}``."""
    flattened: Any = tree_flatten_with_path(tree)
    paths, leaves, _ = flattened
    return {"/".join(map(str, path)): leaf for path, leaf in zip(paths, leaves, strict=True)}


def nest(flat: Mapping[str, Any]) -> Columns:
    """The inverse of :func:`flatten`."""
    tree: Columns = {}
    for path, leaf in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def nbytes(flat: Mapping[str, np.ndarray]) -> int:
    """Returns the bytes that the arrays hold."""
    return sum(a.nbytes for a in flat.values())
