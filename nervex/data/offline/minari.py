"""Episodes in HDF5 files of Minari's layout, and the only place that imports h5py.

    episode_0/                 attributes id, total_steps
      observations [T+1, ...]  a group of such arrays where observations have several parts
      actions [T, ...]
      rewards [T]
      terminations [T]         true at the last step only, where the task ended
      truncations [T]          true at the last step only, where the episode was cut off
    episode_1/ ...             the file has the attributes total_episodes, total_steps

https://minari.farama.org/content/dataset_standards. A file is read into memory as a whole.
"""

import hashlib
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nervex.data.columns import Columns
from nervex.data.offline.episodes import ColumnSpec, EpisodeWriter, OfflineData, Part, checked_episode, spec_of
from nervex.utils.errors import DatasetError, MissingExtraError
from nervex.utils.files import temporary_name, write_failure

try:
    import h5py
except ImportError:  # the extra is not installed: told when a file is opened
    h5py = None

SUFFIXES = (".hdf5", ".h5")
_EPISODE = re.compile(r"episode_(\d{1,18})")
_ENDS = ("terminations", "truncations")
_NAMES = {"obs": "observations", "action": "actions", "reward": "rewards"}
_MOST_GROWTH = 1100  # of a byte that is read from a file; deflate, the usual filter, reaches 1032
_UNWRITTEN_BYTES = 1 << 16  # rows that were never written read as zeros
_FLAT = {"observations", "actions", "rewards", "terminals"}  # at the top of D4RL's files


class MinariWriter(EpisodeWriter):
    """Writes episodes into an HDF5 file. The file gets its name when it is complete.

    Args:
        path: the file, which must not exist.
        info: notes to keep as attributes of the file, texts and numbers.

    Raises:
        DatasetError: the file exists, or cannot be made.
        MissingExtraError: h5py is not installed.
    """

    def __init__(self, path: str | Path, info: Mapping[str, Any] | None = None) -> None:
        _require_h5py()
        self._path = Path(path)
        if self._path.exists():
            raise DatasetError(
                f"{self._path} exists already; give another path (a file of this layout is not added to)"
            )
        self._temporary = temporary_name(self._path)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._disk = _Disk(self._temporary)
        except OSError as e:
            raise DatasetError(f"cannot make the data set {self._path}: {e.strerror} ({e.filename})") from e
        self._file = h5py.File(self._disk, "w")
        self._file.attrs.update({k: v for k, v in (info or {}).items() if isinstance(v, str | int | float)})
        self._specs: dict[str, ColumnSpec] | None = None
        self._episode_num = self._step_num = 0

    def add(self, columns: Columns, terminated: bool) -> None:
        """Adds one episode, as any :class:`EpisodeWriter`; the layout has no place for columns beside obs, action and
        reward.

        Raises:
            DatasetError: it is ragged, differs from the episodes before it, or has such columns.
        """
        flat = checked_episode(columns, f"episode {self._episode_num}", self._specs)
        self._specs = self._specs or {name: spec_of(array) for name, array in flat.items()}
        others = sorted(name for name in flat if name.split("/")[0] not in _NAMES)
        if others:
            raise DatasetError(f"{self._path}: Minari's layout has no place for the columns {others}; leave them out")
        length = len(flat["reward"])
        group = self._file.create_group(f"episode_{self._episode_num}")
        group.attrs.update({"id": self._episode_num, "total_steps": length})
        for name, array in flat.items():
            first, slash, rest = name.partition("/")
            group.create_dataset(f"{_NAMES[first]}{slash}{rest}", data=array)
        for name, ended in zip(_ENDS, (terminated, not terminated), strict=True):
            group.create_dataset(name, data=np.arange(length) == (length - 1 if ended else -1))
        self._refuse_loss()
        self._episode_num += 1
        self._step_num += length

    def close(self) -> None:
        if self._episode_num == 0:
            self._discard()
            raise DatasetError(f"no episode was added to {self._path}; a data set has at least one")
        self._file.attrs.update({"total_episodes": self._episode_num, "total_steps": self._step_num})
        self._file.close()
        self._refuse_loss()
        self._disk.close()
        self._temporary.rename(self._path)

    def _refuse_loss(self) -> None:
        """Removes the file and says why, where not all of it could be written."""
        if self._disk.error is not None:
            self._discard()
            raise DatasetError(write_failure(self._path, self._disk.size_bytes, self._disk.error))

    def _discard(self) -> None:
        self._file.close()
        self._disk.close()
        self._temporary.unlink(missing_ok=True)


class _Disk(io.FileIO):
    """The file below an HDF5 file. HDF5 crashes the process some time after a write that fails, so that it is not told
    of one; whoever writes looks at ``error``.

    Args:
        path: of a file that does not exist.

    Attributes:
        error: that ended the writing.
        size_bytes: of the file as it should be.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "x+")
        self.error: OSError | None = None
        self.size_bytes = 0

    def write(self, data: Any, /) -> int:
        left = memoryview(data).cast("B")
        size = len(left)
        self.size_bytes = max(self.size_bytes, self.tell() + size)
        try:
            while left and self.error is None:
                left = left[super().write(left) :]
        except OSError as e:
            self.error = e
        return size

    def truncate(self, size: int | None = None, /) -> int:
        try:
            return super().truncate(size)
        except OSError as e:
            self.error = e
            return self.tell() if size is None else size


def read_minari(path: Path) -> OfflineData:
    """Returns the episodes of an HDF5 file.

    An episode whose last step says neither that it terminated nor that it was truncated was cut off by the end of the
    recording: it counts as truncated. One that says both terminated.

    Raises:
        DatasetError: the file is damaged, of another layout, ragged, or refers to other files.
        MissingExtraError: h5py is not installed.
    """
    _require_h5py()
    try:
        with h5py.File(path, "r") as file:
            numbers = sorted(int(match[1]) for match in map(_EPISODE.fullmatch, file) if match)
            if not numbers:
                _refuse_layout(path, set(file))
            specs: dict[str, ColumnSpec] | None = None
            episodes, terminated = [], []
            for number in numbers:
                where = f"{path}: episode_{number}"
                columns, ended = _episode(_member(file, f"episode_{number}", where), where)
                flat = checked_episode(columns, where, specs)
                specs = specs or {name: spec_of(array) for name, array in flat.items()}
                episodes.append(flat)
                terminated.append(ended)
            info = {k: v for k, v in file.attrs.items() if isinstance(v, str | int | float)}
    except DatasetError:
        raise
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, AttributeError, MemoryError) as e:
        # damage makes h5py raise errors of all these types
        raise DatasetError(f"cannot read {path} as an HDF5 file: {' '.join(str(e).split())[:200]}") from e
    assert specs is not None
    joined = {name: torch.from_numpy(np.concatenate([e[name] for e in episodes])) for name in specs}
    length = np.array([len(e["reward"]) for e in episodes], dtype=np.int64)
    with open(path, "rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    return OfflineData([Part(joined, length, np.array(terminated))], path, digest, info)


def _episode(group: Any, where: str) -> tuple[Columns, bool]:
    """Returns the columns of an episode's group, and whether it terminated."""
    if not isinstance(group, h5py.Group):
        raise DatasetError(f"{where} is no group; expected one with {list(_NAMES.values())}")
    wanted, found = (*_NAMES.values(), *_ENDS), sorted(group)  # the names alone: `in` would follow a link
    missing = [name for name in wanted if name not in found]
    if missing:
        raise DatasetError(f"{where} has no '{missing[0]}'; it has {found}, and Minari's layout {list(wanted)}")
    columns = {ours: _arrays(_member(group, theirs, where), where) for ours, theirs in _NAMES.items()}
    ends = [np.asarray(_arrays(_member(group, name, where), where)).astype(bool) for name in _ENDS]
    for name, end in zip(_ENDS, ends, strict=True):
        if end.shape != np.shape(columns["reward"]):
            raise DatasetError(f"{where} is ragged: '{name}' has shape {list(end.shape)}, expected one flag a reward")
        if end[:-1].any():
            raise DatasetError(
                f"{where}: '{name}' is true at step {int(end.argmax())} and the episode goes on; cut it there"
            )
    return columns, bool(ends[0][-1:].any())


def _arrays(node: Any, where: str) -> Any:
    """Returns a data set, or a group of them, as arrays."""
    if isinstance(node, h5py.Group):
        return {name: _arrays(_member(node, name, where), where) for name in node}
    plain = isinstance(node, h5py.Dataset) and node.shape is not None
    if not plain or node.is_virtual or node.external or node.dtype.hasobject:
        raise DatasetError(f"{where}: '{node.name}' is no plain array of numbers in this file; it was not read")
    stored = node.id.get_storage_size()
    if node.nbytes > _MOST_GROWTH * stored + _UNWRITTEN_BYTES:
        raise DatasetError(
            f"{where}: '{node.name}' claims {node.nbytes:,} bytes, of which the file holds {stored:,}; it was not read"
        )
    return node[()] if node.ndim else node[()][None]


def _member(group: Any, name: str, where: str) -> Any:
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise DatasetError(f"{where}: '{name}' is a link to another place or file; it was not followed")
    return group[name]


def _refuse_layout(path: Path, names: set[str]) -> None:
    if len(_FLAT & names) >= 3:
        raise DatasetError(
            f"{path} has D4RL's flat layout ({', '.join(sorted(_FLAT & names))} at the top), which lacks the "
            "observations after the last steps; use the data set's version in Minari's layout (groups episode_0, ...)"
        )
    raise DatasetError(f"{path} holds {sorted(names)[:8]} and no groups episode_0, ...; expected Minari's layout")


def _require_h5py() -> None:
    if h5py is None:
        raise MissingExtraError(
            "HDF5 files need the package h5py, which is not installed; install it with pip install 'nervex[offline]', "
            "or use --format nervex"
        )
