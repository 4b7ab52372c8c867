"""Segments: parts of a state that a checkpoint writes only when they have changed."""

import threading

import numpy as np
import pytest
import torch
from checkpoint_cases import FaultyDisk, Killed, names

from nervex.torch_utils.checkpoint import CheckpointManager
from nervex.torch_utils.checkpoint_writer import CheckpointWriter
from nervex.torch_utils.segment import Segment, part_contents
from nervex.torch_utils.state_files import load_state, read_manifest, seal, verify_state
from nervex.torch_utils.state_tree import encode_state
from nervex.utils.errors import CheckpointError
from nervex.utils.files import FileLayer


class Parts:
    """A state of three segments, of which one can be changed."""

    def __init__(self):
        self.number = [0, 0, 0]
        self.read = []

    def tree(self, n):
        return {"n": n, "rows": [(k, self._segment(k)) for k in range(3)]}

    def _segment(self, k):
        def read():
            self.read.append(k)
            return {"x": np.full(4, self.number[k], np.int32), "deep": {"y": torch.full((2,), k)}}

        return Segment(f"rows-{k}", f"token-{k}-{self.number[k]}", read)


def numbers_in(tree):
    for k, part in tree["rows"]:
        assert part["deep"]["y"].tolist() == [k, k] and part["x"].dtype == np.int32
    return tree["n"], [int(part["x"][0]) for _, part in tree["rows"]]


def test_what_has_not_changed_is_neither_read_nor_written_again(tmp_path):
    parts, manager = Parts(), CheckpointManager(tmp_path, keep=2)
    first = manager.save(1, parts.tree(1))
    assert parts.read == [0, 1, 2]
    parts.number[1] = 7
    second = manager.save(2, parts.tree(2))
    assert parts.read == [0, 1, 2, 1]
    shared = [(first / f"part_rows-{k}.safetensors").samefile(second / f"part_rows-{k}.safetensors") for k in range(3)]
    assert shared == [True, False, True]
    assert numbers_in(load_state(first)[0]) == (1, [0, 0, 0])
    assert numbers_in(load_state(second)[0]) == (2, [0, 7, 0])
    third = manager.save(3, parts.tree(3))  # the first one goes, and its files stay under their other names
    assert names(tmp_path) == [second.name, third.name]
    assert numbers_in(manager.load_latest().tree) == (3, [0, 7, 0])


def test_another_manager_links_to_nothing(tmp_path):
    parts = Parts()
    first = CheckpointManager(tmp_path).save(1, parts.tree(1))
    second = CheckpointManager(tmp_path).save(2, parts.tree(2))
    assert not (first / "part_rows-0.safetensors").samefile(second / "part_rows-0.safetensors")


def test_a_checkpoint_that_was_taken_away_is_not_linked_to(tmp_path):
    parts, manager = Parts(), CheckpointManager(tmp_path)
    path = manager.save(1, parts.tree(1))
    path.rename(tmp_path / "elsewhere")
    assert numbers_in(load_state(manager.save(2, parts.tree(2)))[0]) == (2, [0, 0, 0])


def test_a_segment_is_encoded_in_place_where_there_are_no_files():
    structure, tensors = encode_state(Parts().tree(1))
    assert len(tensors) == 6 and "part" not in str(structure)
    assert part_contents(Parts().tree(1)["rows"][2][1])["x"].tolist() == [0] * 4
    assert part_contents({"x": 1}) == {"x": 1}


@pytest.mark.parametrize("name", ["part_../x.safetensors", "part_a/b.safetensors", "part_.safetensors", "part_A.pkl"])
def test_a_manifest_that_lists_other_files_is_refused(tmp_path, name):
    path = CheckpointManager(tmp_path).save(1, Parts().tree(1))
    manifest = read_manifest(path)
    manifest["files"][name] = manifest["files"]["state.json"]
    (path / "manifest.json").write_bytes(seal({k: v for k, v in manifest.items() if k != "sha256"}))
    with pytest.raises(CheckpointError, match="and nothing else"):
        load_state(path)


def test_a_flipped_bit_in_a_part_is_found(tmp_path):
    path = CheckpointManager(tmp_path).save(1, Parts().tree(1))
    part = path / "part_rows-2.safetensors"
    data = bytearray(part.read_bytes())
    data[-1] ^= 1
    part.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"part_rows-2\.safetensors is damaged"):
        load_state(path)


@pytest.mark.parametrize("mode", ["once", "stays", "killed"])
def test_a_failure_at_any_call_leaves_the_old_or_the_new_state(tmp_path, mode):
    def start(name, disk):
        parts = Parts()
        manager = CheckpointManager(tmp_path / name, keep=1, files=disk)
        manager.save(1, parts.tree(1))
        parts.number[1] = 7
        return manager, parts, len(disk.names)

    count = FaultyDisk()
    manager, parts, before = start("count", count)
    manager.save(2, parts.tree(2))
    calls = count.names[before:]
    assert calls.count("link") == 2 and "remove_tree" in calls
    seen = set()
    for k in range(len(calls)):
        disk = FaultyDisk(mode=mode)
        manager, parts, before = start(f"case{k}", disk)
        disk.fail_at = before + k
        try:
            manager.save(2, parts.tree(2))
        except (CheckpointError, Killed) as e:
            assert isinstance(e, Killed) == (mode == "killed")
        directory = manager.directory
        found = numbers_in(CheckpointManager(directory).load_latest().tree)
        assert found in [(1, [0, 0, 0]), (2, [0, 7, 0])]
        seen.add(found[0])
        for path in directory.glob("iteration_*"):
            verify_state(path)
        disk.fail_at = -1
        manager.save(3, parts.tree(3))  # by the same process, if it lives
        assert numbers_in(CheckpointManager(directory).load_latest().tree) == (3, [0, 7, 0])
        assert names(directory) == ["iteration_0000000003"]
    assert seen == {1, 2}


class NoLinks(FileLayer):
    """A disk without further names, which also damages what is copied to it, if asked to."""

    flips = False

    def link(self, source, target):
        return False

    def write(self, file, data):
        damaged = bytearray(data)
        damaged[-1] ^= self.flips and "part_rows-0" in str(file.name)
        super().write(file, bytes(damaged))


def test_where_there_are_no_links_parts_are_copied_and_read_back(tmp_path):
    disk, parts = NoLinks(), Parts()
    manager = CheckpointManager(tmp_path, keep=1, files=disk)
    first = manager.save(1, parts.tree(1))
    second = manager.save(2, parts.tree(2))
    assert parts.read == [0, 1, 2] and numbers_in(load_state(second)[0]) == (2, [0, 0, 0]) and not first.exists()
    disk.flips = True
    with pytest.raises(CheckpointError, match="the disk did not keep what was written to it"):
        manager.save(3, parts.tree(3))
    assert numbers_in(CheckpointManager(tmp_path).load_latest().tree) == (2, [0, 0, 0])


def test_a_linked_part_that_is_damaged_is_found_in_turn_and_written_anew(tmp_path):
    parts, manager = Parts(), CheckpointManager(tmp_path, keep=1)
    part = manager.save(1, parts.tree(1)) / "part_rows-2.safetensors"
    data = bytearray(part.read_bytes())
    data[-1] ^= 1
    part.write_bytes(data)
    for n in range(2, 6):  # each looks at one of the three
        manager.save(n, parts.tree(n))
    assert numbers_in(CheckpointManager(tmp_path).load_latest().tree) == (5, [0, 0, 0])


def test_two_segments_of_one_name_are_refused(tmp_path):
    one, two = (Segment("rows", stamp, dict) for stamp in "ab")
    with pytest.raises(AssertionError, match="two segments are called rows"):
        CheckpointManager(tmp_path).save(1, {"one": one, "two": two})


class Slow(FileLayer):
    """Waits, before the first write, until it may go on."""

    def __init__(self):
        self.may_go_on, self.started = threading.Event(), threading.Event()

    def create(self, path):
        self.started.set()
        assert self.may_go_on.wait(30)
        return super().create(path)


def test_what_is_saved_is_the_state_at_the_call_whatever_changes_meanwhile(tmp_path):
    disk = Slow()
    writer = CheckpointWriter(CheckpointManager(tmp_path, files=disk))
    live = {"weight": torch.zeros(3), "array": np.zeros(3)}
    writer.save(1, {"n": 1, **live}, {"w": live["weight"]}, wait=False)
    assert disk.started.wait(30)
    live["weight"] += 1
    live["array"] += 1
    disk.may_go_on.set()
    writer.save(2, {"n": 2, **live}, {"w": live["weight"]})  # waits for the one before
    for n, path in enumerate(sorted(tmp_path.iterdir()), 1):
        tree, weights = load_state(path)
        assert tree["n"] == n and tree["weight"].eq(n - 1).all() and (tree["array"] == n - 1).all()
        assert weights["w"].eq(n - 1).all()


def test_who_is_interrupted_while_waiting_has_still_to_wait(tmp_path, monkeypatch):
    disk = Slow()
    writer = CheckpointWriter(CheckpointManager(tmp_path, files=disk))
    writer.save(1, {"n": 1}, wait=False)
    writing = writer._writing
    with monkeypatch.context() as patch:
        patch.setattr(writing, "result", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            writer.wait()
    disk.may_go_on.set()
    writer.close()
    assert writing.done() and CheckpointManager(tmp_path).load_latest().tree == {"n": 1}


def test_a_failure_in_the_thread_is_raised_by_the_next_call(tmp_path):
    disk = FaultyDisk(4)
    writer = CheckpointWriter(CheckpointManager(tmp_path / "c", files=disk))
    writer.save(1, {"n": 1}, wait=False)
    with pytest.raises(CheckpointError, match="No space left on device"):
        writer.wait()
    writer.save(2, {"n": 2})
    assert CheckpointManager(tmp_path / "c").load_latest().tree == {"n": 2}
