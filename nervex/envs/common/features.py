"""Numbers of a simulator to features: one-hots over bins, reordered ids, binary codes, positions, affine maps.

Each takes a NumPy array, a list, a number or a tensor and answers in kind: a tensor for a tensor (on its device), a
NumPy array for all else, new in any case. Shapes: ``[...]`` is any number of dimensions, none included. One-hots are
float32 and carry no gradient; ``div_func`` and ``affine_transform`` keep dtype and gradient.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nervex.envs.common.same_kind import same_kind
from nervex.utils.errors import SpecError, did_you_mean

POSITION_NUM = 32
POSITION_BASE = 10000.0

Transform = Callable[[Any], Any]


@same_kind
def num_first_one_hot(v: np.ndarray, num: int) -> np.ndarray:
    """Returns one-hots with the classes in the first dimension, as convolutions want their channels.

    Args:
        v: whole numbers in [0, num), ``[...]``.
        num: number of classes.

    Returns:
        float32 ``[num, ...]``.

    Raises:
        SpecError: a value is no class, or ``num`` is less than 1.
    """
    return np.ascontiguousarray(np.moveaxis(_one_hot(_classes("num_first_one_hot", v, num), num), -1, 0))


@same_kind
def sqrt_one_hot(v: np.ndarray, max_val: float) -> np.ndarray:
    """Returns the one-hot of bin ⌊√v⌋: fine for small values, coarse for large ones.

    Values above ``max_val`` count as ``max_val``, those below 0 as 0: counts of a simulator have no sure bound.

    Args:
        v: ``[...]``.
        max_val: value from which on all share the last bin, ≥ 0.

    Returns:
        float32 ``[..., ⌊√max_val⌋ + 1]``.

    Raises:
        SpecError: a value is NaN, or ``max_val`` is negative or not finite.
    """
    bounded = _bounded("sqrt_one_hot", v, max_val)
    return _one_hot(np.sqrt(bounded).astype(np.int64), int(math.sqrt(max_val)) + 1)


@same_kind
def div_one_hot(v: np.ndarray, max_val: float, ratio: float) -> np.ndarray:
    """Returns the one-hot of bin ⌊v / ratio⌋.

    Values above ``max_val`` count as ``max_val``, those below 0 as 0. A fractional value on the border of two bins may
    fall into either, as floats go.

    Args:
        v: ``[...]``.
        max_val: value from which on all share the last bin, ≥ 0.
        ratio: width of a bin, > 0.

    Returns:
        float32 ``[..., ⌊max_val / ratio⌋ + 1]``.

    Raises:
        SpecError: a value is NaN, ``max_val`` is negative or not finite, or ``ratio`` is not positive.
    """
    if not 0 < ratio < math.inf:
        raise SpecError(f"div_one_hot got ratio={ratio}; the width of a bin is a positive number")
    num = int(max_val / ratio) + 1 if 0 <= max_val < math.inf else 0
    index = (_bounded("div_one_hot", v, max_val) / ratio).astype(np.int64)
    return _one_hot(np.minimum(index, num - 1), num)


def div_func(x: Any, other: float, unsqueeze_dim: int = 1) -> Any:
    """Returns ``x / other`` with a new dimension of size 1: a column of one normalized feature.

    Args:
        x: array or tensor ``[...]``; integers become floats.
        other: divisor, not 0.
        unsqueeze_dim: where the new dimension goes; negative ones count from the end.

    Returns:
        Of the kind of ``x``: ``[B, 1]`` for ``[B]`` and the default dimension.

    Raises:
        SpecError: the divisor is 0, or ``x`` has too few dimensions.
    """
    if other == 0:
        raise SpecError("div_func got other=0; divide by the range of the feature")
    x = _array(x)
    if not -x.ndim - 1 <= unsqueeze_dim <= x.ndim:
        raise SpecError(
            f"div_func got x of shape {list(x.shape)} and unsqueeze_dim={unsqueeze_dim}; expected one from "
            f"{-x.ndim - 1} to {x.ndim}"
        )
    at = unsqueeze_dim % (x.ndim + 1)
    return (x / other).reshape((*x.shape[:at], 1, *x.shape[at:]))


@same_kind
def clip_one_hot(v: np.ndarray, num: int) -> np.ndarray:
    """Returns one-hots of whole numbers; those below 0 count as 0, those above as ``num - 1``.

    Args:
        v: whole numbers ``[...]``.
        num: number of classes.

    Returns:
        float32 ``[..., num]``.

    Raises:
        SpecError: a value is no whole number, or ``num`` is less than 1.
    """
    _check_num("clip_one_hot", num)
    return _one_hot(_whole("clip_one_hot", v).clip(0, num - 1), num)


@same_kind
def reorder_one_hot(
    v: np.ndarray, dictionary: Mapping[Any, int], num: int, transform: Transform | None = None
) -> np.ndarray:
    """Returns one-hots of ids that are numbered anew: the sparse ids of a simulator to classes from 0.

    Args:
        v: ids ``[...]``.
        dictionary: id -> class in [0, num).
        num: number of classes.
        transform: called with each id, as a Python number, before it is looked up.

    Returns:
        float32 ``[..., num]``.

    Raises:
        SpecError: an id is not in the dictionary, or its class is not in [0, num).
    """
    index = [_look_up("reorder_one_hot", dictionary, i, transform) for i in v.reshape(-1).tolist()]
    return _one_hot(_classes("reorder_one_hot", np.array(index, dtype=np.int64).reshape(v.shape), num), num)


@same_kind
def reorder_one_hot_array(v: np.ndarray, array: np.ndarray, num: int, transform: Transform | None = None) -> np.ndarray:
    """Returns one-hots of ids that are numbered anew by a table: ``reorder_one_hot``, without a loop.

    Args:
        v: whole ids in [0, len(array)), ``[...]``.
        array: integer ``[K]``: the class of each id; a negative one marks an id that must not come.
        num: number of classes.
        transform: called once with all ids, int64 ``[...]``, before they are looked up.

    Returns:
        float32 ``[..., num]``.

    Raises:
        SpecError: an id is outside of the table, or its class is not in [0, num).
    """
    table = np.asarray(array)
    if table.ndim != 1 or table.dtype.kind not in "iu":
        raise SpecError(f"reorder_one_hot_array got a table {table.dtype} {list(table.shape)}; expected integers [K]")
    ids = _whole("reorder_one_hot_array", v)
    ids = ids if transform is None else np.asarray(transform(ids))
    return _one_hot(
        _classes("reorder_one_hot_array", table[_classes("reorder_one_hot_array", ids, len(table))], num), num
    )


@same_kind
def reorder_boolean_vector(
    v: np.ndarray, dictionary: Mapping[Any, int], num: int, transform: Transform | None = None
) -> np.ndarray:
    """Returns which ids are there, as one vector: the upgrades that a player has.

    Args:
        v: ids ``[K]``, K ≥ 0; one that comes twice counts once.
        dictionary: id -> place in [0, num).
        num: length of the vector.
        transform: called with each id, as a Python number, before it is looked up.

    Returns:
        float32 ``[num]``: 1 where an id is there, else 0.

    Raises:
        SpecError: ``v`` is not one-dimensional, an id is not in the dictionary, or its place is not in [0, num).
    """
    if v.ndim != 1:
        raise SpecError(f"reorder_boolean_vector got ids of shape {list(v.shape)}; expected a list of them, [K]")
    index = [_look_up("reorder_boolean_vector", dictionary, i, transform) for i in v.tolist()]
    found = np.zeros(max(num, 0), np.float32)
    found[_classes("reorder_boolean_vector", np.array(index, dtype=np.int64), num)] = 1.0
    return found


@same_kind
def batch_binary_encode(x: np.ndarray, bit_num: int) -> np.ndarray:
    """Returns numbers in binary, the highest bit first (big-endian).

    Args:
        x: whole numbers in [0, 2^bit_num), ``[...]``.
        bit_num: bits, from 1 to 63.

    Returns:
        float32 ``[..., bit_num]`` of 0 and 1.

    Raises:
        SpecError: a number does not fit into the bits.
    """
    if not 1 <= bit_num <= 63:
        raise SpecError(f"batch_binary_encode got bit_num={bit_num}; expected 1 to 63")
    x = _classes("batch_binary_encode", x, 1 << bit_num)
    return (x[..., None] >> np.arange(bit_num - 1, -1, -1) & 1).astype(np.float32)


@same_kind
def get_position_vector(x: np.ndarray) -> np.ndarray:
    """Returns the sinusoidal code of positions.

        v_{2i} = sin(x_i / 10000^(i/32)),   v_{2i+1} = cos(x_i / 10000^(i/32)),   i = 0 … 31

    Vaswani et al. 2017, "Attention Is All You Need", https://arxiv.org/abs/1706.03762, section 3.5, for 64 numbers;
    each frequency may be given a position of its own.

    Args:
        x: 32 positions ``[..., 32]``, or one number for all of them.

    Returns:
        float32 ``[..., 64]``.

    Raises:
        SpecError: the last dimension is not 32, or a position is not finite.
    """
    if x.dtype.kind not in "iufb" or (x.ndim and x.shape[-1] != POSITION_NUM):
        raise SpecError(
            f"get_position_vector got {x.dtype} {list(x.shape)}; expected {POSITION_NUM} positions in the last "
            "dimension, or one number"
        )
    if not np.isfinite(x).all():
        raise SpecError("get_position_vector got a position that is not finite; expected numbers")
    angle = x / POSITION_BASE ** (np.arange(POSITION_NUM) / POSITION_NUM)  # [..., 32]
    code = np.stack([np.sin(angle), np.cos(angle)], axis=-1)  # [..., 32, 2]
    return code.reshape(*code.shape[:-2], 2 * POSITION_NUM).astype(np.float32)


get_postion_vector = get_position_vector
"""The tutorial's spelling."""


def affine_transform(
    data: Any,
    alpha: float | None = None,
    beta: float | None = None,
    min_val: float | None = None,
    max_val: float | None = None,
) -> Any:
    """Returns ``alpha · data + beta``; with bounds, the map of [-1, 1] to [min_val, max_val].

        alpha = (max_val − min_val) / 2,   beta = (max_val + min_val) / 2

    ``data`` beyond [-1, 1], as exploration noise makes it, counts as -1 or 1, so that the result keeps the bounds.

    Args:
        data: array or tensor ``[...]`` in [-1, 1].
        alpha, beta: factor and offset, both or neither.
        min_val, max_val: bounds, both or neither.

    Returns:
        ``[...]``, of the kind of ``data``.

    Raises:
        SpecError: not exactly one of the two pairs is given, or the bounds are not finite and in order.
    """
    factors, bounds = (alpha, beta), (min_val, max_val)
    given = [pair for pair in (factors, bounds) if pair != (None, None)]
    if len(given) != 1 or None in given[0]:
        raise SpecError(
            f"affine_transform got alpha={alpha}, beta={beta}, min_val={min_val}, max_val={max_val}; give alpha and "
            "beta, or min_val and max_val"
        )
    if min_val is not None and max_val is not None:
        if not -math.inf < min_val <= max_val < math.inf:
            raise SpecError(f"affine_transform got min_val={min_val}, max_val={max_val}; expected finite, in order")
        alpha, beta = (max_val - min_val) / 2, (max_val + min_val) / 2
    return _array(data).clip(-1, 1) * alpha + beta


def _array(value: Any) -> Any:
    """Returns a tensor or array as it is, all else as an array."""
    return value if hasattr(value, "clip") and hasattr(value, "reshape") else np.asarray(value)


def _one_hot(index: np.ndarray, num: int) -> np.ndarray:
    one_hot = np.zeros((*index.shape, num), np.float32)
    np.put_along_axis(one_hot, index[..., None], 1.0, axis=-1)
    return one_hot


def _look_up(name: str, dictionary: Mapping[Any, int], key: Any, transform: Transform | None) -> int:
    key = key if transform is None else transform(key)
    if key not in dictionary:
        near = did_you_mean(str(key), map(str, dictionary))
        raise SpecError(f"{name} got the id {key!r}, which is not among the {len(dictionary)} of its dictionary{near}")
    return dictionary[key]


def _check_num(name: str, num: int) -> None:
    if num < 1:
        raise SpecError(f"{name} got num={num}; expected at least one class")


def _whole(name: str, v: np.ndarray) -> np.ndarray:
    """Returns ``v`` as int64."""
    if v.dtype.kind not in "iufb" or (v.dtype.kind == "f" and not (np.isfinite(v) & (v == np.floor(v))).all()):
        raise SpecError(f"{name} got {v.dtype} {list(v.shape)} that are not all whole numbers; round or cast them")
    return v.astype(np.int64)


def _classes(name: str, v: np.ndarray, num: int) -> np.ndarray:
    """Returns ``v`` as int64, all in [0, num)."""
    _check_num(name, num)
    v = _whole(name, v)
    wrong = v[(v < 0) | (v >= num)]
    if wrong.size:
        raise SpecError(f"{name} got {wrong[0]}; expected values from 0 to {num - 1}")
    return v


def _bounded(name: str, v: np.ndarray, max_val: float) -> np.ndarray:
    """Returns ``v`` as floats in [0, max_val]."""
    if not 0 <= max_val < math.inf:
        raise SpecError(f"{name} got max_val={max_val}; expected a finite number that is not negative")
    if v.dtype.kind not in "iufb" or np.isnan(v).any():
        raise SpecError(f"{name} got {v.dtype} {list(v.shape)} with values that are no numbers; expected numbers")
    return np.clip(v if v.dtype.kind == "f" else v.astype(np.float64), 0, max_val)
