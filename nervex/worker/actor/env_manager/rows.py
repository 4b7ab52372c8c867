"""How one env's observation gets into its rows of the blocks, checked, and how its action gets out."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nervex.envs.base_env import LeafSpec
from nervex.utils.errors import SpecError


class LeafWriter:
    """Writes one array of an observation after comparing its shape and dtype with the declared ones."""

    __slots__ = ("_buffers", "_dtype", "_name", "_rows", "_shape")

    def __init__(self, name: str, spec: LeafSpec, block: np.ndarray, row: int) -> None:
        self._name = name
        self._shape = tuple(spec.shape)
        self._dtype = spec.dtype
        self._rows = (block[0, row, ...], block[1, row, ...])
        # A memoryview takes over a vector only if it has the same shape and format: check and copy in one.
        is_vector = len(self._shape) == 1 and self._shape[0] > 0 and block.dtype.isnative
        self._buffers: tuple[Any, ...] | None = tuple(rows.data for rows in self._rows) if is_vector else None

    def write(self, value: Any, slot: int) -> None:
        """Copies ``value`` into the row of ``slot``.

        Raises:
            SpecError: another shape or dtype than declared; nothing is cast in silence. Only Python numbers, and lists
                of them, which have no dtype of their own, are converted, and only where no value changes its meaning.
        """
        if type(value) is not np.ndarray:
            value = self._array(value)
        elif self._buffers is not None:
            try:
                self._buffers[slot][:] = value
                return
            except ValueError:  # what is wrong is found out below
                pass
        if value.dtype != self._dtype or value.shape != self._shape:
            raise self._mismatch(value)
        self._rows[slot][...] = value

    def _array(self, value: Any) -> np.ndarray:
        try:
            array = np.asarray(value)
        except (TypeError, ValueError) as e:
            raise SpecError(f"sent {self._name} that is no array ({e}), {self._declared()}; correct the env") from None
        if array.dtype.hasobject or (array.dtype != self._dtype and hasattr(value, "dtype")):
            raise self._mismatch(array)
        if array.shape != self._shape:
            raise self._mismatch(array)
        if array.dtype == self._dtype:
            return array
        with np.errstate(all="ignore"):
            cast = array.astype(self._dtype)
        same_kind = np.can_cast(array.dtype, self._dtype, "same_kind") and self._dtype.kind == "f"
        both_integers = array.dtype.kind in "biu" and self._dtype.kind in "iu" and bool((cast == array).all())
        if not same_kind and not both_integers:
            raise self._mismatch(array)
        return cast

    def _declared(self) -> str:
        return f"its info says {self._dtype} {list(self._shape)}"

    def _mismatch(self, array: np.ndarray) -> SpecError:
        verb = "cast" if array.shape == self._shape else "reshape"
        return SpecError(
            f"sent {self._name} {array.dtype} {list(array.shape)}, {self._declared()}; {verb} it in the env or correct "
            "info()"
        )


class DictWriter:
    """Writes a dict of observations, key by key."""

    __slots__ = ("_children", "_name")

    def __init__(self, name: str, children: "dict[str, LeafWriter | DictWriter]") -> None:
        self._name = name
        self._children = children

    def write(self, value: Any, slot: int) -> None:
        """Copies every key of ``value`` into the rows of ``slot``.

        Raises:
            SpecError: ``value`` is no dict, has other keys than declared, or a leaf of it does not fit.
        """
        if not isinstance(value, Mapping) or value.keys() != self._children.keys():
            got = f"the keys {sorted(map(str, value))}" if isinstance(value, Mapping) else f"a {type(value).__name__}"
            raise SpecError(
                f"sent {self._name} with {got}, its info says a dict of {sorted(self._children)}; correct the env or "
                "info()"
            )
        for key, child in self._children.items():
            child.write(value[key], slot)


def obs_writer(spec: Any, blocks: Any, row: int, name: str = "obs") -> LeafWriter | DictWriter:
    """Returns the writer of one env's observation.

    Args:
        spec: ``LeafSpec`` or nested dict of them.
        blocks: arrays ``[2, B, ...]`` of the same structure.
        row: index of the env.
        name: what messages call the observation.
    """
    if isinstance(spec, dict):
        children = {key: obs_writer(child, blocks[key], row, f"{name}.{key}") for key, child in spec.items()}
        return DictWriter(name, children)
    return LeafWriter(name, spec, blocks, row)


def action_reader(spec: Any, blocks: Any, row: int) -> Callable[[], Any]:
    """Returns a function that gives one env's action: an int where it is discrete, else an array of the env's own.

    An array and not a view, since an env may do with its action what it likes.

    Args:
        spec: ``LeafSpec`` or nested dict of them.
        blocks: arrays ``[B, ...]`` of the same structure.
        row: index of the env.
    """
    if isinstance(spec, dict):
        readers = {key: action_reader(child, blocks[key], row) for key, child in spec.items()}
        return lambda: {key: read() for key, read in readers.items()}
    view: np.ndarray = blocks[row, ...]
    return view.item if spec.kind == "discrete" else view.copy


def action_recorder(spec: Any, blocks: Any, row: int) -> Callable[[], Any]:
    """Returns a function that gives one env's action as bytes (of every leaf), for ``stacked_actions``.

    Args:
        spec, blocks, row: as in ``action_reader``.
    """
    if isinstance(spec, dict):
        recorders = {key: action_recorder(child, blocks[key], row) for key, child in spec.items()}
        return lambda: {key: record() for key, record in recorders.items()}
    view: np.ndarray = blocks[row, ...]
    return view.tobytes


def stacked_actions(records: list[Any], spec: Any) -> Any:
    """Returns recorded actions as an array ``[n, ...]``, or a nested dict of them.

    Args:
        records: of ``action_recorder``; ints where the spec is a discrete leaf.
        spec: ``LeafSpec`` or nested dict of them.
    """
    if isinstance(spec, dict):
        return {key: stacked_actions([record[key] for record in records], child) for key, child in spec.items()}
    if records and isinstance(records[0], bytes):
        return np.frombuffer(b"".join(records), spec.dtype).reshape(len(records), *spec.shape).copy()
    return np.asarray(records, dtype=spec.dtype).reshape(len(records), *spec.shape)
