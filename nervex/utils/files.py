"""The one way by which durable state reaches the disk: whole, or not at all."""

import contextlib
import errno
import os
import shutil
import uuid
from pathlib import Path
from typing import BinaryIO

_CHUNK_BYTES = 1 << 24


class FileLayer:
    """The calls that write, one method each, so that a test can stand in for a disk that fails at any of them.

    Whatever must survive a kill is written through an instance of this class and nothing else. Reading needs no
    layer: what was read is judged by its digest.
    """

    def create(self, path: Path) -> BinaryIO:
        """Opens a new file for unbuffered writing; it must not exist."""
        return open(path, "xb", buffering=0)

    def write(self, file: BinaryIO, data: bytes | memoryview) -> None:
        """Writes all of ``data``, however many system calls that takes."""
        view = memoryview(data).cast("B")
        while len(view):
            written = file.write(view[:_CHUNK_BYTES])
            if not written:
                raise OSError(errno.EIO, "the file accepts no more bytes")
            view = view[written:]

    def fsync(self, file: BinaryIO) -> None:
        """Returns when the file's bytes are on the disk."""
        os.fsync(file.fileno())

    def fsync_dir(self, path: Path) -> None:
        """Returns when the names in directory ``path`` are on the disk."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Gives ``source`` the name ``target`` in one step, replacing a file of that name."""
        os.replace(source, target)

    def link(self, source: Path, target: Path) -> bool:
        """Gives the file ``source`` the further name ``target``; False where the disk has no such names."""
        try:
            os.link(source, target)
        except OSError as e:
            if e.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS):
                return False
            raise
        return True

    def make_dir(self, path: Path) -> None:
        """Creates directory ``path``; it must not exist, its parent must."""
        os.mkdir(path)

    def remove(self, path: Path) -> None:
        """Removes the file ``path``."""
        os.unlink(path)

    def remove_tree(self, path: Path) -> None:
        """Removes directory ``path`` and all below it."""
        shutil.rmtree(path)


DISK = FileLayer()


def temporary_name(path: Path) -> Path:
    """Returns a hidden name beside ``path`` that nothing else uses; ``is_temporary`` knows it again."""
    return path.with_name(f".{path.name}.tmp-{uuid.uuid4().hex}")


def is_temporary(path: Path) -> bool:
    """Returns whether ``path`` has a name that ``temporary_name`` made: what a killed write left behind."""
    return path.name.startswith(".") and ".tmp-" in path.name


def write_bytes_durable(path: Path, data: bytes | memoryview, files: FileLayer = DISK) -> None:
    """Writes the new file ``path`` and returns when its bytes, not yet its name, are on the disk.

    Raises:
        OSError: the disk is full or failing, or the file exists.
    """
    with files.create(path) as file:
        files.write(file, data)
        files.fsync(file)


def atomic_write_bytes(path: Path, data: bytes | memoryview, files: FileLayer = DISK) -> None:
    """Makes ``data`` the content of ``path``, durably: a reader meets the old bytes or the new, at any instant.

    Raises:
        OSError: the disk is full or failing; the old content stands unless only the last fsync failed.
    """
    temporary = temporary_name(path)
    try:
        write_bytes_durable(temporary, data, files)
        files.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            files.remove(temporary)
        raise
    files.fsync_dir(path.parent)


def atomic_write_text(path: Path, text: str, files: FileLayer = DISK) -> None:
    """``atomic_write_bytes`` of ``text`` in UTF-8."""
    atomic_write_bytes(path, text.encode(), files)


def free_bytes(path: Path) -> int:
    """Returns the bytes free on the disk that holds ``path``, or would hold it."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


def write_failure(path: Path, size_bytes: int, error: OSError) -> str:
    """Returns the first half of an error sentence: which file, how many bytes, how many are free, and why."""
    reason = error.strerror or str(error) or type(error).__name__
    return f"cannot write {path} ({size_bytes:,} bytes; {_free(path)} free there): {reason}"


def _free(path: Path) -> str:
    try:
        return f"{free_bytes(path.absolute()):,} bytes"
    except OSError:
        return "an unknown number of bytes"
