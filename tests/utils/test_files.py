"""Durable writes: whole or not at all, whichever call fails."""

import errno
from pathlib import Path

import pytest

from nervex.utils.files import (
    FileLayer,
    atomic_write_bytes,
    atomic_write_text,
    free_bytes,
    is_temporary,
    temporary_name,
    write_bytes_durable,
    write_failure,
)

_CALLS = ("create", "write", "fsync", "fsync_dir", "rename", "make_dir", "remove", "remove_tree")


class FailingLayer(FileLayer):
    """Raises ENOSPC at call number ``fail_at`` (a write after half of its bytes); ``names`` lists all calls."""

    def __init__(self, fail_at=-1):
        self.fail_at = fail_at
        self.names = []

    def __getattribute__(self, name):
        method = super().__getattribute__(name)
        if name not in _CALLS:
            return method

        def call(*args):
            self.names.append(name)
            if len(self.names) - 1 == self.fail_at:
                if name == "write":
                    method(args[0], args[1][: len(args[1]) // 2])
                raise OSError(errno.ENOSPC, "No space left on device")
            return method(*args)

        return call


def test_atomic_write_replaces_the_content(tmp_path):
    path = tmp_path / "a.txt"
    atomic_write_text(path, "one, ünï")
    assert path.read_text() == "one, ünï"
    atomic_write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_atomic_write_flushes_file_then_renames_then_flushes_directory(tmp_path):
    files = FailingLayer()
    atomic_write_bytes(tmp_path / "a", b"x", files)
    assert files.names == ["create", "write", "fsync", "rename", "fsync_dir"]


@pytest.mark.parametrize("old", [None, b"old content"])
def test_atomic_write_leaves_old_or_new_whichever_call_fails(tmp_path, old):
    new = b"new content, longer than the old"
    for k, name in enumerate(["create", "write", "fsync", "rename", "fsync_dir"]):
        path = tmp_path / f"case{k}" / "a"
        path.parent.mkdir()
        if old is not None:
            path.write_bytes(old)
        files = FailingLayer(fail_at=k)
        with pytest.raises(OSError, match="No space left"):
            atomic_write_bytes(path, new, files)
        assert files.names[k] == name
        content = path.read_bytes() if path.exists() else None
        assert content == (new if name == "fsync_dir" else old)
        assert [p.name for p in path.parent.iterdir()] == ([] if content is None else ["a"])


def test_write_bytes_durable_refuses_an_existing_file(tmp_path):
    write_bytes_durable(tmp_path / "a", b"x")
    with pytest.raises(FileExistsError):
        write_bytes_durable(tmp_path / "a", b"y")
    assert (tmp_path / "a").read_bytes() == b"x"


def test_write_continues_after_a_short_write():
    class Stingy:
        def __init__(self):
            self.data = b""

        def write(self, view):
            self.data += bytes(view[:3])
            return min(3, len(view))

    file = Stingy()
    FileLayer().write(file, b"0123456789")
    assert file.data == b"0123456789"


def test_write_that_makes_no_progress_is_an_error():
    class Stuck:
        def write(self, view):
            return 0

    with pytest.raises(OSError, match="accepts no more bytes"):
        FileLayer().write(Stuck(), b"x")


def test_temporary_names_are_hidden_distinct_and_known(tmp_path):
    first, second = temporary_name(tmp_path / "a"), temporary_name(tmp_path / "a")
    assert first != second and first.parent == tmp_path and first.name.startswith(".a.")
    assert is_temporary(first) and not is_temporary(tmp_path / "a") and not is_temporary(tmp_path / ".hidden")


def test_write_failure_names_file_size_and_free_bytes(tmp_path):
    sentence = write_failure(tmp_path / "sub" / "f", 1234, OSError(errno.ENOSPC, "No space left on device"))
    assert sentence.startswith(f"cannot write {tmp_path / 'sub' / 'f'} (1,234 bytes; ")
    assert sentence.endswith(" bytes free there): No space left on device")


def test_free_bytes_of_a_path_that_is_not_there_yet(tmp_path):
    assert free_bytes(tmp_path / "not" / "there") > 0
    assert free_bytes(Path("relative/not/there")) > 0
