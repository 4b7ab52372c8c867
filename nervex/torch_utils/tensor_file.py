"""Flat dicts of tensors as safetensors files, written without a second copy in memory."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from nervex.utils.errors import CheckpointError
from nervex.utils.files import FileLayer

DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class HashingFile:
    """A file being written that knows the digest and the size of what went in."""

    def __init__(self, file: BinaryIO, files: FileLayer) -> None:
        self._file = file
        self._files = files
        self._digest = hashlib.sha256()
        self.size_bytes = 0

    def write(self, data: bytes | memoryview) -> None:
        """Appends ``data``."""
        self._digest.update(data)
        self._files.write(self._file, data)
        self.size_bytes += len(data)

    def sha256(self) -> str:
        """Returns the digest of all that was written, in hexadecimal."""
        return self._digest.hexdigest()


class TensorFile:
    """The bytes of a safetensors file: the length of its header, the header, then each tensor's memory.

    https://huggingface.co/docs/safetensors/index#format. Widest dtypes come first, so that every tensor is aligned.

    Args:
        tensors: name -> dense tensor of any device and layout, not copied until its bytes are asked for.

    Raises:
        TypeError: the format has no name for a tensor's dtype.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        names = sorted(tensors, key=lambda n: -tensors[n].element_size())
        self._tensors = [tensors[n] for n in names]
        header: dict[str, object] = {}
        end = 0
        for name, tensor in zip(names, self._tensors, strict=True):
            if tensor.dtype not in DTYPE_NAMES:
                raise TypeError(f"tensor '{name}' is {tensor.dtype}, for which safetensors files have no name")
            start, end = end, end + tensor.numel() * tensor.element_size()
            entry = {"dtype": DTYPE_NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
            header[name] = entry
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._head = len(text).to_bytes(8, "little") + text
        self.size_bytes = len(self._head) + end

    def chunks(self) -> Iterator[bytes | memoryview]:
        """Yields the file's bytes in order; a tensor that is contiguous and on the CPU is not copied."""
        yield self._head
        for tensor in self._tensors:
            if tensor.numel():
                flat = tensor.detach().cpu().contiguous().reshape(-1)
                yield memoryview(flat.view(torch.uint8).numpy())  # type: ignore[arg-type]


def read_tensor_file(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of a safetensors file, in memory of their own.

    Raises:
        CheckpointError: the file is missing, damaged or of another format.
    """
    try:
        # a clone, because what is loaded is a map of the file, which may be removed or replaced later
        return {name: tensor.clone() for name, tensor in load_file(path).items()}
    except (SafetensorError, OSError, ValueError, KeyError) as e:
        raise CheckpointError(
            f"cannot read {path} as a safetensors file: {e}; it is damaged or of another format"
        ) from e
