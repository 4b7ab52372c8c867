import zlib
from collections import OrderedDict
from typing import Any

import lz4.frame
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nervex.torch_utils import compression_helper
from nervex.torch_utils.compression_helper import tree_from_bytes, tree_to_bytes
from nervex.utils import get_data_compressor, get_data_decompressor
from nervex.utils.errors import ConfigError, MissingExtraError, StorageError

NAMES = ("lz4", "zlib", "none")
TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.integers(), inner, max_size=3),
    max_leaves=10,
)


def trajectory() -> dict[str, Any]:
    return {
        "obs": torch.arange(3000.0).reshape(1000, 3) % 7,
        "action": np.arange(1000, dtype=np.int16) % 4,
        "half": torch.full((5,), 1.5, dtype=torch.bfloat16),
        "empty": torch.zeros(0, 4),
        "info": OrderedDict(a=(1, [None, True, float("inf")]), b=b"\x00\xff"),
        3: np.float32(0.25),
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_trajectory_comes_back_as_it_was(name: str) -> None:
    data = trajectory()
    blob = get_data_compressor(name)(data)
    assert isinstance(blob, bytes)
    back = get_data_decompressor(name)(blob)
    assert list(back) == list(data) and back["info"] == data["info"] and type(back["info"]) is OrderedDict
    for key in ("obs", "half", "empty"):
        assert back[key].dtype == data[key].dtype and torch.equal(back[key], data[key])
    assert back["action"].dtype == np.int16 and np.array_equal(back["action"], data["action"])
    assert type(back[3]) is np.float32 and back[3] == 0.25
    back["obs"][0] = 9  # memory of its own
    back["action"][0] = 9
    assert get_data_decompressor(name)(blob)["obs"][0, 0] == 0


def test_compression_makes_it_smaller() -> None:
    size = {name: len(get_data_compressor(name)(trajectory())) for name in NAMES}
    assert size["none"] > 14_000 and size["lz4"] < size["none"] / 4 and size["zlib"] < size["lz4"]


@settings(max_examples=50)
@given(TREES, st.sampled_from(NAMES))
def test_any_plain_data_comes_back(data: Any, name: str) -> None:
    assert get_data_decompressor(name)(get_data_compressor(name)(data)) == data


class Unknown:
    pass


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("value", "kind"),
    [(lambda: 0, "function"), (Unknown(), "Unknown"), (Unknown, "type"), (compile("1", "", "eval"), "code")],
)
def test_code_is_refused(name: str, value: Any, kind: str) -> None:
    with pytest.raises(TypeError, match=rf"state \['a'\]\[1\] is a \S*{kind}, which cannot be saved without pickle"):
        get_data_compressor(name)({"a": [0, value]})


@pytest.mark.parametrize("name", NAMES)
def test_any_damaged_byte_is_noticed(name: str) -> None:
    blob = get_data_compressor(name)({"a": torch.arange(40)})
    decompress = get_data_decompressor(name)
    for i in range(0, len(blob), 7):
        with pytest.raises(StorageError, match=r"damaged|not from a compressor|are of compressor"):
            decompress(blob[:i] + bytes([blob[i] ^ 1]) + blob[i + 1 :])
    for size in (0, 5, 11, 12, len(blob) - 1):
        with pytest.raises(StorageError, match=r"truncated|damaged"):
            decompress(blob[:size])
    with pytest.raises(StorageError, match="damaged"):
        decompress(blob + b"x")


def forged(name: str, payload: bytes) -> bytes:
    """What an attacker sends: any payload, with a right checksum."""
    return compression_helper._seal(name, payload)


@pytest.mark.parametrize("name", NAMES)
def test_a_bomb_is_not_unpacked(name: str) -> None:
    whole = tree_to_bytes({"a": torch.zeros(1 << 18)})
    decompress = get_data_decompressor(name, max_bytes=len(whole))
    blob = get_data_compressor(name)({"a": torch.zeros(1 << 18)})
    assert decompress(blob)["a"].shape == (1 << 18,)
    smaller = get_data_decompressor(name, max_bytes=len(whole) - 1)
    with pytest.raises(StorageError, match=rf"hold more than {len(whole) - 1:,}; raise max_bytes"):
        smaller(blob)


@pytest.mark.parametrize(
    ("name", "payload", "message"),
    [
        ("zlib", b"no zlib", "compressed bytes are damaged"),
        ("lz4", b"no lz4 frame", "compressed bytes are damaged"),
        ("zlib", zlib.compress(b"x" * 100)[:-6], "are truncated, or more follows"),
        ("zlib", zlib.compress(b"x") + b"y", "are truncated, or more follows"),
        ("lz4", lz4.frame.compress(b"x" * 100)[:-6], "are truncated, or more follows"),
        ("lz4", lz4.frame.compress(b"x") + b"y", "are truncated, or more follows"),
        ("none", b"", "0 bytes are no data of nerveX"),
        ("none", b"\xff" * 20, "are no data of nerveX, or damaged"),
        ("none", (2).to_bytes(8, "little") + b"{}", "are no data of nerveX, or damaged"),
        ("none", (4).to_bytes(8, "little") + b"null" + b"junk junk", "are no data of nerveX, or damaged"),
        ("none", tree_to_bytes([1]).replace(b"[1]", b'{""}'[:3]), "are no data of nerveX, or damaged"),
        ("none", tree_to_bytes(np.zeros(3)).replace(b"<f8", b"<O8"), "are no data of nerveX, or damaged"),
    ],
)  # fmt: skip
def test_foreign_bytes_are_one_clear_sentence(name: str, payload: bytes, message: str) -> None:
    with pytest.raises(StorageError, match=message) as caught:
        get_data_decompressor(name)(forged(name, payload))
    assert "\n" not in str(caught.value)


def test_a_pickle_is_foreign() -> None:
    with pytest.raises(StorageError, match="not from a compressor of nerveX, or truncated; expected 'lz4'"):
        get_data_decompressor("lz4")(b"\x80\x04\x95\x20\x00\x00\x00\x00\x00\x00\x00\x8c\x08")


def test_another_compressor_is_named() -> None:
    with pytest.raises(StorageError, match="are of compressor 'zlib'; the decompressor is 'lz4'"):
        get_data_decompressor("lz4")(get_data_compressor("zlib")([1]))


@pytest.mark.parametrize("get", [get_data_compressor, get_data_decompressor])
def test_unknown_or_missing_compressors(get: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ConfigError, match=r"unknown compressor 'zllib'; did you mean 'zlib'\? \(known: lz4, zlib, none\)"
    ):
        get("zllib")
    monkeypatch.setattr(compression_helper, "lz4_frame", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'nervex\[lz4\]'"):
        get("lz4")
    assert get("zlib") is not None


def test_bytes_of_a_tree_are_its_own() -> None:
    data = bytearray(tree_to_bytes({"a": np.arange(3)}))
    tree = tree_from_bytes(bytes(data))
    data[:] = bytes(len(data))
    assert tree["a"].tolist() == [0, 1, 2]
