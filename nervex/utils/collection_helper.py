"""Lists, dicts and defaults: small changes of shape of plain Python data."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from nervex.utils.errors import SpecError, did_you_mean

T = TypeVar("T")
R = TypeVar("R")


def iter_mapping(iterable: Iterable[T], mapping: Callable[[T], R]) -> Iterator[R]:
    """Returns an iterator over ``mapping(item)``, called when the item is asked for."""
    return map(mapping, iterable)


def lists_to_dicts(data: Sequence[Any], recursive: bool = False) -> Any:
    """Returns ``[{'a': 1}, {'a': 2}]`` as ``{'a': [1, 2]}``.

    Args:
        data: N ≥ 1 mappings of the same keys, or namedtuples of one type.
        recursive: do the same with values that are mappings.

    Returns:
        A dict (a namedtuple of that type for namedtuples) of lists of N.

    Raises:
        SpecError: ``data`` is empty, or its items differ in keys or type.
    """
    if not data:
        raise SpecError("lists_to_dicts got an empty list; it needs at least one item to know the keys")
    first = data[0]
    if hasattr(first, "_fields"):
        if any(type(item) is not type(first) for item in data):
            raise SpecError(f"lists_to_dicts got {_type_names(data)}; expected namedtuples of one type")
        return type(first)(*map(list, zip(*data, strict=True)))
    if not all(isinstance(item, Mapping) for item in data):
        raise SpecError(f"lists_to_dicts got {_type_names(data)}; expected mappings, or namedtuples of one type")
    for number, item in enumerate(data):
        if item.keys() != first.keys():
            raise SpecError(f"lists_to_dicts got the keys {list(item)} in item {number}, {list(first)} in item 0")
    columns = {key: [item[key] for item in data] for key in first}
    if recursive:
        return {k: lists_to_dicts(v, True) if isinstance(v[0], Mapping) else v for k, v in columns.items()}
    return columns


def dicts_to_lists(data: Mapping[Any, Sequence[Any]]) -> list[dict[Any, Any]]:
    """Returns ``{'a': [1, 2]}`` as ``[{'a': 1}, {'a': 2}]``: ``lists_to_dicts`` undone.

    Args:
        data: lists of one length, at least one.

    Raises:
        SpecError: ``data`` is no mapping of lists, is empty, or the lengths differ.
    """
    if not isinstance(data, Mapping) or not data or not all(isinstance(v, Sequence) for v in data.values()):
        raise SpecError(f"dicts_to_lists got {data!r:.80}; expected a mapping of at least one list")
    lengths = {key: len(value) for key, value in data.items()}
    if len(set(lengths.values())) != 1:
        raise SpecError(f"dicts_to_lists got lists of the lengths {lengths}; expected one length")
    return [dict(zip(data, row, strict=True)) for row in zip(*data.values(), strict=True)]


def squeeze(data: Any) -> Any:
    """Returns the only item of a list, a tuple or a dict of one item; all else as it is."""
    if isinstance(data, Mapping) and len(data) == 1:
        return next(iter(data.values()))
    if isinstance(data, list | tuple) and len(data) == 1:
        return data[0]
    return data


def default_get(
    data: Mapping[str, Any],
    name: str,
    default_value: Any = None,
    default_fn: Callable[[], Any] | None = None,
    judge_fn: Callable[[Any], bool] | None = None,
) -> Any:
    """Returns ``data[name]`` where it is there, else the default.

    Args:
        data: the mapping.
        name: key.
        default_value: what stands in for a missing key.
        default_fn: makes what stands in for a missing key; it is called for nothing else, and wins over the value.
        judge_fn: tells whether a default is a sound value.

    Raises:
        SpecError: the key is missing and there is no default, or ``judge_fn`` rejects it.
    """
    if name in data:
        return data[name]
    value = default_value if default_fn is None else default_fn()
    if value is None:
        raise SpecError(f"there is no '{name}', and no default for it{did_you_mean(name, data)}")
    if judge_fn is not None and not judge_fn(value):
        raise SpecError(f"the default {value!r} of '{name}' is no sound value; give another default")
    return value


def list_split(data: Sequence[T], step: int) -> tuple[list[Sequence[T]], Sequence[T] | None]:
    """Cuts a list into blocks of ``step`` items.

    Args:
        data: N items.
        step: length of a block, ≥ 1.

    Returns:
        The ⌊N / step⌋ blocks in order, and the N mod step items that are left, None where none are.

    Raises:
        SpecError: ``step`` is less than 1.
    """
    if step < 1:
        raise SpecError(f"list_split got step={step}; expected at least 1")
    whole = len(data) - len(data) % step
    blocks = [data[i : i + step] for i in range(0, whole, step)]
    return blocks, data[whole:] if whole < len(data) else None


def _type_names(data: Sequence[Any]) -> str:
    return ", ".join(sorted({type(item).__name__ for item in data}))
