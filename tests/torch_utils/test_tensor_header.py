"""Heads of safetensors files: what a sound file says, and that no damaged or foreign one passes."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from nervex.torch_utils.tensor_header import MAX_HEADER_BYTES, TensorHead, read_tensor_heads
from nervex.utils.errors import CheckpointError


def sound(path: Path) -> Path:
    save_file({"a/w": torch.zeros(3, 2), "b": torch.zeros(5, dtype=torch.bool), "empty": torch.zeros(0)}, path)
    return path


def raw(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def test_heads_of_a_sound_file(tmp_path: Path) -> None:
    heads = read_tensor_heads(sound(tmp_path / "x.safetensors"))
    assert heads == {
        "a/w": TensorHead("F32", (3, 2), 24),
        "b": TensorHead("BOOL", (5,), 5),
        "empty": TensorHead("F32", (0,), 0),
    }


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    data = sound(tmp_path / "x.safetensors").read_bytes()
    short = tmp_path / "short.safetensors"
    for size in range(len(data)):
        short.write_bytes(data[:size])
        with pytest.raises(CheckpointError):
            read_tensor_heads(short)
    short.write_bytes(data + b"\0")
    with pytest.raises(CheckpointError):
        read_tensor_heads(short)


def entry(begin: int = 0, end: int = 4, dtype: Any = "F32", shape: Any = (1,)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ([1], "no mapping"),
        (b'{"a": 1', "damaged"),
        (b"[" * 50_000, "damaged"),
        ({"../../etc/x": entry()}, "no name of a tensor"),
        ({"/etc/x": entry()}, "no name of a tensor"),
        ({"a\\..\\x": entry()}, "no name of a tensor"),
        ({"\x1b[2Ja": entry()}, "no name of a tensor"),
        ({"a": entry(dtype="O")}, "'O' of shape"),
        ({"a": entry(dtype=["F32"])}, "damaged"),
        ({"a": entry(shape=(-1,))}, "of shape"),
        ({"a": entry(shape=(True,))}, "of shape"),
        ({"a": entry(shape=(2,))}, "has 4 bytes"),
        ({"a": entry(shape=(1 << 62, 1 << 62))}, "has 4 bytes"),
        ({"a": entry(), "b": entry()}, "overlap or leave holes"),
        ({"a": entry(4, 8)}, "overlap or leave holes"),
        ({"a": {"dtype": "F32"}}, "damaged"),
        (b'{"a": %b, "a": %b}' % ((json.dumps(entry()).encode(),) * 2), "twice"),
    ],
    ids=str,
)
def test_wrong_headers_are_refused(tmp_path: Path, header: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_tensor_heads(raw(tmp_path / "x.safetensors", header, b"\0" * 4))


@pytest.mark.parametrize("length", [MAX_HEADER_BYTES + 1, (1 << 64) - 1, 1 << 63, 1000])
def test_absurd_header_sizes_are_refused_before_anything_is_read(tmp_path: Path, length: int) -> None:
    with pytest.raises(CheckpointError, match="would be header"):
        read_tensor_heads(raw(tmp_path / "x.safetensors", {}, length=length))


class Mark:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5, "zip"])
def test_code_under_a_tensor_files_name_is_refused_and_not_run(tmp_path: Path, protocol: Any) -> None:
    mark, path = tmp_path / "executed", tmp_path / "x.safetensors"
    if protocol == "zip":
        torch.save({"w": Mark(mark)}, path)
    else:
        path.write_bytes(pickle.dumps(Mark(mark), protocol))
    expected = {"zip": "zip archive", 0: "no safetensors file"}.get(protocol, "is a pickle")
    with pytest.raises(CheckpointError, match=expected):
        read_tensor_heads(path)
    assert not mark.exists()
    if protocol != "zip":  # and the mark is a true one
        pickle.loads(path.read_bytes())
        assert mark.exists()


def test_links_and_pipes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "link.safetensors").symlink_to(sound(tmp_path / "x.safetensors"))
    os.mkfifo(tmp_path / "pipe.safetensors")
    for name in ("link", "pipe"):
        with pytest.raises(CheckpointError, match="no regular file"):
            read_tensor_heads(tmp_path / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match="No such file"):
        read_tensor_heads(tmp_path / "missing.safetensors")
