"""What a safetensors file says of itself, read and checked without its tensors."""

import json
import math
import stat
from pathlib import Path
from typing import Any, NamedTuple

from nervex.torch_utils.tensor_file import DTYPE_NAMES
from nervex.utils.errors import CheckpointError

MAX_HEADER_BYTES = 100_000_000  # as the safetensors library has it
_LENGTH_BYTES = 8
_ITEM_BYTES = {name: dtype.itemsize for dtype, name in DTYPE_NAMES.items()}
_METADATA = "__metadata__"
_MAX_NAME = 1000


class TensorHead(NamedTuple):
    """One tensor of a file.

    Attributes:
        dtype: as safetensors names it, ``'F32'``.
        shape: its sizes.
        size_bytes: bytes in the file.
    """

    dtype: str
    shape: tuple[int, ...]
    size_bytes: int


def read_tensor_heads(path: Path) -> dict[str, TensorHead]:
    """Returns name -> head of the tensors of a safetensors file, in the order of the file; reads the header alone.

    Every byte of the file must belong to the header or to exactly one tensor.

    Raises:
        CheckpointError: the file is missing, no regular one, truncated, damaged, or of another format.
    """
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError(f"{path} is no regular file; give the file itself")
        with open(path, "rb") as file:
            begin = file.read(_LENGTH_BYTES)
            length = int.from_bytes(begin, "little")
            if len(begin) < _LENGTH_BYTES or length > min(MAX_HEADER_BYTES, status.st_size - _LENGTH_BYTES):
                refuse_code(path, begin)
                raise CheckpointError(
                    f"{path} is no safetensors file, or truncated: of its {status.st_size:,} bytes, {length:,} would be"
                    f" header (at most {MAX_HEADER_BYTES:,}); use another file"
                )
            text = file.read(length)
        header = json.loads(text, object_pairs_hook=_once)
        return _heads(header, status.st_size - _LENGTH_BYTES - length)
    except OSError as e:
        raise CheckpointError(f"cannot read {path}: {e.strerror}") from e
    except (ValueError, TypeError, KeyError, RecursionError) as e:
        raise CheckpointError(f"{path} is no safetensors file, or damaged: {e}; use another file") from e


def refuse_code(path: Path, begin: bytes) -> None:
    """Raises CheckpointError where a file, which is no safetensors file, begins as those do that can run code."""
    kind = None
    if begin.startswith(b"PK\x03\x04"):
        kind = "a zip archive, as torch.save writes it"
    elif len(begin) > 1 and begin[0] == 0x80 and 2 <= begin[1] <= 5:
        kind = "a pickle"
    if kind is not None:
        raise CheckpointError(
            f"{path} is {kind}, which can run code when it is opened; it was not. Convert what you trust with "
            "safetensors.torch.save_file"
        )


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found


def _heads(header: Any, data_bytes: int) -> dict[str, TensorHead]:
    if not isinstance(header, dict):
        raise ValueError("its header is no mapping")
    heads, spans = {}, []
    for name, entry in header.items():
        if name == _METADATA:
            continue
        check_name(name)
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        sizes = [*shape, begin, end]
        if dtype not in _ITEM_BYTES or not all(type(n) is int and 0 <= n < 1 << 63 for n in sizes):
            raise ValueError(f"tensor {name!r} is {str(dtype)[:20]!r} of shape {str(shape)[:60]}")
        if end - begin != math.prod(shape) * _ITEM_BYTES[dtype]:
            raise ValueError(f"tensor {name!r} of {dtype} {shape} has {end - begin:,} bytes")
        heads[name] = TensorHead(dtype, tuple(shape), end - begin)
        spans.append((begin, end))
    at = 0
    for begin, end in sorted(spans):
        if begin != at:
            raise ValueError("its tensors overlap or leave holes")
        at = end
    if at != data_bytes:
        raise ValueError(f"its tensors take {at:,} bytes, the file has {data_bytes:,} for them (truncated?)")
    return heads


def check_name(name: str) -> None:
    """Raises ValueError for a name that leads out of a folder, or is made to harm whoever shows it."""
    parts = name.replace("\\", "/").split("/")
    if len(name) > _MAX_NAME or name.startswith(("/", "\\")) or ".." in parts or not name.isprintable():
        raise ValueError(f"the name {name[:60]!r} is no name of a tensor")
