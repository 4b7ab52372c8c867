"""Nested containers of tensors to other dtypes, to NumPy, to plain Python, and copies of them.

Dicts (of their own type), lists, tuples and namedtuples nest; None and strings pass unchanged.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nervex.torch_utils.nested import map_nested
from nervex.utils.errors import SpecError

_NUMBERS = (bool, int, float, np.generic)


def to_dtype(item: Any, dtype: torch.dtype) -> Any:
    """Returns ``item`` with every tensor in it cast to ``dtype``; shapes stay.

    Raises:
        TypeError: something in ``item`` is no tensor.
    """
    return _convert("to_dtype", item, lambda x: x.to(dtype), (Tensor,))


def to_tensor(item: Any, dtype: torch.dtype | None = None) -> Any:
    """Returns ``item`` with every array, number and list of numbers as a tensor of its shape; a number is 0-d.

    Args:
        item: arrays, numbers, tensors, and nested containers of them. A list or tuple of numbers only is one tensor
            [len]; one that holds anything else stays a list or tuple of what its parts become.
        dtype: of the tensors; None: what NumPy and Python have (a Python float gives float32).

    Raises:
        TypeError: something in ``item`` cannot be a tensor.
    """
    if isinstance(item, dict):
        made = copy.copy(item)
        made.update({key: to_tensor(value, dtype) for key, value in item.items()})
        return made
    if isinstance(item, list | tuple):
        if item and not hasattr(item, "_fields") and all(isinstance(x, _NUMBERS) for x in item):
            return torch.tensor(item, dtype=dtype)
        parts = [to_tensor(x, dtype) for x in item]
        return type(item)(*parts) if hasattr(item, "_fields") else type(item)(parts)

    def make(value: Any) -> Tensor:
        return torch.as_tensor(
            value if isinstance(value, Tensor | bool | int | float) else np.asarray(value), dtype=dtype
        )

    return _convert("to_tensor", item, make, (Tensor, np.ndarray, *_NUMBERS))


def to_ndarray(item: Any, dtype: np.dtype | type | None = None) -> Any:
    """Returns ``item`` with every tensor and number in it as an array of its shape, which shares the memory of a CPU
    tensor unless ``dtype`` is another one.

    Raises:
        TypeError: something in ``item`` cannot be an array.
    """

    def make(value: Any) -> np.ndarray:
        return np.asarray(value.detach().cpu().numpy() if isinstance(value, Tensor) else value, dtype=dtype)

    return _convert("to_ndarray", item, make, (Tensor, np.ndarray, *_NUMBERS))


def to_list(item: Any) -> Any:
    """Returns ``item`` with every tensor and array [a, b, ...] in it as nested lists of Python numbers (0-d: the
    number).

    Raises:
        TypeError: something in ``item`` is neither a tensor nor an array nor a number.
    """
    return _convert("to_list", item, _python, (Tensor, np.ndarray, *_NUMBERS))


tensor_to_list = to_list


def to_item(item: Any) -> Any:
    """Returns ``item`` with every tensor and array in it, which has one element, as a Python number.

    Raises:
        SpecError: a tensor or array has more than one element, or none.
        TypeError: something in ``item`` is neither a tensor nor an array nor a number.
    """

    def make(value: Any) -> Any:
        if isinstance(value, Tensor | np.ndarray) and int(np.prod(value.shape)) != 1:
            raise SpecError(f"to_item: a {type(value).__name__} has shape {list(value.shape)}, expected one element")
        return value.item() if isinstance(value, Tensor | np.ndarray | np.generic) else value

    return _convert("to_item", item, make, (Tensor, np.ndarray, *_NUMBERS))


def same_shape(data: Sequence[Tensor]) -> bool:
    """Returns whether all tensors (or arrays) of ``data`` have one shape; True for none."""
    return all(x.shape == data[0].shape for x in data)


def get_tensor_data(item: Any) -> Any:
    """Returns a copy of ``item`` whose tensors are detached from their graphs and have memory of their own.

    Raises:
        TypeError: something in ``item`` is no tensor.
    """
    return _convert("get_tensor_data", item, lambda x: x.detach().clone(), (Tensor,))


class LogDict(dict):
    """A dict in which tensors become Python numbers (one element, whatever the shape) or nested lists when they are
    put in, so that a log holds no graph and no device memory. Reading a tensor's value waits for its device."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.update(*args, **kwargs)

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, map_nested(_logged, value))

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Puts in each of the given items."""
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def setdefault(self, key: Any, default: Any = None) -> Any:
        """Returns the value of ``key``, after putting in ``default`` where there is none."""
        if key not in self:
            self[key] = default
        return self[key]

    def __ior__(self, other: Any) -> "LogDict":  # type: ignore[override, misc]
        self.update(other)
        return self


def build_log_buffer(items: Mapping[str, Any] | None = None) -> LogDict:
    """Returns a :class:`LogDict` of ``items``, empty by default."""
    return LogDict(items or {})


def _convert(fn: str, item: Any, make: Callable[[Any], Any], kinds: tuple[type, ...]) -> Any:
    def leaf(value: Any) -> Any:
        if isinstance(value, kinds):
            return make(value)
        if value is None or isinstance(value, str):
            return value
        names = ", ".join(sorted({kind.__name__ for kind in kinds}))
        raise TypeError(f"{fn}: got a {type(value).__name__}, expected {names}, or a nested container of them")

    return map_nested(leaf, item)


def _python(value: Any) -> Any:
    return value.tolist() if isinstance(value, Tensor | np.ndarray | np.generic) else value


def _logged(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.item() if value.numel() == 1 else value.tolist()
    return value
