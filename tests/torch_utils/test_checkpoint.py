"""Checkpoints: at any instant, whatever fails, the old state or the new one is there, whole."""

import logging
import resource
import shutil
import subprocess
import sys

import pytest
import torch
from checkpoint_cases import FaultyDisk, Killed, damage, names, number_in, state, weights
from safetensors.torch import save_file

from nervex.torch_utils.checkpoint import CheckpointManager, CountVar, load_weights
from nervex.torch_utils.state_files import load_state, read_manifest, save_state, seal, verify_state
from nervex.utils.errors import CheckpointError
from nervex.utils.files import FileLayer

torch.set_num_threads(1)


def latest_number(directory):
    found = CheckpointManager(directory).load_latest()
    assert CheckpointManager(directory).latest() == found.path
    return number_in(found.tree, found.weights)


def test_a_real_file_size_limit(tmp_path):
    manager = CheckpointManager(tmp_path)
    manager.save(1, state(1), weights(1))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(CheckpointError, match=r"\(40,\d{3} bytes; [\d,]+ bytes free there\): File too large"):
            manager.save(2, {**state(2), "big": torch.zeros(10_000)}, weights(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names(tmp_path) == ["iteration_0000000001"] and latest_number(tmp_path) == 1


def test_manager_keeps_the_newest(tmp_path):
    manager = CheckpointManager(tmp_path / "a" / "checkpoints", keep=2)
    assert manager.latest() is None
    for n in (0, 10, 20, 1_000):
        path = manager.save(n, state(n), weights(n), metadata={"env_step": 5 * n})
        assert path == manager.latest() == manager.directory / f"iteration_{n:010d}"
    assert names(manager.directory) == ["iteration_0000000020", "iteration_0000001000"]
    assert latest_number(manager.directory) == 1_000
    assert read_manifest(manager.latest())["metadata"] == {"env_step": 5_000, "train_iter": 1_000}


def test_manager_numbers_saves_of_one_iteration(tmp_path):
    manager = CheckpointManager(tmp_path, keep=3)
    saved = [manager.save(7, state(n), weights(n)).name for n in range(12)]
    assert saved[:2] == ["iteration_0000000007", "iteration_0000000007_1"] and saved[-1].endswith("_11")
    assert latest_number(tmp_path) == 11
    assert names(tmp_path) == ["iteration_0000000007_11"]  # the newest of an iteration takes the place of the others
    manager.save(8, state(12), weights(12))
    manager.save(8, state(13), weights(13))
    assert names(tmp_path) == ["iteration_0000000007_11", "iteration_0000000008_1"]
    assert manager.latest(8).name == "iteration_0000000007_11" and manager.latest(7) is None


def test_pins_protect_until_the_label_moves(tmp_path):
    manager = CheckpointManager(tmp_path, keep=1)
    assert manager.pinned("best") is None
    first = manager.save(1, state(1), weights(1), pin="best")
    for n in (2, 3):
        manager.save(n, state(n), weights(n))
    assert manager.pinned("best") == first and manager.latest().name == "iteration_0000000003"
    assert names(tmp_path) == ["best.pin", "iteration_0000000001", "iteration_0000000003"]
    manager.save(4, state(4), weights(4), pin="best")
    assert names(tmp_path) == ["best.pin", "iteration_0000000004"]
    assert CheckpointManager(tmp_path).pinned("best").name == "iteration_0000000004"


def test_a_damaged_label_protects_all(tmp_path, caplog):
    manager = CheckpointManager(tmp_path, keep=1)
    manager.save(1, state(1), weights(1), pin="best")
    label = tmp_path / "best.pin"
    data = label.read_bytes()
    for i in range(len(data)):
        label.write_bytes(data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :])
        assert CheckpointManager(tmp_path).pinned("best") is None
    manager.save(2, state(2), weights(2))
    assert names(tmp_path) == ["best.pin", "iteration_0000000001", "iteration_0000000002"]
    assert "best.pin" in caplog.text
    manager.save(3, state(3), weights(3), pin="best")
    assert names(tmp_path) == ["best.pin", "iteration_0000000003"]


@pytest.mark.parametrize("name", ["../../etc", "iteration_1", "", 3, None])
def test_a_label_cannot_lead_elsewhere(tmp_path, name, caplog):
    (tmp_path / "best.pin").write_bytes(seal({"format": 1, "checkpoint": name}))
    assert CheckpointManager(tmp_path).pinned("best") is None
    assert "which is no checkpoint" in caplog.text


def test_damaged_checkpoints_are_skipped_with_one_warning(tmp_path, caplog):
    manager = CheckpointManager(tmp_path, keep=3)
    paths = [manager.save(n, state(n), weights(n)) for n in (1, 2, 3)]
    damage(paths[2])
    with caplog.at_level(logging.WARNING, logger="nervex"):
        for _ in range(3):
            assert manager.latest() == paths[1]
            assert number_in(*manager.load_latest()[1:]) == 2
    assert len(caplog.records) == 1 and "state.json is damaged" in caplog.text
    damage(paths[0])
    damage(paths[1])
    assert manager.latest() is None
    with pytest.raises(CheckpointError, match=r"every checkpoint in .* is damaged \(iteration_0000000003, "):
        manager.load_latest()


def test_nothing_to_load(tmp_path):
    for directory in (tmp_path, tmp_path / "absent"):
        with pytest.raises(CheckpointError, match="there is no checkpoint in"):
            CheckpointManager(directory).load_latest()


def test_a_damaged_checkpoint_takes_no_sound_ones_place(tmp_path):
    manager = CheckpointManager(tmp_path, keep=2)
    manager.save(1, state(1), weights(1))
    (manager.save(2, state(2), weights(2)) / "state.json").unlink()
    manager.save(3, state(3), weights(3))
    assert names(tmp_path) == [f"iteration_000000000{n}" for n in (1, 2, 3)]
    manager.save(4, state(4), weights(4))
    assert names(tmp_path) == [f"iteration_000000000{n}" for n in (3, 4)]


def test_a_run_that_goes_on_from_an_older_state_leaves_its_former_future(tmp_path):
    manager = CheckpointManager(tmp_path, keep=2)
    manager.save(10, state(10), weights(10))
    damage(manager.save(20, state(20), weights(20)))
    manager.save(15, state(15), weights(15))
    assert latest_number(tmp_path) == 15 and names(tmp_path) == ["iteration_0000000010", "iteration_0000000015"]


def test_leftovers_of_killed_saves_are_ignored_and_then_removed(tmp_path):
    manager = CheckpointManager(tmp_path)
    manager.save(1, state(1), weights(1))
    shutil.copytree(tmp_path / "iteration_0000000001", tmp_path / ".iteration_0000000009.tmp-0a")
    (tmp_path / ".best.pin.tmp-0b").write_text("")
    (tmp_path / "iteration_0000000005").write_text("a file")
    (tmp_path / "notes").mkdir()
    assert latest_number(tmp_path) == 1
    manager.save(2, state(2), weights(2))
    assert names(tmp_path) == ["iteration_0000000001", "iteration_0000000002", "iteration_0000000005", "notes"]


def test_what_the_disk_did_not_keep_is_noticed(tmp_path):
    class Forgetful(FileLayer):
        def write(self, file, data):
            super().write(file, bytes(len(data)))

    CheckpointManager(tmp_path).save(1, state(1), weights(1))
    with pytest.raises(CheckpointError, match="the disk did not keep what was written to it"):
        CheckpointManager(tmp_path, keep=1, files=Forgetful()).save(2, state(2), weights(2))
    assert names(tmp_path) == ["iteration_0000000001"] and latest_number(tmp_path) == 1


@pytest.mark.parametrize("kwargs", [{"train_iter": -1}, {"train_iter": 1, "pin": "../x"}, {"train_iter": 1, "pin": ""}])
def test_names_that_cannot_be_are_refused(tmp_path, kwargs):
    with pytest.raises(ValueError, match="cannot name a checkpoint after"):
        CheckpointManager(tmp_path).save(tree={}, **kwargs)
    with pytest.raises(ValueError, match="keep >= 1"):
        CheckpointManager(tmp_path, keep=0)


# ---------------------------------------------------------------- failures at every call


@pytest.mark.parametrize("mode", ["once", "stays", "killed"])
@pytest.mark.parametrize("pin", [None, "best"])
def test_a_failure_at_any_call_leaves_the_old_or_the_new_state(tmp_path, mode, pin):
    def start(name):
        manager = CheckpointManager(tmp_path / name, keep=1, files=FaultyDisk())
        manager.save(1, state(1), weights(1), pin=pin)
        return manager.directory

    count = FaultyDisk()
    CheckpointManager(start("count"), keep=1, files=count).save(2, state(2), weights(2), pin=pin)
    assert count.names.count("fsync") == 4 + (pin is not None) and "remove_tree" in count.names
    outcomes = set()
    for k in range(len(count.names)):
        directory = start(f"case{k}")
        disk = FaultyDisk(k, mode)
        try:
            CheckpointManager(directory, keep=1, files=disk).save(2, state(2), weights(2), pin=pin)
            raised = False
        except (CheckpointError, Killed) as e:
            raised = True
            assert isinstance(e, Killed) == (mode == "killed")
        assert disk.names[: k + 1] == count.names[: k + 1]
        found = latest_number(directory)
        assert found == 2 or (raised and found == 1)
        outcomes.add((raised, found))
        for path in directory.glob("iteration_*"):
            verify_state(path)  # no half stands under a name of its own
        if pin is not None:
            pinned = CheckpointManager(directory).pinned("best")
            assert number_in(*load_state(pinned)) in ({found, 1} if raised else {2})
        # and the run goes on: the next save works and leaves nothing behind
        CheckpointManager(directory, keep=1, files=FaultyDisk()).save(3, state(3), weights(3), pin=pin)
        assert latest_number(directory) == 3
        assert names(directory) == (["best.pin"] if pin else []) + ["iteration_0000000003"]
    assert {(True, 1), (True, 2)} <= outcomes
    assert mode == "killed" or (False, 2) in outcomes


@pytest.mark.parametrize("mode", ["once", "stays", "killed"])
def test_a_failure_at_any_call_of_the_first_save(tmp_path, mode):
    count = FaultyDisk()
    CheckpointManager(tmp_path / "count" / "c", files=count).save(1, state(1), weights(1))
    for k in range(len(count.names)):
        directory = tmp_path / f"case{k}" / "c"
        with pytest.raises((CheckpointError, Killed)):
            CheckpointManager(directory, files=FaultyDisk(k, mode)).save(1, state(1), weights(1))
        if CheckpointManager(directory).latest() is not None:
            assert latest_number(directory) == 1 and k == len(count.names) - 1
        CheckpointManager(directory, keep=1, files=FaultyDisk()).save(2, state(2), weights(2))
        assert names(directory) == ["iteration_0000000002"]


_KILL_SCRIPT = """
import os, random, signal, sys, time
import torch
from pathlib import Path
from nervex.torch_utils.checkpoint import CheckpointManager
from nervex.torch_utils.segment import Segment
from nervex.torch_utils.state_files import load_state

torch.set_num_threads(1)
directory, kills = Path(sys.argv[1]), int(sys.argv[2])
rng = random.Random(0)

def segment(k, n):
    part = (n + k) // 4  # changes with every fourth save
    return Segment(f"rows-{k}", f"{os.getpid()}-{part}", lambda: torch.full((2_000,), part))

def child(start, pipe):
    manager = CheckpointManager(directory, keep=2)
    for n in range(start, start + 10_000):
        tree = {"n": n, "x": torch.full((20_000,), n), "part": [segment(k, n) for k in range(4)]}
        manager.save(n // 3, tree, {"w": torch.full((100,), float(n))}, pin="best" if n % 5 == 0 else None)
        os.write(pipe, n.to_bytes(4, "little"))

done = best = unpruned = 0
usual_s = None  # that the first save of a life takes
for _ in range(kills):
    read, write = os.pipe()
    began_s = time.monotonic()
    pid = os.fork()
    if pid == 0:
        child(done + 1, write)
    os.close(write)
    acknowledged = b""
    if usual_s is None:
        acknowledged = os.read(read, 4)
        usual_s = time.monotonic() - began_s
    time.sleep(rng.uniform(0.0, 3 * usual_s))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    while chunk := os.read(read, 4096):
        acknowledged += chunk
    os.close(read)
    last = int.from_bytes(acknowledged[-4:], "little") if acknowledged else done
    manager = CheckpointManager(directory, keep=2)
    if manager.latest() is None:
        assert last == 0
        continue
    _, tree, weights = manager.load_latest()
    n = tree["n"]
    assert n in (last, last + 1), (n, last)
    assert tree["x"].equal(torch.full((20_000,), n)) and weights["w"].equal(torch.full((100,), float(n)))
    assert all(part.eq((n + k) // 4).all() for k, part in enumerate(tree["part"]))
    for i in range(0, len(acknowledged), 4):
        m = int.from_bytes(acknowledged[i : i + 4], "little")
        best = m if m % 5 == 0 else best
    if best:
        pinned = load_state(manager.pinned("best"))[0]["n"]
        assert pinned % 5 == 0 and best <= pinned <= n, (best, pinned, n)
    unpruned = 0 if acknowledged else unpruned + 1  # each life may end between a save and what it removes
    assert sum(p.is_dir() and not p.name.startswith(".") for p in directory.iterdir()) <= 5 + unpruned
    done = n
print("saves", done)
"""


def kill_saves(directory, kills):
    """Kills a process that saves without pause, ``kills`` times; returns how many saves were made."""
    command = [sys.executable, "-W", "error::UserWarning:nervex", "-c", _KILL_SCRIPT, str(directory), str(kills)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120 + 3 * kills)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[1])


def test_sigkill_at_random_instants(tmp_path):
    assert kill_saves(tmp_path, 100) > 50


@pytest.mark.slow
def test_sigkill_at_a_thousand_random_instants(tmp_path):
    assert kill_saves(tmp_path, 1_000) > 500


# ---------------------------------------------------------------- weights


def test_load_weights_from_file_checkpoint_and_run_folder(tmp_path):
    manager = CheckpointManager(tmp_path / "run" / "checkpoints")
    manager.save(1, state(1), weights(1))
    newest = manager.save(2, state(2), weights(2))
    save_file(weights(9), tmp_path / "w.safetensors")
    assert load_weights(tmp_path / "w.safetensors")["layer.bias"] == 9
    assert load_weights(newest)["layer.bias"] == 2
    assert load_weights(tmp_path / "run")["layer.bias"] == 2
    assert load_weights(tmp_path / "run" / "checkpoints")["layer.bias"] == 2
    manager.save(3, state(3), weights(3), pin="best")
    manager.save(4, state(4), weights(4))
    assert load_weights(tmp_path / "run")["layer.bias"] == 3


def test_load_weights_needs_no_other_file_of_the_checkpoint(tmp_path):
    save_state(tmp_path / "c", state(1), weights=weights(1))
    damage(tmp_path / "c")
    assert load_weights(tmp_path / "c")["layer.bias"] == 1
    file = tmp_path / "c" / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    with pytest.raises(CheckpointError, match=r"weights.safetensors is damaged: its digest does not match"):
        load_weights(tmp_path / "c")


def test_load_weights_says_what_is_wrong(tmp_path):
    save_state(tmp_path / "c", {})
    with pytest.raises(CheckpointError, match="was saved without weights"):
        load_weights(tmp_path / "c")
    with pytest.raises(CheckpointError, match=r"files of the kind '.pth' can run code .* safetensors.torch.save_file"):
        load_weights(tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=r"there is no .*; give a \.safetensors file"):
        load_weights(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="there is no sound checkpoint in"):
        load_weights(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(CheckpointError, match=r"cannot read .*notes.txt as a safetensors file"):
        load_weights(tmp_path / "notes.txt")


def test_count_var():
    count = CountVar(init_val=3)
    count.add(2)
    assert count.val == 5
    count.update(1)
    assert count.val == 1
