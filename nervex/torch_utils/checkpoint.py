"""The checkpoints of a run: which are kept, which is the newest sound one, and weights out of any of them."""

import contextlib
import logging
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from nervex.torch_utils.state_files import (
    FORMAT,
    MANIFEST,
    Snapshot,
    Written,
    check_part,
    load_state,
    load_state_weights,
    looks_whole,
    seal,
    take_snapshot,
    unseal,
    verify_state,
    write_snapshot,
)
from nervex.torch_utils.tensor_file import read_tensor_file
from nervex.utils.errors import CheckpointError
from nervex.utils.files import (
    DISK,
    FileLayer,
    atomic_write_bytes,
    is_temporary,
    temporary_name,
    write_failure,
)

_logger = logging.getLogger("nervex")
_NAME = re.compile(r"iteration_(\d{10,})(?:_(\d+))?")
_LABEL = re.compile(r"[a-z0-9][a-z0-9_-]*")
_PICKLE_SUFFIXES = frozenset({".pth", ".pt", ".pkl", ".pickle", ".ckpt", ".bin", ".tar"})
CHECKPOINTS = "checkpoints"


class Checkpoint(NamedTuple):
    """What ``CheckpointManager.load_latest`` found.

    Attributes:
        path: directory of the checkpoint.
        tree: the state tree that was saved.
        weights: name -> tensor on the CPU, or None if saved without.
    """

    path: Path
    tree: Any
    weights: dict[str, Tensor] | None


class CheckpointManager:
    """Keeps the checkpoints of one run in one directory, so that a sound one is there at any instant.

    A checkpoint is the subdirectory ``iteration_0000001000``; a second one of the same iteration (more env steps,
    same updates) is ``iteration_0000001000_1``. Only after a new one was read back from the disk are others removed:
    all but the newest sound one of each of the last ``keep`` iterations that have one, and those under a label; and
    those of later iterations, which belong to a future that the run has left. One process at a time saves here.

    Args:
        directory: made, with its parents, at the first save.
        keep: how many of the newest checkpoints stay.
        files: the layer that writes.

    Raises:
        ValueError: ``keep`` is less than 1.
    """

    def __init__(self, directory: Path, keep: int = 2, files: FileLayer = DISK) -> None:
        if keep < 1:
            raise ValueError(
                f"CheckpointManager got keep={keep}; at least the newest checkpoint is kept, set keep >= 1"
            )
        self.directory = Path(directory)
        self.keep = keep
        self._files = files
        self._warned: set[Path] = set()
        self._written: Written | None = None  # the newest that was written here
        self._looked_at = 0

    def save(
        self,
        train_iter: int,
        tree: dict[str, Any],
        weights: Mapping[str, Tensor] | None = None,
        metadata: Mapping[str, Any] | None = None,
        pin: str | None = None,
    ) -> Path:
        """Writes a checkpoint, reads back what was written, and only then removes those that are no longer wanted.

        Segments of the tree that have not changed since the last one are not written again: their files get a further
        name, and are read again one at a time.

        Args:
            train_iter: learner iterations done.
            tree: any state tree.
            weights: name -> tensor, for other tools.
            metadata: JSON values, kept in the manifest beside ``train_iter``.
            pin: a label (``'best'``) that protects this checkpoint until another one gets the label.

        Returns:
            The directory of the checkpoint.

        Raises:
            CheckpointError: the disk is full or failing; the checkpoints before this one are intact.
            TypeError: something cannot be saved as plain data; the message says where it is.
            ValueError: ``train_iter`` or ``pin`` cannot be a part of a file name.
        """
        return self.write(train_iter, self.snapshot(tree, weights), metadata, pin)

    def snapshot(
        self, tree: dict[str, Any], weights: Mapping[str, Tensor] | None = None, copy: bool = False
    ) -> Snapshot:
        """Returns what :meth:`write` needs, which must come before the next snapshot.

        Args:
            tree, weights: as for :meth:`save`.
            copy: the snapshot is to outlive changes of them.
        """
        before = self._written
        if before is not None and not before.directory.is_dir():
            before = None
        return take_snapshot(tree, weights, before, copy=copy)

    def write(
        self, train_iter: int, snapshot: Snapshot, metadata: Mapping[str, Any] | None = None, pin: str | None = None
    ) -> Path:
        """Does what :meth:`save` does, with a snapshot; any one thread may."""
        if train_iter < 0 or (pin is not None and not _LABEL.fullmatch(pin)):
            raise ValueError(
                f"cannot name a checkpoint after train_iter={train_iter}, pin={pin!r}; expected train_iter >= 0 and a "
                "label of lower-case letters, digits, '_' and '-'"
            )
        self._make_directory()
        self._remove_leftovers()
        path = self._free_name(train_iter)
        notes = {**(metadata or {}), "train_iter": train_iter}
        written = write_snapshot(path, snapshot, metadata=notes, files=self._files)
        self._read_back(path, written.linked)
        self._look_at_one(written)
        self._written = written
        if pin is not None:
            self._pin(pin, path)
        self._prune(path)
        return path

    def all(self) -> list[Path]:
        """Returns all checkpoints, sound or not, oldest first."""
        return self._newest_first()[::-1]

    def latest(self, before_iter: float = math.inf) -> Path | None:
        """Returns the newest checkpoint whose files all match their digests; damaged ones are logged once each.

        Args:
            before_iter: only of those with fewer learner iterations.
        """
        for path in self._newest_first():
            if _order(path)[0] < before_iter and self._is_sound(path):
                return path
        return None

    def load_latest(self) -> Checkpoint:
        """Returns the newest sound checkpoint, loaded; damaged ones are logged once each.

        Raises:
            CheckpointError: there is none.
        """
        damaged = []
        for path in self._newest_first():
            try:
                return Checkpoint(path, *load_state(path))
            except CheckpointError as e:
                self._warn(path, e)
                damaged.append(path.name)
        if damaged:
            raise CheckpointError(f"every checkpoint in {self.directory} is damaged ({', '.join(damaged)}); start anew")
        raise CheckpointError(f"there is no checkpoint in {self.directory}; start the run without resuming")

    def pinned(self, label: str) -> Path | None:
        """Returns the checkpoint under ``label``, or None if there is none or it is damaged, which is logged once."""
        try:
            path = self._label_target(label)
        except CheckpointError as e:
            self._warn(self._label_path(label), e)
            return None
        return path if path is not None and self._is_sound(path) else None

    def _is_sound(self, path: Path) -> bool:
        try:
            verify_state(path)
        except CheckpointError as e:
            self._warn(path, e)
            return False
        return True

    def _warn(self, path: Path, error: CheckpointError) -> None:
        if path not in self._warned:
            self._warned.add(path)
            _logger.warning("skipped %s: %s", path, error)

    def _newest_first(self) -> list[Path]:
        if not self.directory.is_dir():
            return []
        found = [p for p in self.directory.iterdir() if _NAME.fullmatch(p.name) and p.is_dir()]
        return sorted(found, key=_order, reverse=True)

    def _free_name(self, train_iter: int) -> Path:
        base = f"iteration_{train_iter:010d}"
        same = [p for p in self._newest_first() if _order(p)[0] == train_iter]
        return self.directory / (f"{base}_{_order(same[0])[1] + 1}" if same else base)

    def _make_directory(self) -> None:
        missing = [p for p in (self.directory, *self.directory.parents) if not p.exists()]
        try:
            for path in reversed(missing):
                self._files.make_dir(path)
                self._files.fsync_dir(path.parent)
        except OSError as e:
            raise CheckpointError(f"{write_failure(self.directory, 0, e)}; nothing was saved") from e

    def _remove_leftovers(self) -> None:
        """Removes what killed saves left. What cannot be removed now is tried again at the next save."""
        for path in self.directory.iterdir():
            if is_temporary(path):
                with contextlib.suppress(OSError):
                    if path.is_dir():
                        self._files.remove_tree(path)
                    else:
                        self._files.remove(path)

    def _read_back(self, path: Path, known: Mapping[str, Any]) -> None:
        try:
            verify_state(path, known)
        except CheckpointError as e:
            self._discard(path)
            raise CheckpointError(
                f"the disk did not keep what was written to it ({e}); the checkpoints before it are intact, save "
                "to another disk"
            ) from e

    def _look_at_one(self, written: Written) -> None:
        """Reads one of the linked files, another one each time; one that is damaged is written anew with the next
        checkpoint."""
        if not written.linked:
            return
        self._looked_at += 1
        name = sorted(written.linked)[self._looked_at % len(written.linked)]
        try:
            check_part(written.directory, name, written.linked[name])
        except CheckpointError as e:
            self._warn(written.directory / name, e)
            del written.part[name]

    def _prune(self, newest: Path) -> None:
        try:
            wanted = {newest, *self._labeled()}
        except CheckpointError as e:
            # whichever checkpoint the label protects must not be lost to a damaged label
            self._warn(self.directory, e)
            return
        kept = {_order(newest)[0]}
        for path in self._newest_first():
            if path in wanted:
                continue
            train_iter = _order(path)[0]
            if _order(path) < _order(newest) and train_iter not in kept and len(kept) < self.keep:
                if looks_whole(path):  # a damaged one takes no sound one's place, and goes when it is old enough
                    kept.add(train_iter)
                continue
            self._discard(path)

    def _discard(self, path: Path) -> None:
        """Removes a checkpoint by way of a hidden name, so that a kill half-way leaves no half under its own name."""
        hidden = temporary_name(path)
        try:
            self._files.rename(path, hidden)
            self._files.remove_tree(hidden)
        except OSError as e:
            _logger.warning("cannot remove the old checkpoint %s (%s); it is tried again at the next save", path, e)

    def _label_path(self, label: str) -> Path:
        return self.directory / f"{label}.pin"

    def _pin(self, label: str, path: Path) -> None:
        data = seal({"format": FORMAT, "checkpoint": path.name})
        try:
            atomic_write_bytes(self._label_path(label), data, self._files)
        except OSError as e:
            reason = write_failure(self._label_path(label), len(data), e)
            raise CheckpointError(
                f"{reason}; checkpoint {path.name} itself is saved, label '{label}' is as before"
            ) from e

    def _label_target(self, label: str) -> Path | None:
        path = self._label_path(label)
        if not path.exists():
            return None
        try:
            name = unseal(path.read_bytes(), path).get("checkpoint")
        except OSError as e:
            raise CheckpointError(f"cannot read {path} ({e.strerror}); save under this label again") from e
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise CheckpointError(f"{path} names {name!r}, which is no checkpoint; save under this label again")
        return self.directory / name

    def _labeled(self) -> list[Path]:
        targets = [self._label_target(path.stem) for path in self.directory.glob("*.pin")]
        return [t for t in targets if t is not None]


class CountVar:
    """A counter that hooks and loops share.

    Args:
        init_val: its first value.
    """

    def __init__(self, init_val: int) -> None:
        self._val = init_val

    @property
    def val(self) -> int:
        """The present value."""
        return self._val

    def update(self, val: int) -> None:
        """Sets the value."""
        self._val = val

    def add(self, add_num: int) -> None:
        """Adds ``add_num`` to the value."""
        self._val += add_num


def load_weights(path: Path) -> dict[str, Tensor]:
    """Returns weights by name, on the CPU, from whatever of a run ``path`` is.

    Args:
        path: a ``.safetensors`` file, a checkpoint's directory, or a run folder: its checkpoint ``best``, else its
            newest one.

    Raises:
        CheckpointError: ``path`` is missing, damaged, or a file that could run code when loaded.
    """
    path = Path(path)
    refuse_pickle(path)
    if not path.exists():
        raise CheckpointError(f"there is no {path}; give a .safetensors file, a checkpoint directory or a run folder")
    if path.is_file():
        return read_tensor_file(path)
    if (path / MANIFEST).exists():
        return load_state_weights(path)
    manager = CheckpointManager(path / CHECKPOINTS if (path / CHECKPOINTS).is_dir() else path)
    found = manager.pinned("best") or manager.latest()
    if found is None:
        raise CheckpointError(f"there is no sound checkpoint in {path}; give a .safetensors file or another run folder")
    return load_state_weights(found)


def refuse_pickle(path: Path) -> None:
    """Raises CheckpointError for a file whose name says that it can run code when it is opened."""
    if path.suffix.lower() in _PICKLE_SUFFIXES and not path.is_dir():
        raise CheckpointError(
            f"{path} is not loaded: files of the kind '{path.suffix}' can run code when they are opened; convert it "
            "with safetensors.torch.save_file and give the .safetensors file"
        )


def _order(path: Path) -> tuple[int, int]:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1]), int(match[2] or 0)
