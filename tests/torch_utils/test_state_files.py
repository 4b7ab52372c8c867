"""One checkpoint directory: whole, exact, and refused when anything about it is wrong."""

import hashlib
import os
import pickle
from pathlib import Path

import pytest
import torch
from checkpoint_cases import FaultyDisk, names, number_in, state, weights
from safetensors.torch import load_file

from nervex.torch_utils.checkpoint import load_weights
from nervex.torch_utils.state_files import load_state, looks_whole, read_manifest, save_state, seal
from nervex.utils.errors import CheckpointError

torch.set_num_threads(1)


def test_save_and_load(tmp_path):
    save_state(tmp_path / "c", state(4), weights=weights(4), metadata={"env_step": 7, "return": 1.5})
    tree, loaded = load_state(tmp_path / "c")
    assert number_in(tree, loaded) == 4
    assert names(tmp_path) == ["c"]
    assert names(tmp_path / "c") == ["manifest.json", "state.json", "state.safetensors", "weights.safetensors"]
    manifest = read_manifest(tmp_path / "c")
    assert manifest["metadata"] == {"env_step": 7, "return": 1.5} and manifest["format"] == 1
    assert load_file(tmp_path / "c" / "weights.safetensors")["layer.weight"].equal(weights(4)["layer.weight"])


def test_save_without_weights(tmp_path):
    save_state(tmp_path / "c", {})
    assert load_state(tmp_path / "c") == ({}, None)


def test_all_weight_dtypes_are_readable_by_the_safetensors_library(tmp_path):
    dtypes = [torch.float64, torch.bfloat16, torch.float16, torch.int8, torch.bool, torch.uint16, torch.float8_e5m2]
    saved = {str(d): torch.arange(6).reshape(3, 2).to(d).T for d in dtypes} | {
        "empty": torch.zeros(0, 3),
        "0d": torch.tensor(2),
    }
    save_state(tmp_path / "c", {}, weights=saved)
    loaded = load_file(tmp_path / "c" / "weights.safetensors")
    assert set(loaded) == set(saved)
    for name, tensor in saved.items():
        assert loaded[name].dtype == tensor.dtype and loaded[name].shape == tensor.shape
        assert loaded[name].double().equal(tensor.double())


def test_loaded_tensors_outlive_the_files(tmp_path):
    save_state(tmp_path / "c", state(1), weights=weights(1))
    tree, loaded = load_state(tmp_path / "c")
    for path in (tmp_path / "c").iterdir():
        path.write_bytes(b"")
    assert number_in(tree, loaded) == 1
    tree["x"].add_(1)


def test_the_same_state_gives_the_same_bytes(tmp_path):
    for name in "ab":
        save_state(tmp_path / name, state(1), weights=weights(1), metadata={"k": 1})
    for name in names(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch, lambda p: p.symlink_to("nowhere")])
def test_an_existing_name_is_refused(tmp_path, make):
    make(tmp_path / "c")
    with pytest.raises(CheckpointError, match=r"cannot save to .*c: it exists already"):
        save_state(tmp_path / "c", {})
    assert names(tmp_path) == ["c"]


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"tree": {"a": [object()]}}, r"state \['a'\]\[0\] is a builtins.object"),
        ({"tree": {}, "weights": {"w": torch.zeros(1, dtype=torch.complex64)}}, "tensor 'w' is torch.complex64"),
        ({"tree": {}, "metadata": {"best": float("-inf")}}, "checkpoint metadata .* is not plain JSON"),
        ({"tree": {}, "metadata": {"best": {1, 2}}}, "checkpoint metadata .* is not plain JSON"),
    ],
)
def test_what_cannot_be_saved_is_refused_before_anything_is_written(tmp_path, kwargs, match):
    with pytest.raises(TypeError, match=match):
        save_state(tmp_path / "c", **kwargs)
    assert names(tmp_path) == []


def test_every_flipped_bit_and_every_truncation_is_found(tmp_path):
    path = tmp_path / "c"
    save_state(path, {"n": 1, "x": torch.arange(3)}, weights={"w": torch.ones(2)})
    for file in sorted(path.iterdir()):
        data = file.read_bytes()
        flips = [data[:i] + bytes([data[i] ^ (1 << (i % 8))]) + data[i + 1 :] for i in range(len(data))]
        cuts = [data[:-1], data[: len(data) // 2], b"", data + b"\n"]
        for bad in flips + cuts:
            file.write_bytes(bad)
            with pytest.raises(CheckpointError, match=file.name):
                load_state(path)
        file.unlink()
        with pytest.raises(CheckpointError, match=file.name):
            load_state(path)
        file.write_bytes(data)
    assert load_state(path)[0]["n"] == 1


def test_foreign_directories_and_files(tmp_path):
    with pytest.raises(CheckpointError, match=r"is not a nerveX checkpoint: cannot read its manifest.json"):
        load_state(tmp_path / "absent")
    (tmp_path / "manifest.json").write_text('{"name": "a web page"}')
    with pytest.raises(CheckpointError, match="is not a file of a nerveX checkpoint"):
        load_state(tmp_path)
    (tmp_path / "manifest.json").write_bytes(seal({"format": 1, "files": []}))
    with pytest.raises(CheckpointError, match="is not the manifest of a nerveX checkpoint"):
        load_state(tmp_path)
    (tmp_path / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match="is damaged"):
        load_state(tmp_path)


def reseal(path, **changes):
    manifest = {**read_manifest(path), **changes}
    (path / "manifest.json").write_bytes(seal(manifest))


def replace_file(path, name, data):
    """Does what a hostile editor would: new bytes with the right digests in a sound manifest."""
    (path / name).write_bytes(data)
    record = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    reseal(path, files={**read_manifest(path)["files"], name: record})


def test_a_newer_format_says_to_upgrade(tmp_path):
    save_state(tmp_path / "c", {})
    reseal(tmp_path / "c", format=2)
    with pytest.raises(CheckpointError, match=r"manifest.json has format 2, this nerveX reads up to 1; upgrade nerveX"):
        load_state(tmp_path / "c")


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "sub/state.json", "weights.pth"])
def test_names_in_a_manifest_cannot_lead_elsewhere(tmp_path, name):
    save_state(tmp_path / "c", {})
    (tmp_path / "secret").write_text("x")
    reseal(tmp_path / "c", files={**read_manifest(tmp_path / "c")["files"], name: {"sha256": "0", "bytes": 1}})
    with pytest.raises(CheckpointError, match=f"lists '{name}', but a checkpoint holds .* nothing else"):
        load_state(tmp_path / "c")


def test_links_and_pipes_are_not_followed(tmp_path):
    save_state(tmp_path / "c", {})
    state_file = tmp_path / "c" / "state.json"
    state_file.rename(tmp_path / "elsewhere")
    state_file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=r"state.json is damaged: it is no regular file"):
        load_state(tmp_path / "c")
    (tmp_path / "c" / "manifest.json").unlink()
    os.mkfifo(tmp_path / "c" / "manifest.json")
    with pytest.raises(CheckpointError, match=r"manifest.json is no regular file"):
        load_state(tmp_path / "c")


class Bomb:
    """Leaves a trace if it is ever unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_pickles_are_never_opened(tmp_path):
    bomb = pickle.dumps(Bomb(tmp_path / "trace"))
    for name in ("state.json", "state.safetensors", "weights.safetensors"):
        save_state(tmp_path / name, {"x": torch.ones(1)}, weights={})
        replace_file(tmp_path / name, name, bomb)
        with pytest.raises(CheckpointError, match="cannot read"):
            load_state(tmp_path / name)
    for name in ("w.pth", "w.pt", "w.pkl", "w.PT", "w.safetensors", "w"):
        (tmp_path / name).write_bytes(bomb)
        with pytest.raises(CheckpointError):
            load_weights(tmp_path / name)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    "data", [b'{"dict": {"a": {"array": ["x", "O"]}}}', b'{"a": 1}', b"[" * 100_000, b"\xff", b"NaN1"]
)
def test_foreign_structure_with_sound_digests(tmp_path, data):
    save_state(tmp_path / "c", {"x": torch.ones(1)})
    replace_file(tmp_path / "c", "state.json", data)
    with pytest.raises(CheckpointError, match=r"cannot read .*state\.json"):
        load_state(tmp_path / "c")


def test_a_full_disk_is_explained(tmp_path):
    with pytest.raises(CheckpointError) as e:
        save_state(tmp_path / "c", state(1), files=FaultyDisk(3))
    assert str(e.value).startswith(f"cannot write {tmp_path / 'c'} (")
    assert " bytes free there): No space left on device; nothing was replaced" in str(e.value)
    assert "checkpoints before it are intact" in str(e.value)
    assert names(tmp_path) == []


def test_everything_is_flushed_before_the_rename_and_the_name_after_it(tmp_path):
    disk = FaultyDisk()
    save_state(tmp_path / "c", state(1), weights=weights(1), files=disk)
    order = [name for name in disk.names if name != "write"]
    assert order == ["make_dir", *["create", "fsync"] * 4, "fsync_dir", "rename", "fsync_dir"]


def test_looks_whole_sees_sizes_only(tmp_path):
    save_state(tmp_path / "c", state(1))
    file = tmp_path / "c" / "state.json"
    file.write_bytes(file.read_bytes()[::-1])
    assert looks_whole(tmp_path / "c")
    file.write_bytes(b"")
    assert not looks_whole(tmp_path / "c")
    file.unlink()
    assert not looks_whole(tmp_path / "c") and not looks_whole(tmp_path)
