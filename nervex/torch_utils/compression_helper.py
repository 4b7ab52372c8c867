"""Plain data with arrays and tensors as bytes, compressed, and back; nothing in them is ever executed."""

import json
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load

from nervex.torch_utils.state_tree import decode_state, encode_state
from nervex.torch_utils.tensor_file import TensorFile
from nervex.utils.errors import ConfigError, MissingExtraError, StorageError, did_you_mean

try:
    import lz4.frame as lz4_frame
except ImportError:  # the extra is not installed: told when it is asked for
    lz4_frame = None

MAX_BYTES = 1 << 32
_MAGIC = b"nvX1"
_NAME_BYTES = 4
_SUM_BYTES = 4
_HEAD_BYTES = len(_MAGIC) + _NAME_BYTES + _SUM_BYTES
_LENGTH_BYTES = 8


class _Codec(NamedTuple):
    """How bytes become fewer; ``decompress(data, limit)`` gives at most ``limit`` bytes, and whether that is all."""

    compress: Callable[[bytes], bytes]
    decompress: Callable[[bytes, int], tuple[bytes, bool]]


def get_data_compressor(name: str) -> Callable[[Any], bytes]:
    """Returns the function that turns data into bytes.

    Data nests dict (keys: str or int), list and tuple around None, bool, int, float, str, bytes, NumPy scalars and
    arrays, and torch tensors; types, dtypes and shapes come back as they were, tensors on the CPU.

    Args:
        name: ``'lz4'`` (fast), ``'zlib'`` (smaller) or ``'none'``.

    Returns:
        A function of the data. It raises TypeError, with the place, for what is no data, such as a function or an
        object of a class.

    Raises:
        ConfigError: an unknown name.
        MissingExtraError: ``'lz4'``, and the package is not installed.
    """
    codec = _codec(name)
    return lambda data: _seal(name, codec.compress(tree_to_bytes(data)))


def get_data_decompressor(name: str, max_bytes: int = MAX_BYTES) -> Callable[[bytes], Any]:
    """Returns the function that turns the bytes of ``get_data_compressor(name)`` into the data again.

    Args:
        name: that of the compressor.
        max_bytes: the most that the bytes may hold, uncompressed; a small message can claim to hold terabytes.

    Returns:
        A function of the bytes. It raises StorageError for bytes that are damaged, foreign, of another compressor, or
        hold more than ``max_bytes``.

    Raises:
        ConfigError: an unknown name.
        MissingExtraError: ``'lz4'``, and the package is not installed.
    """
    codec = _codec(name)
    return lambda data: tree_from_bytes(_expand(codec, _unseal(name, data), max_bytes))


def tree_to_bytes(data: Any) -> bytes:
    """Returns a tree of plain data, arrays and tensors as bytes: the length of a JSON text in 8 bytes (little-endian),
    the text, and a safetensors file.

    Raises:
        TypeError: something in it is no data; the message gives its place.
    """
    structure, tensors = encode_state(data)
    text = json.dumps(structure, separators=(",", ":")).encode()
    return b"".join([len(text).to_bytes(_LENGTH_BYTES, "little"), text, *TensorFile(tensors).chunks()])


def tree_from_bytes(data: bytes) -> Any:
    """Returns the tree that ``tree_to_bytes`` wrote, in memory of its own.

    Raises:
        StorageError: the bytes are not such ones, or damaged.
    """
    end = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")
    try:
        return decode_state(json.loads(data[_LENGTH_BYTES:end]), load(data[end:]))
    except (SafetensorError, ValueError, KeyError, RecursionError, OverflowError, MemoryError) as e:
        raise StorageError(
            f"{len(data):,} bytes are no data of nerveX, or damaged: {e}; send or write them anew"
        ) from e


def _lz4_codec() -> _Codec:
    if lz4_frame is None:
        raise MissingExtraError("compression 'lz4' needs the package lz4; install it with: pip install 'nervex[lz4]'")

    def decompress(data: bytes, limit: int) -> tuple[bytes, bool]:
        stream = lz4_frame.LZ4FrameDecompressor()
        whole = stream.decompress(data, max_length=limit)
        return whole, stream.eof and not stream.unused_data

    return _Codec(lz4_frame.compress, decompress)


def _zlib_codec() -> _Codec:
    def decompress(data: bytes, limit: int) -> tuple[bytes, bool]:
        stream = zlib.decompressobj()
        whole = stream.decompress(data, limit)
        return whole, stream.eof and not stream.unused_data

    return _Codec(zlib.compress, decompress)


_CODECS: dict[str, Callable[[], _Codec]] = {
    "lz4": _lz4_codec,
    "zlib": _zlib_codec,
    "none": lambda: _Codec(bytes, lambda data, limit: (data[:limit], len(data) <= limit)),
}


def _codec(name: str) -> _Codec:
    if name not in _CODECS:
        known = ", ".join(_CODECS)
        raise ConfigError(f"unknown compressor '{name}'{did_you_mean(str(name), _CODECS)} (known: {known})")
    return _CODECS[name]()


def _seal(name: str, payload: bytes) -> bytes:
    return _MAGIC + name.encode().ljust(_NAME_BYTES) + zlib.crc32(payload).to_bytes(_SUM_BYTES, "little") + payload


def _unseal(name: str, data: bytes) -> bytes:
    head, payload = bytes(data[:_HEAD_BYTES]), bytes(data[_HEAD_BYTES:])
    if len(head) < _HEAD_BYTES or not head.startswith(_MAGIC):
        raise StorageError(f"{len(data):,} bytes are not from a compressor of nerveX, or truncated; expected '{name}'")
    used = head[len(_MAGIC) : -_SUM_BYTES].decode("ascii", "replace").strip()
    if used != name:
        raise StorageError(f"the bytes are of compressor '{used}'; the decompressor is '{name}', use the same")
    if zlib.crc32(payload) != int.from_bytes(head[-_SUM_BYTES:], "little"):
        raise StorageError(f"{len(data):,} bytes of '{name}' are damaged: their checksum is wrong; send them anew")
    return payload


def _expand(codec: _Codec, payload: bytes, max_bytes: int) -> bytes:
    try:
        # one byte more than is allowed tells too much from just enough
        whole, is_all = codec.decompress(payload, max_bytes + 1)
    except (zlib.error, RuntimeError) as e:
        raise StorageError(f"{len(payload):,} compressed bytes are damaged: {e}; send or write them anew") from e
    if len(whole) > max_bytes:
        raise StorageError(
            f"{len(payload):,} compressed bytes hold more than {max_bytes:,}; raise max_bytes if that is right"
        )
    if not is_all:
        raise StorageError(f"{len(payload):,} compressed bytes are truncated, or more follows; send or write them anew")
    return whole
