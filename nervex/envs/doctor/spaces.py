"""Declared spaces as trees of ``LeafSpec``, whichever API declares them: what fits into them, and random actions."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from nervex.envs.base_env import LeafSpec

_TOLERANCE = 1e-5  # of a bound, relative: float32 arithmetic, seen from float64


class Problem(NamedTuple):
    """How a value differs from its declaration."""

    level: str
    kind: str
    what: str
    fix: str


def gymnasium_spec(space: Any) -> Any:
    """Returns a Gymnasium space as a tree of ``LeafSpec`` with the space's own dtypes; None where it has none."""
    spaces = gymnasium.spaces
    if isinstance(space, spaces.Box):
        return LeafSpec(space.shape, space.dtype, space.low, space.high, "box")
    if isinstance(space, spaces.Discrete):
        return LeafSpec((), space.dtype, int(space.start), int(space.start + space.n - 1), "discrete", int(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        high = space.start + space.nvec - 1
        counts = tuple(int(n) for n in space.nvec.ravel())
        return LeafSpec(space.shape, space.dtype, space.start, high, "multi_discrete", counts)
    if isinstance(space, spaces.MultiBinary):
        return LeafSpec(space.shape, space.dtype, 0, 1, "multi_binary")
    if isinstance(space, spaces.Dict):
        return {key: gymnasium_spec(child) for key, child in space.spaces.items()}
    return tuple(map(gymnasium_spec, space.spaces)) if isinstance(space, spaces.Tuple) else None


def spec_leaves(spec: Any, name: str) -> Iterator[tuple[str, LeafSpec]]:
    """Yields ``(name, leaf)`` of every leaf."""
    if isinstance(spec, dict):
        for key, child in spec.items():
            yield from spec_leaves(child, f"{name}.{key}")
    elif isinstance(spec, tuple) and not isinstance(spec, LeafSpec):
        for i, child in enumerate(spec):
            yield from spec_leaves(child, f"{name}.{i}")
    elif spec is not None:
        yield name, spec


def value_leaves(value: Any) -> list[np.ndarray]:
    """Returns the arrays of a nested value, in an order that depends on its keys only."""
    if isinstance(value, Mapping):
        return [leaf for key in sorted(value, key=str) for leaf in value_leaves(value[key])]
    if isinstance(value, tuple):
        return [leaf for child in value for leaf in value_leaves(child)]
    try:
        return [np.asarray(value)]
    except (TypeError, ValueError):
        return []


def copied(value: Any) -> Any:
    """Returns a nested value with arrays of its own."""
    if isinstance(value, Mapping):
        return {key: copied(child) for key, child in value.items()}
    if isinstance(value, tuple):
        return tuple(copied(child) for child in value)
    return value.copy() if isinstance(value, np.ndarray) else value


def problems(spec: Any, value: Any, name: str, casts: bool) -> Iterator[Problem]:
    """Yields how ``value`` differs from its declaration.

    Args:
        spec: tree of ``LeafSpec``.
        value: what the env sent.
        name: what messages call it.
        casts: floats of another precision are cast on their way to the policy (Gymnasium's envs).
    """
    if isinstance(spec, dict):
        if not isinstance(value, Mapping) or set(value) != set(spec):
            got = f"keys {sorted(map(str, value))}" if isinstance(value, Mapping) else f"a {type(value).__name__}"
            yield Problem(
                "error",
                "obs-keys",
                f"{name} has {got}, declared are keys {sorted(map(str, spec))}",
                "send what the space declares, or correct the space",
            )
            return
        for key, child in spec.items():
            yield from problems(child, value[key], f"{name}.{key}", casts)
    elif isinstance(spec, tuple) and not isinstance(spec, LeafSpec):
        if not isinstance(value, tuple) or len(value) != len(spec):
            yield Problem(
                "error",
                "obs-keys",
                f"{name} is a {type(value).__name__}, declared is a tuple of {len(spec)}",
                "send what the space declares, or correct the space",
            )
            return
        for i, child in enumerate(spec):
            yield from problems(child, value[i], f"{name}.{i}", casts)
    elif spec is not None:
        yield from _leaf_problems(spec, value, name, casts)


def _leaf_problems(spec: LeafSpec, value: Any, name: str, casts: bool) -> Iterator[Problem]:
    declared = f"declared is {np.dtype(spec.dtype)} {list(spec.shape)}"
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):
        array = np.asarray(None)
    if array.dtype.kind not in "biuf":
        yield Problem(
            "error",
            "obs-type",
            f"{name} is a {type(value).__name__}"
            f"{f' of {array.dtype}' if isinstance(value, np.ndarray) else ''}, {declared}",
            "return a NumPy array of numbers",
        )
        return
    if array.shape != tuple(spec.shape):
        yield Problem(
            "error",
            "obs-shape",
            f"{name} has shape {list(array.shape)}, {declared}",
            "reshape it in the env, or correct the space",
        )
        return
    yield from _type_problem(spec, value, array, name, casts)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        where = tuple(np.argwhere(~np.isfinite(array))[0].tolist())
        yield Problem(
            "error",
            "obs-finite",
            f"{name}{_index(where)} is {array[where]}",
            "find the division, root or overflow that makes it; no network learns from it",
        )
        return
    yield from _bound_problem(spec, array, name)


def _type_problem(spec: LeafSpec, value: Any, array: np.ndarray, name: str, casts: bool) -> Iterator[Problem]:
    dtype = np.dtype(spec.dtype)
    known = isinstance(value, np.ndarray | np.generic | int | float | list)
    if not known or (spec.shape and not isinstance(value, np.ndarray)):
        yield Problem(
            "warning",
            "obs-type",
            f"{name} is a {type(value).__module__}.{type(value).__name__}, declared "
            f"is an array {dtype} {list(spec.shape)}",
            "return a NumPy array",
        )
    has_dtype = hasattr(value, "dtype")
    if not has_dtype or array.dtype == dtype:
        return
    if spec.kind == "discrete" and array.dtype.kind in "iu" and casts:
        return  # any integer names one of its values
    if casts and array.dtype.kind in "biuf" and dtype.kind == "f":
        if not np.can_cast(array.dtype, dtype):
            yield Problem(
                "warning",
                "obs-dtype",
                f"{name} is {array.dtype}, declared is {dtype}: it is cast at every step and is not in its space",
                f"return {dtype} (.astype(np.{dtype}))",
            )
        return
    yield Problem(
        "error",
        "obs-dtype",
        f"{name} is {array.dtype}, declared is {dtype}",
        f"return {dtype} (.astype(np.{dtype})), or correct the space",
    )


def _bound_problem(spec: LeafSpec, array: np.ndarray, name: str) -> Iterator[Problem]:
    if not array.size:
        return
    value = array.astype(np.float64)
    low, high = (np.broadcast_to(np.asarray(b, np.float64), value.shape) for b in (spec.low, spec.high))
    slack = 0.0 if array.dtype.kind in "biu" else _TOLERANCE
    with np.errstate(invalid="ignore"):
        below = value < low - slack * np.maximum(1.0, np.abs(low))
        above = value > high + slack * np.maximum(1.0, np.abs(high))
    for wrong, bound, word in ((below, low, "at least"), (above, high, "at most")):
        if wrong.any():
            where = tuple(np.argwhere(wrong)[0].tolist())
            yield Problem(
                "error",
                "obs-bounds",
                f"{name}{_index(where)} is {array[where]:.6g}, declared is {word} {bound[where]:.6g}",
                "widen the declared bounds, or clip in the env",
            )
            return


def _index(where: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, where))}]" if where else ""


def draw(spec: Any, rng: np.random.Generator, style: str, mask: Any = None) -> Any:
    """Returns an action of the space: ``style`` is ``'low'`` or ``'high'`` for its corners, else random.

    Args:
        spec: tree of ``LeafSpec``.
        mask: 1 or True where a discrete action (or one of each head, in a row) is allowed; None: all are.
    """
    if isinstance(spec, dict):
        return {key: draw(child, rng, style) for key, child in spec.items()}
    if not isinstance(spec, LeafSpec):
        return tuple(draw(child, rng, style) for child in spec)
    if spec.kind == "discrete":
        allowed = np.arange(spec.n) if mask is None else np.flatnonzero(np.asarray(mask).ravel()[: spec.n])
        return int(spec.low + _pick(allowed if allowed.size else np.arange(spec.n), rng, style))
    if spec.kind == "multi_discrete":
        heads = [np.arange(n) for n in spec.n]
        if mask is not None:
            cut = np.split(np.asarray(mask).ravel(), np.cumsum(spec.n)[:-1])
            heads = [np.flatnonzero(part) if np.any(part) else head for part, head in zip(cut, heads, strict=True)]
        picked = np.array([_pick(head, rng, style) for head in heads]).reshape(spec.shape)
        return (picked + np.broadcast_to(np.asarray(spec.low), spec.shape)).astype(spec.dtype)
    if spec.kind == "multi_binary":
        return (
            np.full(spec.shape, style == "high", spec.dtype)
            if style in ("low", "high")
            else rng.integers(0, 2, spec.shape).astype(spec.dtype)
        )
    return _draw_box(spec, rng, style)


def _pick(options: np.ndarray, rng: np.random.Generator, style: str) -> int:
    return int(options[{"low": 0, "high": -1}.get(style, int(rng.integers(len(options))))])


def _draw_box(spec: LeafSpec, rng: np.random.Generator, style: str) -> np.ndarray:
    low, high = (np.broadcast_to(np.asarray(b, np.float64), spec.shape) for b in (spec.low, spec.high))
    open_low, open_high = ~np.isfinite(low), ~np.isfinite(high)
    low = np.where(open_low, np.where(open_high, -1.0, high - 2.0), low)
    high = np.where(open_high, low + 2.0, high)
    part = {"low": np.zeros(spec.shape), "high": np.ones(spec.shape)}.get(style, rng.random(spec.shape))
    action = low * (1 - part) + high * part
    dtype = np.dtype(spec.dtype)
    return (np.rint(action) if dtype.kind in "iu" else action).astype(dtype)
