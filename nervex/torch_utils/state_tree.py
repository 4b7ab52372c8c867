"""State trees to plain data and back, exactly: a JSON-able structure and a flat dict of tensors, and no pickle.

A state tree nests dict (keys: str or int), OrderedDict, list and tuple around None, bool, int, float, str, bytes, NumPy
scalars and arrays, and torch tensors. The structure writes None, bool, str, lists, finite floats and ints below 2^63
as themselves; all else is a dict of one entry ``{kind: payload}``.
"""

import base64
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nervex.torch_utils.segment import Segment
from nervex.torch_utils.tensor_file import DTYPE_NAMES

MAX_DEPTH = 100
_JSON_INT_LIMIT = 1 << 63
_NUMERIC_KINDS = "biufc"
_COMPLEX_PARTS = {torch.complex64: torch.float32, torch.complex128: torch.float64}


def encode_state(
    tree: Any, part: Callable[[Segment, Callable[[], tuple[Any, dict[str, Tensor]]]], Any] | None = None
) -> tuple[Any, dict[str, Tensor]]:
    """Returns ``(structure, tensors)``: plain data for ``json.dumps`` and the tensors that it refers to by name.

    The tensors share memory with those of ``tree`` where they can: write them before ``tree`` changes. Types, dtypes,
    shapes, key types and key order are preserved; that two leaves are one object is not.

    Args:
        tree: the state tree.
        part: called with each segment of the tree and a function that encodes what it stands for; returns the structure
            of that, whose tensors are then the caller's to keep. None: segments are encoded like any other part.

    Raises:
        TypeError: a leaf or key is of another kind; the message gives its path in the tree.
    """
    encoder = _Encoder(part)
    return encoder.encode(tree, ()), encoder.tensors


def decode_state(structure: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Returns the tree that ``encode_state`` took apart. Arrays share memory with ``tensors``.

    Raises:
        ValueError: ``structure`` is not one that ``encode_state`` makes, or refers to a tensor that is not there.
    """
    try:
        return _decode(structure, tensors)
    except (TypeError, AttributeError, IndexError, RuntimeError, RecursionError, OverflowError) as e:
        raise ValueError(f"not a state tree: {e}") from e


class _Encoder:
    def __init__(self, part: Any = None) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._part = part
        # exact types: an instance of a subclass could not be restored
        self._by_type: dict[type, Callable[[Any, tuple[Any, ...]], Any]] = {
            type(None): lambda value, _: value,
            bool: lambda value, _: value,
            int: lambda value, _: _encode_plain(value),
            float: lambda value, _: _encode_plain(value),
            str: lambda value, _: _encode_plain(value),
            bytes: lambda value, _: {"bytes": base64.b64encode(value).decode()},
            list: self._encode_sequence,
            tuple: lambda value, path: {"tuple": self._encode_sequence(value, path)},
            dict: self._encode_dict,
            OrderedDict: self._encode_dict,
            np.ndarray: self._encode_array,
            Segment: self._encode_segment,
        }

    def encode(self, value: Any, path: tuple[Any, ...]) -> Any:
        """Returns the node of ``value``, the leaf or subtree at ``path``."""
        if len(path) > MAX_DEPTH:
            raise TypeError(
                f"state {_show(path[:8])}... is nested deeper than {MAX_DEPTH} levels; does it hold itself?"
            )
        encode = self._by_type.get(type(value))
        if encode is not None:
            return encode(value, path)
        if isinstance(value, np.generic):
            self._check_dtype(value.dtype, path)
            return {"scalar": [value.dtype.str, value.tobytes().hex()]}
        if isinstance(value, Tensor):
            return self._encode_tensor(value, path)
        raise TypeError(
            f"state {_show(path)} is a {type(value).__module__}.{type(value).__qualname__}, which cannot be saved "
            "without pickle; use dict, list, tuple, None, bool, int, float, str, bytes, a NumPy array or a tensor"
        )

    def _encode_sequence(self, value: list[Any] | tuple[Any, ...], path: tuple[Any, ...]) -> list[Any]:
        return [self.encode(v, (*path, i)) for i, v in enumerate(value)]

    def _encode_dict(self, value: dict[Any, Any], path: tuple[Any, ...]) -> Any:
        for key in value:
            if type(key) not in (str, int):
                raise TypeError(f"state {_show(path)} has the key {key!r} of type {type(key).__name__}; use str or int")
        items = [(k, self.encode(v, (*path, k))) for k, v in value.items()]
        keys = [_encode_plain(k) for k in value]
        if type(value) is dict and all(type(k) is str for k in keys):
            return {"dict": dict(items)}
        kind = "items" if type(value) is dict else "ordered"
        return {kind: [[k, node] for k, (_, node) in zip(keys, items, strict=True)]}

    def _encode_array(self, array: np.ndarray, path: tuple[Any, ...]) -> Any:
        self._check_dtype(array.dtype, path)
        # order="C" copies only where it must and, unlike ascontiguousarray, keeps 0-d arrays 0-d; torch takes neither
        # foreign byte order nor negative strides nor C's long long, and warns about read-only memory
        native = np.dtype(f"{array.dtype.kind}{array.dtype.itemsize}")
        plain = np.asarray(array, dtype=native, order="C").view(native)
        tensor = torch.from_numpy(plain if plain.flags.writeable else plain.copy())
        return {"array": [self._store(tensor, path), array.dtype.str]}

    def _encode_segment(self, segment: Segment, path: tuple[Any, ...]) -> Any:
        if self._part is None:
            return self.encode(segment.read(), path)

        def encode() -> tuple[Any, dict[str, Tensor]]:
            encoder = _Encoder()
            return encoder.encode(segment.read(), path), encoder.tensors

        return self._part(segment, encode)

    def _encode_tensor(self, tensor: Tensor, path: tuple[Any, ...]) -> Any:
        if type(tensor) is not Tensor or tensor.requires_grad:
            raise TypeError(
                f"state {_show(path)} is a {type(tensor).__name__} with requires_grad={tensor.requires_grad}; "
                "save its .detach()"
            )
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
            raise TypeError(f"state {_show(path)} is a {tensor.layout} tensor on {tensor.device}; make it dense first")
        if tensor.dtype not in DTYPE_NAMES and tensor.dtype not in _COMPLEX_PARTS:
            raise TypeError(f"state {_show(path)} is a tensor of {tensor.dtype}, which cannot be saved; convert it")
        plain = tensor.resolve_conj().resolve_neg()
        return {"complex" if tensor.is_complex() else "tensor": self._store(plain, path)}

    def _store(self, tensor: Tensor, path: tuple[Any, ...]) -> str:
        if tensor.dtype in _COMPLEX_PARTS:
            tensor = torch.view_as_real(tensor)
        base = "/".join(str(p) for p in path).encode("utf-8", "replace").decode()
        name, number = base, 1
        while name in self.tensors or name in ("", "__metadata__"):
            number += 1
            name = f"{base}#{number}"
        self.tensors[name] = tensor
        return name

    def _check_dtype(self, dtype: np.dtype, path: tuple[Any, ...]) -> None:
        # a long double (itemsize 16) has another meaning on another machine
        if dtype.kind not in _NUMERIC_KINDS or dtype.itemsize > (16 if dtype.kind == "c" else 8):
            raise TypeError(
                f"state {_show(path)} has NumPy dtype {dtype}; expected a bool or a number of up to 64 bits"
            )


def _encode_plain(value: Any) -> Any:
    """Returns the node of an int, a float or a str."""
    if type(value) is int:
        return value if -_JSON_INT_LIMIT <= value < _JSON_INT_LIMIT else {"int": hex(value)}
    if type(value) is float:
        return value if math.isfinite(value) else {"float": np.float64(value).tobytes().hex()}
    try:
        value.encode()
    except UnicodeEncodeError:
        # lone surrogates, which JSON would join into one character
        return {"text": value.encode("utf-8", "surrogatepass").hex()}
    return value


def _decode(node: Any, tensors: Mapping[str, Tensor]) -> Any:
    if node is None or type(node) in (bool, int, float, str):
        return node
    if type(node) is list:
        return [_decode(n, tensors) for n in node]
    if type(node) is not dict or len(node) != 1:
        raise ValueError(f"not a state tree: a {type(node).__name__} where a node of one kind is expected")
    kind, payload = next(iter(node.items()))
    if kind not in _DECODERS:
        raise ValueError(f"not a state tree: unknown kind '{kind}'")
    return _DECODERS[kind](payload, tensors)


def _decode_key(node: Any) -> str | int:
    key: Any = _decode(node, {})
    if type(key) is not str and type(key) is not int:
        raise ValueError(f"not a state tree: a key of type {type(key).__name__}")
    return key


def _decode_array(payload: Any, tensors: Mapping[str, Tensor]) -> np.ndarray:
    name, dtype = payload[0], _numeric_dtype(payload[1])
    array = _tensor(name, tensors)
    native = dtype.newbyteorder("=")
    plain = (torch.view_as_complex(array) if native.kind == "c" else array).numpy()
    if plain.dtype != native:
        raise ValueError(f"not a state tree: tensor '{name}' is {plain.dtype}, its array is {native}")
    return plain.astype(dtype, copy=False)


def _decode_scalar(payload: Any, _: Mapping[str, Tensor]) -> np.generic:
    scalar: np.generic = np.frombuffer(bytes.fromhex(payload[1]), dtype=_numeric_dtype(payload[0]), count=1)[0]
    return scalar


def _numeric_dtype(text: Any) -> np.dtype:
    dtype = np.dtype(str(text))
    if dtype.kind not in _NUMERIC_KINDS:
        raise ValueError(f"not a state tree: dtype {dtype}")
    return dtype


def _tensor(name: Any, tensors: Mapping[str, Tensor]) -> Tensor:
    if name not in tensors:
        raise ValueError(f"not a state tree: no tensor '{name}'")
    return tensors[name]


def _show(path: tuple[Any, ...]) -> str:
    """Returns the path of a leaf as the user would type it: ``['optimizer'][0]``."""
    return "".join(f"[{p!r}]" for p in path) or "tree"


_DECODERS: dict[str, Callable[[Any, Mapping[str, Tensor]], Any]] = {
    "int": lambda text, _: int(text, 16),
    "float": lambda text, _: float(np.frombuffer(bytes.fromhex(text), dtype=np.float64, count=1)[0]),
    "text": lambda text, _: bytes.fromhex(text).decode("utf-8", "surrogatepass"),
    "bytes": lambda text, _: base64.b64decode(text, validate=True),
    "tuple": lambda nodes, tensors: tuple(_decode(n, tensors) for n in nodes),
    "dict": lambda nodes, tensors: {k: _decode(n, tensors) for k, n in nodes.items()},
    "items": lambda nodes, tensors: {_decode_key(k): _decode(n, tensors) for k, n in nodes},
    "ordered": lambda nodes, tensors: OrderedDict((_decode_key(k), _decode(n, tensors)) for k, n in nodes),
    "scalar": _decode_scalar,
    "array": _decode_array,
    "tensor": _tensor,
    "complex": lambda name, tensors: torch.view_as_complex(_tensor(name, tensors)),
}
