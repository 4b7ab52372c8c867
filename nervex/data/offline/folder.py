"""nerveX's own files of episodes: a folder of safetensors parts, mapped into memory, and a manifest of digests.

    manifest.json              version, columns, and of each part its file, digest, episodes and their ends
    part_00000.safetensors     one tensor per column: obs [N + E, ...], all others [N, ...]; N steps, E episodes

What is written is there whole or not at all: a new folder gets its name when it is complete, and further parts count
once the manifest that names them has replaced the one before.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from nervex.data.columns import Columns
from nervex.data.offline.episodes import (
    ColumnSpec,
    EpisodeWriter,
    OfflineData,
    Part,
    checked_episode,
    is_obs,
    refuse_other,
    spec_of,
)  # fmt: skip
from nervex.torch_utils.state_files import seal
from nervex.torch_utils.tensor_file import HashingFile, TensorFile
from nervex.torch_utils.tensor_header import read_tensor_heads
from nervex.utils.errors import CheckpointError, DatasetError, LockTimeoutError
from nervex.utils.files import DISK, FileLayer, atomic_write_bytes, temporary_name, write_failure
from nervex.utils.lock_helper import LockContext, LockContextType

MANIFEST = "manifest.json"
KIND, VERSION = "nervex data set", 1
_PART_BYTES = 64 << 20
_LOCK_WAIT_S = 0.1
_CHECKED_ROWS = 1 << 16  # at a time
_PART_NAME = re.compile(r"part_\d{5,}\.safetensors")


class FolderWriter(EpisodeWriter):
    """Writes episodes into a folder. When an error leaves it, a new folder is not made, and one that was there is as
    before.

    Args:
        path: the folder.
        info: notes to keep with the episodes, plain data.
        append: add episodes to a folder that is there; False: it must not exist.
        part_bytes: episodes are gathered in memory up to this size before a file of them is written.
        files: writes.

    Raises:
        DatasetError: the folder exists, cannot be made, or (``append``) is no data set, or another writer adds to it.
    """

    def __init__(
        self,
        path: str | Path,
        info: Mapping[str, Any] | None = None,
        append: bool = False,
        part_bytes: int = _PART_BYTES,
        files: FileLayer = DISK,
    ) -> None:
        self._path = Path(path)
        self._files = files
        self._part_bytes = part_bytes
        self._specs: dict[str, ColumnSpec] | None = None
        self._parts: list[dict[str, Any]] = []
        self._info = dict(info or {})
        self._episode_num = 0
        self._held: list[dict[str, np.ndarray]] = []
        self._held_bytes = 0
        self._ends: list[bool] = []
        self._lock = contextlib.ExitStack()
        if append:
            read_manifest(self._path)  # a folder of something else gets no lock
            self._take()
            manifest = read_manifest(self._path)  # as the writer before has left it
            self._specs, self._parts = _specs(manifest), list(manifest["parts"])
            self._info = {**manifest["info"], **self._info}
            self._episode_num = sum(len(part["length"]) for part in self._parts)
            self._folder = self._path
            return
        if self._path.exists():
            raise DatasetError(f"{self._path} exists already; give another path, or append to it")
        self._folder = temporary_name(self._path)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            files.make_dir(self._folder)
        except OSError as e:
            raise DatasetError(f"cannot make the data set {self._path}: {e.strerror} ({e.filename})") from e

    def _take(self) -> None:
        """Keeps other writers, of this process and others, from adding to the folder meanwhile."""
        lock = LockContext(LockContextType.PROCESS_LOCK, self._path / ".append.lock", _LOCK_WAIT_S)
        try:
            self._lock.enter_context(lock)
        except LockTimeoutError as e:
            raise DatasetError(f"another writer is adding episodes to {self._path}; wait until it has ended") from e
        except OSError as e:
            raise DatasetError(f"cannot add to the data set {self._path}: {e.strerror} ({e.filename})") from e

    def add(self, columns: Columns, terminated: bool) -> None:
        flat = checked_episode(columns, f"episode {self._episode_num}", self._specs)
        self._specs = self._specs or {name: spec_of(array) for name, array in flat.items()}
        self._held.append({name: array.copy() for name, array in flat.items()})
        self._ends.append(bool(terminated))
        self._episode_num += 1
        self._held_bytes += sum(array.nbytes for array in flat.values())
        if self._held_bytes >= self._part_bytes:
            self._write_part()

    def close(self) -> None:
        try:
            self._complete()
        except BaseException:
            self._discard()
            raise
        self._lock.close()

    def _complete(self) -> None:
        if self._episode_num == 0:
            raise DatasetError(f"no episode was added to {self._path}; a data set has at least one")
        self._write_part()
        assert self._specs is not None
        columns = {name: {"dtype": s.dtype, "shape": list(s.shape)} for name, s in self._specs.items()}
        text = seal({"kind": KIND, "version": VERSION, "columns": columns, "parts": self._parts, "info": self._info})
        try:
            atomic_write_bytes(self._folder / MANIFEST, text, self._files)
            if self._folder != self._path:
                self._files.rename(self._folder, self._path)
                self._files.fsync_dir(self._path.parent)
        except OSError as e:
            raise DatasetError(write_failure(self._folder / MANIFEST, len(text), e)) from e

    def _write_part(self) -> None:
        if not self._held:
            return
        assert self._specs is not None
        tensors = {name: torch.from_numpy(np.concatenate([e[name] for e in self._held])) for name in self._specs}
        name = f"part_{len(self._parts):05d}.safetensors"
        content = TensorFile(tensors)
        temporary = temporary_name(self._folder / name)
        try:
            with self._files.create(temporary) as file:
                hashing = HashingFile(file, self._files)
                for chunk in content.chunks():
                    hashing.write(chunk)
                self._files.fsync(file)
            self._files.rename(temporary, self._folder / name)
        except OSError as e:
            with contextlib.suppress(OSError):
                self._files.remove(temporary)
            raise DatasetError(write_failure(self._folder / name, content.size_bytes, e)) from e
        self._parts.append({
            "file": name, "sha256": hashing.sha256(), "bytes": hashing.size_bytes,
            "length": [len(episode["reward"]) for episode in self._held],
            "terminated": self._ends, "truncated": [not end for end in self._ends],
        })  # fmt: skip
        self._held, self._held_bytes, self._ends = [], 0, []

    def _discard(self) -> None:
        if self._folder != self._path and self._folder.exists():
            self._files.remove_tree(self._folder)
        self._lock.close()


def read_folder(path: Path, verify: bool = True) -> OfflineData:
    """Returns the episodes of a folder, whose files are mapped into memory and read when rows are asked for.

    Args:
        path: the folder.
        verify: compare the digest of every file first, which reads all of them once.

    Raises:
        DatasetError: it is no data set, damaged, or of a newer version.
    """
    manifest = read_manifest(path)
    specs = _specs(manifest)
    parts = [_part(path / part["file"], part, specs, verify) for part in manifest["parts"]]
    digest = hashlib.sha256("".join(part["sha256"] for part in manifest["parts"]).encode()).hexdigest()
    return OfflineData(parts, path, digest, manifest["info"], read_folder)


def read_manifest(path: Path) -> dict[str, Any]:
    """Returns the manifest of a folder, checked against its own digest and for its form.

    Raises:
        DatasetError: it is missing, damaged, edited, foreign, or of a newer version.
    """
    file = path / MANIFEST
    try:
        data = file.read_bytes()
    except OSError as e:
        raise DatasetError(
            f"{path} is no data set of nerveX: cannot read its {MANIFEST} ({e.strerror}); nervex collect makes one"
        ) from e
    try:
        content = json.loads(data)
        kind, version, digest = content["kind"], content["version"], content.pop("sha256")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as e:
        raise DatasetError(f"{file} is damaged, or of something else than a data set ({type(e).__name__}: {e})") from e
    if kind != KIND:
        raise DatasetError(f"{file} is of another kind of folder ({str(kind)[:40]!r}); expected a {KIND}")
    if version != VERSION:
        raise DatasetError(f"{file} has version {version}, this nerveX reads version {VERSION}; update nervex")
    if seal(content) != data or not isinstance(digest, str):
        raise DatasetError(f"{file} is damaged or was edited: its digest does not match; collect the episodes again")
    _check_form(content, file)
    return content


def _check_form(content: Mapping[str, Any], file: Path) -> None:
    """Raises DatasetError where a manifest, whose digest is right, does not say what a manifest says."""
    try:
        _specs(content)
        right = isinstance(content["info"], dict) and all(map(_is_part, content["parts"]))
        names = [part["file"] for part in content["parts"]]
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise DatasetError(f"{file} is no manifest of nerveX ({type(e).__name__}: {e}); do not use it") from e
    if not right:
        raise DatasetError(
            f"{file} is no manifest of nerveX: lengths, ends or digests of a part are wrong; do not use it"
        )
    foreign = [name for name in names if not _PART_NAME.fullmatch(name)]
    if foreign:
        raise DatasetError(f"{file} names the file {foreign[0]!r}, which no data set has; do not use it")


def _is_part(part: Mapping[str, Any]) -> bool:
    length, terminated = part["length"], part["terminated"]
    return (
        all(isinstance(part[key], str) for key in ("file", "sha256"))
        and all(type(n) is int and 0 < n <= part["bytes"] for n in length)  # a reward takes at least a byte
        and all(type(end) is bool for end in terminated)
        and len(length) == len(terminated)
    )


def _specs(manifest: Mapping[str, Any]) -> dict[str, ColumnSpec]:
    return {name: ColumnSpec(c["dtype"], tuple(c["shape"])) for name, c in manifest["columns"].items()}


def _part(file: Path, record: Mapping[str, Any], specs: Mapping[str, ColumnSpec], verify: bool) -> Part:
    length = np.array(record["length"], dtype=np.int64)
    try:
        size = file.lstat().st_size
        if size != record["bytes"]:
            raise DatasetError(f"{file} is damaged: it has {size:,} bytes, its manifest says {record['bytes']:,}")
        if verify:
            with open(file, "rb") as opened:
                if hashlib.file_digest(opened, "sha256").hexdigest() != record["sha256"]:
                    raise DatasetError(f"{file} is damaged: its digest does not match; collect the episodes again")
        read_tensor_heads(file)
        columns = load_file(file)
    except OSError as e:
        raise DatasetError(f"cannot read {file}: {e.strerror}; the data set is not complete") from e
    except CheckpointError as e:
        raise DatasetError(str(e)) from e
    refuse_other(specs, {name: spec_of(column) for name, column in columns.items()}, str(file))
    steps = int(length.sum())
    for name, column in columns.items():
        if verify and not _is_finite(column):
            raise DatasetError(f"{file}: '{name}' holds NaN or infinity; do not use it")
        if len(column) != steps + len(length) * is_obs(name):
            raise DatasetError(f"{file} is ragged: '{name}' has {len(column)} rows for {steps} steps")
    return Part(columns, length, np.array(record["terminated"], dtype=bool))


def _is_finite(column: torch.Tensor) -> bool:
    return not column.is_floating_point() or all(bool(rows.isfinite().all()) for rows in column.split(_CHECKED_ROWS))
