"""Whether two checkpoints of two runs are the same, bit for bit, part by part."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

# what two equal runs do not share: seconds, and places in files whose rows hold seconds
_OF_THE_CLOCK = frozenset({"run/wall_s", "run/cpu_s", "log"})


class PartDiff(NamedTuple):
    """What one part of two states has in common.

    Attributes:
        part: its name.
        leaf_num: numbers, texts and tensors in the first.
        digest: of the first, SHA-256 in hexadecimal.
        first: the first difference, in words; None: identical.
        different_num: leaves that differ, those that only one has included.
    """

    part: str
    leaf_num: int
    digest: str
    first: str | None
    different_num: int


def compare_states(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[PartDiff]:
    """Returns the comparison of each part (entry of the dict) of two state trees, NaN being equal to the same NaN.

    Entry ``policy`` is divided into its own parts (optimizer, target network, ...); seconds are left out.
    """
    parts = [(name, one.get(name), other.get(name)) for name in {**one, **other} if name != "policy"]
    first, second = one.get("policy") or {}, other.get("policy") or {}
    parts += [(f"policy/{name}", first.get(name), second.get(name)) for name in {**first, **second}]
    return [_compare(name, a, b) for name, a, b in parts if name not in _OF_THE_CLOCK]


def _compare(part: str, one: Any, other: Any) -> PartDiff:
    a = {path: leaf for path, leaf in leaves(one, part) if path not in _OF_THE_CLOCK}
    b = {path: leaf for path, leaf in leaves(other, part) if path not in _OF_THE_CLOCK}
    different = [path for path in {**a, **b} if path not in a or path not in b or _bytes(a[path]) != _bytes(b[path])]
    digest = hashlib.sha256()
    for path, leaf in a.items():
        digest.update(f"{path}\0".encode())
        digest.update(_bytes(leaf))
    first = _difference(different[0], a, b) if different else None
    return PartDiff(part, len(a), digest.hexdigest(), first, len(different))


def leaves(tree: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yields ``(path, leaf)`` of a state tree in order; an empty dict, list or tuple is a leaf."""
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            yield from leaves(value, f"{path}/{key}")
    elif isinstance(tree, list | tuple) and tree:
        for i, value in enumerate(tree):
            yield from leaves(value, f"{path}/{i}")
    else:
        yield path, tree


def _bytes(leaf: Any) -> bytes:
    """Returns a leaf's kind, shape and memory."""
    if isinstance(leaf, Tensor):
        flat = leaf.detach().cpu().contiguous().reshape(-1)
        return f"{leaf.dtype} {list(leaf.shape)} ".encode() + flat.view(torch.uint8).numpy().tobytes()
    if isinstance(leaf, np.ndarray | np.generic):
        return f"{leaf.dtype.str} {leaf.shape} ".encode() + leaf.tobytes()
    return f"{type(leaf).__name__} {leaf!r}".encode()


def _difference(path: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    if path not in a or path not in b:
        return f"{path} is in the {'second' if path in b else 'first'} only"
    one, other = a[path], b[path]
    if not (_is_array(one) and _is_array(other)):
        return f"{path} is {str(one)[:60]}, then {str(other)[:60]}"
    if one.shape != other.shape or one.dtype != other.dtype:
        return f"{path} is {one.dtype} {list(one.shape)}, then {other.dtype} {list(other.shape)}"
    mine, theirs = _rows(one), _rows(other)
    where = np.flatnonzero((mine != theirs).any(1))
    i = int(where[0])
    shown = f"{one.reshape(-1)[i]}, then {other.reshape(-1)[i]}"
    return f"{path}: {len(where):,} of {len(mine):,} elements, first [{i}] {shown}"


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, Tensor | np.ndarray)


def _rows(array: Any) -> np.ndarray:
    """Returns the bytes of each element, [elements, bytes]."""
    if isinstance(array, Tensor):
        flat = array.detach().cpu().contiguous().reshape(-1)
        return flat.view(torch.uint8).numpy().reshape(len(flat), -1)
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).reshape(array.size, -1)
