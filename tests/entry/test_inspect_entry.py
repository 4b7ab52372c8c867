"""``nervex inspect``: what it shows, and that what it must not open is refused with nothing executed."""

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from nervex import cli
from nervex.entry.inspect_entry import inspect_path
from nervex.torch_utils import state_tree, tensor_file
from nervex.torch_utils.checkpoint import CheckpointManager
from nervex.torch_utils.segment import Segment
from nervex.torch_utils.state_files import MANIFEST, STATE, save_state, seal, unseal
from nervex.utils.errors import CheckpointError
from nervex.worker.monitor.run_folder import RunFolder

TREE = {
    "learner": {"last_iter": 7, "nan": float("nan"), "sums": [1.5, 2.5]},
    "optimizer": {"state": {0: {"exp_avg": torch.zeros(3, 2)}}, "none": (None, b"x"), "empty": {}},
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "state"
    save_state(path, TREE, weights={"net.w": torch.ones(4, dtype=torch.bfloat16)}, metadata={"train_iter": 7})
    return path


def forbid_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise AssertionError("tensors were loaded")

    for module, name in ((tensor_file, "load_file"), (state_tree, "decode_state"), (torch, "load"), (pickle, "loads")):
        monkeypatch.setattr(module, name, fail)


def test_a_checkpoint(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_loading(monkeypatch)
    found = inspect_path(checkpoint)
    assert found.sound
    text = "\n".join(found.lines)
    for line in (
        "all digests match", "train_iter: 7", "net.w  BF16 [4]", "last_iter: 7", "nan: float",
        "exp_avg: tensor F32 [3, 2]", "sums: list of 2: [1.5, 2.5]", "empty: empty", "1: bytes",
    ):  # fmt: skip
        assert line in text, line


def test_a_tensor_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file({"w": torch.zeros(3)}, tmp_path / "x.safetensors")
    forbid_loading(monkeypatch)
    assert inspect_path(tmp_path / "x.safetensors").lines[1:] == ["  w  F32 [3]"]


def run_folder(path: Path) -> Path:
    with RunFolder.create(path, "tiny", 3) as folder:
        folder.write_config("seed: 3\n")
        folder.metrics_path.write_text('{"kind": "train", "env_step": 9, "train_iter": 5}\n')
        manager = CheckpointManager(folder.checkpoint_dir)
        manager.save(4, TREE, {"w": torch.zeros(2)}, pin="best")
        manager.save(5, TREE, {"w": torch.zeros(2)})
        save_state(path / "bad_batch_iteration_6", {"batch": torch.zeros(3)})
    return path


def test_a_run_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run_folder(tmp_path / "run")
    assert cli.main(["inspect", str(path)]) == 0
    text = capsys.readouterr().out
    for line in (
        "run 'tiny', seed 3", "1 rows, the last at env step 9, iteration 5", "iteration_0000000004 [best]",
        "bad_batch_iteration_6", "running, or was killed",
    ):  # fmt: skip
        assert line in text, line
    flip(path / "checkpoints" / "iteration_0000000005" / "weights.safetensors", -1)
    assert cli.main(["inspect", str(path)]) == 1
    text = capsys.readouterr().out
    assert text.count("DAMAGED") == 1 and "iteration_0000000005  DAMAGED" in text


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def resealed(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Writes a manifest that says something else and whose own digest is right."""
    manifest = unseal((path / MANIFEST).read_bytes(), path)
    change(manifest)
    (path / MANIFEST).write_bytes(seal(manifest))


def with_state(path: Path, structure: Any) -> None:
    """Replaces ``state.json`` and makes the manifest agree."""
    text = json.dumps(structure).encode()
    (path / STATE).write_bytes(text)
    digest = hashlib.sha256(text).hexdigest()
    resealed(path, lambda m: m["files"].update({STATE: {"sha256": digest, "bytes": len(text)}}))


def outside_link(path: Path, name: str) -> None:
    shutil.move(path / name, path.parent / name)
    (path / name).symlink_to(path.parent / name)


HOSTILE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "flipped bit": (lambda p: flip(p / "state.safetensors", -1), "digest does not match"),
    "flipped bit in the manifest": (lambda p: flip(p / MANIFEST, 20), "damaged"),
    "truncated": (lambda p: os.truncate(p / STATE, 10), "has 10 bytes"),
    "truncated manifest": (lambda p: os.truncate(p / MANIFEST, 10), "not valid JSON"),
    "missing file": (lambda p: (p / STATE).unlink(), "cannot read it"),
    "foreign file": (lambda p: (p / "extra.pkl").write_bytes(b"x"), "does not list"),
    "link": (lambda p: outside_link(p, "weights.safetensors"), "is a link"),
    "foreign link": (lambda p: (p / "more").symlink_to("/etc"), "is a link"),
    "path in the manifest": (
        lambda p: resealed(p, lambda m: m["files"].update({"../x": m["files"][STATE]})), "and nothing else"),
    "path in the state": (lambda p: with_state(p, {"tensor": "../../x"}), "no name of a tensor"),
    "absent tensor": (lambda p: with_state(p, {"dict": {"a": {"tensor": "absent"}}}), "which is not there"),
    "no state": (lambda p: with_state(p, {"a": 1, "b": 2}), "no state of a checkpoint"),
    "newer format": (lambda p: resealed(p, lambda m: m.update(format=99)), "upgrade nerveX"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_checkpoints_are_refused(checkpoint: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    change, message = HOSTILE[case]
    change(checkpoint)
    assert cli.main(["inspect", str(checkpoint)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_what_could_steer_a_terminal_is_shown_harmlessly(checkpoint: Path) -> None:
    resealed(checkpoint, lambda m: m["metadata"].update({"note": "\x1b[2Jgone\n\u202eabc"}))
    text = "\n".join(inspect_path(checkpoint).lines)
    assert "\x1b" not in text and "\u202e" not in text and "\\x1b[2Jgone\\n" in text


class Mark:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("name", ["x.pth", "x.pt", "x.pkl", "x.safetensors", "x.json", "x"])
@pytest.mark.parametrize("kind", ["pickle", "zip"])
def test_code_is_refused_and_not_run(tmp_path: Path, name: str, kind: str) -> None:
    mark = tmp_path / "executed"
    if kind == "pickle":
        (tmp_path / name).write_bytes(pickle.dumps(Mark(mark)))
    else:
        torch.save(Mark(mark), tmp_path / name)
    with pytest.raises(CheckpointError, match="can run code"):
        inspect_path(tmp_path / name)
    assert not mark.exists()


def test_other_things_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    os.mkfifo(tmp_path / "pipe.safetensors")
    for name, message in (
        ("notes.txt", r"no \.safetensors file"),
        ("pipe.safetensors", "neither a file nor a directory"),
        ("missing", "No such file"),
        (".", "not a nerveX checkpoint"),
    ):
        with pytest.raises(CheckpointError, match=message):
            inspect_path(tmp_path / name)


def test_parts_in_files_of_their_own_are_shown_with_the_state(tmp_path):
    tree = {"rows": [Segment("rows-0", "a-1", lambda: {"x": np.zeros((7, 3), np.float32)})], "n": 4}
    path = CheckpointManager(tmp_path).save(1, tree, {"w": torch.zeros(2)})
    lines = inspect_path(path).lines
    assert any("part_rows-0.safetensors" in line for line in lines)
    assert any(line.strip() == "x: array F32 [7, 3]" for line in lines)
    assert any("and 1 parts: 1 tensors, 84 B" in line for line in lines)
