"""Columns: nested dicts of arrays that share their leading dimensions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from nervex.utils.errors import SpecError
from nervex.utils.tree import tree_flatten_with_path, tree_map

Columns = dict[str, Any]
KeyPlan = list[tuple[str, Any]]
"""The keys of nested dicts in order and, for a key that holds a dict, the plan of that one."""
_ARRAYS: Any = (np.ndarray, torch.Tensor)


def to_plain(tree: Any) -> Any:
    """Returns ``tree`` with every mapping and named tuple in it turned into a plain dict (arrays are shared)."""
    if isinstance(tree, Mapping):
        return {k: to_plain(v) for k, v in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return {k: to_plain(getattr(tree, k)) for k in tree._fields}
    return tree


def stack(items: Sequence[Any]) -> Any:
    """Returns samples as one batch: each leaf of theirs as a tensor [B, ...], in the order of ``items``.

    Args:
        items: nested mappings (or single values) of tensors, arrays and numbers, all of one layout.

    Raises:
        SpecError: there are none, their keys or shapes differ, or a leaf cannot be a tensor.
    """
    if not items:
        raise SpecError("cannot make a batch of no items; give at least one")
    try:
        return tree_map(
            lambda *leaves: torch.stack([x if isinstance(x, torch.Tensor) else torch.as_tensor(x) for x in leaves]),
            *map(to_plain, items),
        )
    except (RuntimeError, TypeError, ValueError) as e:
        layouts = [layout(item) for item in items]
        odd = next((i for i, text in enumerate(layouts) if text != layouts[0]), None)
        if odd is None:
            raise SpecError(f"the items hold {layouts[0]}, which cannot all be tensors: {e}") from e
        raise SpecError(
            f"item {odd} of a batch holds {layouts[odd]}, item 0 holds {layouts[0]}; give all one layout"
        ) from e


def layout(tree: Any) -> str:
    """Returns the keys, dtypes and shapes of nested data as text, for messages: ``{obs: float32 [4], done: bool}``."""
    if isinstance(tree, Mapping):
        return "{" + ", ".join(f"{key}: {layout(value)}" for key, value in tree.items()) + "}"
    if isinstance(tree, _ARRAYS):
        return f"{str(tree.dtype).removeprefix('torch.')} {list(tree.shape)}"
    return type(tree).__name__


def to_numpy(tree: Any) -> Any:
    """Returns ``tree`` with tensors replaced by arrays that share their memory (copied when on a GPU)."""
    if type(tree) is dict:
        return {k: to_numpy(v) for k, v in tree.items()}
    return _as_array(tree) if isinstance(tree, _ARRAYS) else tree_map(_as_array, tree)


def _as_array(leaf: Any) -> np.ndarray:
    if isinstance(leaf, torch.Tensor):
        plain = leaf.is_cpu and not leaf.requires_grad
        return leaf.numpy() if plain else leaf.detach().cpu().numpy()
    return np.asarray(leaf)


def flatten(tree: Columns) -> dict[str, np.ndarray]:
    """Returns the leaves of nested columns by path, in key order: ``{'obs/agent_state': array}``."""
    flat: dict[str, np.ndarray] = {}
    for key in sorted(tree):
        value = tree[key]
        if isinstance(value, _ARRAYS):
            flat[str(key)] = value
        else:
            paths, leaves, _ = tree_flatten_with_path(value)
            for path, leaf in zip(paths, leaves, strict=True):
                flat["/".join(map(str, (key, *path)))] = leaf
    return flat


def nest(flat: Mapping[str, Any]) -> Columns:
    """The inverse of :func:`flatten`."""
    tree: Columns = {}
    for path, leaf in flat.items():
        if "/" not in path:
            tree[path] = leaf
            continue
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def key_plan(tree: Columns) -> KeyPlan:
    """Returns the plan of nested dicts."""
    return [(key, key_plan(tree[key]) if isinstance(tree[key], dict) else None) for key in sorted(tree, key=str)]


def paths_of(plan: KeyPlan, prefix: str = "") -> list[str]:
    """Returns the paths of the leaves of a plan, in its order."""
    names = [[prefix + key] if part is None else paths_of(part, f"{prefix}{key}/") for key, part in plan]
    return [name for part in names for name in part]


def pick(tree: Any, plan: KeyPlan, leaves: list[Any]) -> bool:
    """Appends the leaves of ``tree``, in the order of the plan; False: it is not nested dicts of arrays or tensors with
    just the keys of the plan."""
    if not isinstance(tree, dict) or len(tree) != len(plan):
        return False
    for key, part in plan:
        value = tree.get(key)
        if part is not None:
            if not pick(value, part, leaves):
                return False
        elif isinstance(value, _ARRAYS):
            leaves.append(value)
        else:
            return False
    return True


def nbytes(flat: Mapping[str, np.ndarray]) -> int:
    """Returns the bytes that the arrays hold."""
    return sum(a.nbytes for a in flat.values())
