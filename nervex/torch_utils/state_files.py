"""One checkpoint as one directory: weights, state and a manifest of digests, written whole or not at all."""

import contextlib
import hashlib
import importlib.metadata
import json
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from torch import Tensor

from nervex.torch_utils.segment import Segment
from nervex.torch_utils.state_tree import decode_state, encode_state
from nervex.torch_utils.tensor_file import HashingFile, TensorFile, read_tensor_file
from nervex.utils.errors import CheckpointError
from nervex.utils.files import DISK, FileLayer, temporary_name, write_bytes_durable, write_failure

FORMAT = 1
MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
STATE_TENSORS = "state.safetensors"
STATE = "state.json"
_REQUIRED = frozenset({STATE_TENSORS, STATE})
_KNOWN = _REQUIRED | {WEIGHTS}
_PART = re.compile(r"part_[a-z0-9_-]+\.safetensors")
_READ_BYTES = 1 << 20


class Part(NamedTuple):
    """A segment of a state as it goes to the disk, or lies there.

    Attributes:
        stamp: of the segment.
        structure: of its contents.
        tensors: of its contents; None: those that lie on the disk.
        record: entry of the manifest, once it lies there.
    """

    stamp: str
    structure: Any
    tensors: Mapping[str, Tensor] | None = None
    record: Mapping[str, Any] | None = None


class Written(NamedTuple):
    """A checkpoint that this process wrote: its directory, its parts by the names of their files, and the entries of
    the manifest for those that were linked."""

    directory: Path
    part: dict[str, Part]
    linked: dict[str, Any]


class Snapshot(NamedTuple):
    """A state at one moment, ready to be written by any thread: ``text`` of ``STATE``, and tensors by file."""

    text: bytes
    tensors: dict[str, Mapping[str, Tensor]]
    part: dict[str, Part]
    before: Written | None


def take_snapshot(
    tree: dict[str, Any],
    weights: Mapping[str, Tensor] | None = None,
    before: Written | None = None,
    *,
    copy: bool = False,
) -> Snapshot:
    """Returns what ``write_snapshot`` needs.

    Args:
        tree, weights: as for ``save_state``.
        before: of its parts those whose stamps are the same are not read again.
        copy: the snapshot is to outlive changes of ``tree`` and ``weights``; False: it shares their memory.

    Raises:
        TypeError: ``tree`` holds something that cannot be saved as plain data.
    """
    parts: dict[str, Part] = {}

    def part(segment: Segment, encode: Callable[[], tuple[Any, dict[str, Tensor]]]) -> Any:
        name = f"part_{segment.name}.safetensors"
        known = before.part.get(name) if before is not None else None
        assert name not in parts, f"two segments are called {segment.name}"
        same = known is not None and known.stamp == segment.stamp
        parts[name] = known if known is not None and same else Part(segment.stamp, *encode())
        return parts[name].structure

    structure, tensors = encode_state(tree, part)
    stored: dict[str, Mapping[str, Tensor]] = {STATE_TENSORS: tensors}
    stored |= {} if weights is None else {WEIGHTS: weights}
    if copy:
        stored = {name: {k: v.detach().to("cpu", copy=True) for k, v in held.items()} for name, held in stored.items()}
    text = json.dumps(structure, allow_nan=False, separators=(",", ":")).encode()
    return Snapshot(text, stored, parts, before)


def save_state(
    directory: Path,
    tree: dict[str, Any],
    *,
    weights: Mapping[str, Tensor] | None = None,
    metadata: Mapping[str, Any] | None = None,
    files: FileLayer = DISK,
) -> None:
    """Writes a checkpoint under the name ``directory``; a kill or a failure at any instant leaves none of that name.

    All is written to a hidden directory beside it, flushed to the disk, and renamed.

    Args:
        directory: the directory to make; its parent exists.
        tree: any state tree (see ``state_tree``).
        weights: name -> tensor, kept in a safetensors file of their own, which other tools can read.
        metadata: JSON values for ``read_manifest``, which shows them without loading anything.

    Raises:
        CheckpointError: ``directory`` exists, or the disk is full or failing.
        TypeError: ``tree``, ``weights`` or ``metadata`` holds something that cannot be saved as plain data.
    """
    write_snapshot(directory, take_snapshot(tree, weights), metadata=metadata, files=files)


def write_snapshot(
    directory: Path, snapshot: Snapshot, *, metadata: Mapping[str, Any] | None = None, files: FileLayer = DISK
) -> Written:
    """Writes a snapshot as ``save_state`` does; parts that lie on the disk are linked from there.

    Raises:
        CheckpointError: ``directory`` exists, or the disk is full or failing.
        TypeError: the tensors or ``metadata`` cannot be saved as plain data.
    """
    directory = Path(directory)
    if directory.exists() or directory.is_symlink():
        raise CheckpointError(f"cannot save to {directory}: it exists already; a checkpoint is never overwritten")
    new = {name: part.tensors for name, part in snapshot.part.items() if part.tensors is not None}
    stored = {name: TensorFile(tensors) for name, tensors in {**new, **snapshot.tensors}.items()}
    notes = _plain_metadata(metadata)
    size_bytes = len(snapshot.text) + sum(file.size_bytes for file in stored.values())

    temporary = temporary_name(directory)
    try:
        files.make_dir(temporary)
        linked = _link_parts(snapshot, temporary, files)
        copied = _copy_parts(snapshot, temporary, files, linked)
        records = (
            linked
            | copied
            | {name: _write_file(temporary / name, file.chunks(), files) for name, file in stored.items()}
        )
        records[STATE] = _write_file(temporary / STATE, [snapshot.text], files)
        write_bytes_durable(temporary / MANIFEST, _manifest(records, notes), files)
        files.fsync_dir(temporary)
        files.rename(temporary, directory)
    except BaseException as e:
        with contextlib.suppress(OSError):
            files.remove_tree(temporary)
        if isinstance(e, OSError):
            reason = write_failure(directory, size_bytes, e)
            raise CheckpointError(f"{reason}; nothing was replaced, the checkpoints before it are intact") from e
        raise
    try:
        files.fsync_dir(directory.parent)
    except OSError as e:
        reason = write_failure(directory, size_bytes, e)
        raise CheckpointError(f"{reason}; it may be gone after a power loss, those before it are intact") from e
    kept = {name: Part(part.stamp, part.structure, record=records[name]) for name, part in snapshot.part.items()}
    return Written(directory, kept, linked)


def _link_parts(snapshot: Snapshot, directory: Path, files: FileLayer) -> dict[str, Any]:
    """Gives the files of parts that have not changed a second name, where the disk has such; returns their entries of
    the manifest."""
    records: dict[str, Any] = {}
    for name, part in snapshot.part.items():
        if part.tensors is None:
            assert snapshot.before is not None and part.record is not None
            if not files.link(snapshot.before.directory / name, directory / name):
                break
            records[name] = dict(part.record)
    return records


def _copy_parts(snapshot: Snapshot, directory: Path, files: FileLayer, linked: Mapping[str, Any]) -> dict[str, Any]:
    """Copies the other parts that have not changed; returns their entries, which are right only if the copies are."""
    records: dict[str, Any] = {}
    for name, part in snapshot.part.items():
        if part.tensors is None and name not in linked:
            assert snapshot.before is not None and part.record is not None
            with open(snapshot.before.directory / name, "rb", buffering=0) as source:
                _write_file(directory / name, _chunks(source), files)
            records[name] = dict(part.record)
    return records


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(_READ_BYTES):
        yield chunk


def check_part(directory: Path, name: str, record: Any) -> None:
    """Raises CheckpointError unless a file of the checkpoint is the one that the entry of its manifest describes."""
    _check_file(Path(directory) / name, record)


def load_state(directory: Path) -> tuple[Any, dict[str, Tensor] | None]:
    """Returns ``(tree, weights)`` of a checkpoint, tensors on the CPU; ``weights`` is None if saved without.

    The digests of all files are checked before any is parsed, and nothing in them is ever executed.

    Raises:
        CheckpointError: the checkpoint is missing, damaged, foreign, or of a newer format.
    """
    directory = Path(directory)
    names = verify_state(directory)
    try:
        structure = json.loads((directory / STATE).read_bytes())
        tensors = read_tensor_file(directory / STATE_TENSORS)
        for name in filter(_PART.fullmatch, names):
            tensors |= read_tensor_file(directory / name)
        tree = decode_state(structure, tensors)
    except (OSError, ValueError, RecursionError) as e:
        raise CheckpointError(f"cannot read {directory / STATE}: {e}; use another checkpoint") from e
    return tree, read_tensor_file(directory / WEIGHTS) if WEIGHTS in names else None


def load_state_weights(directory: Path) -> dict[str, Tensor]:
    """Returns the weights alone of a checkpoint, whose other files are not read.

    Raises:
        CheckpointError: the checkpoint is missing, damaged, foreign, of a newer format, or has no weights.
    """
    directory = Path(directory)
    records = read_manifest(directory)["files"]
    if WEIGHTS not in records:
        raise CheckpointError(f"checkpoint {directory} was saved without weights; load another one")
    _check_file(directory / WEIGHTS, records[WEIGHTS])
    return read_tensor_file(directory / WEIGHTS)


def verify_state(directory: Path, known: Mapping[str, Any] | None = None) -> frozenset[str]:
    """Returns the names of a checkpoint's files after checking the size and the digest of each.

    Args:
        directory: of the checkpoint.
        known: entries of the manifest, by name, of files whose contents were checked before: of those the size alone
            is.

    Raises:
        CheckpointError: the checkpoint is missing, damaged, foreign, or of a newer format.
    """
    records = read_manifest(directory)["files"]
    for name, record in records.items():
        _check_file(directory / name, record, contents=(known or {}).get(name) != record)
    return frozenset(records)


def looks_whole(directory: Path) -> bool:
    """Returns whether a checkpoint's manifest is sound and its files have the right sizes; reads none of them."""
    try:
        records = read_manifest(directory)["files"]
        return all((directory / name).lstat().st_size == record["bytes"] for name, record in records.items())
    except (CheckpointError, OSError):
        return False


def read_manifest(directory: Path) -> dict[str, Any]:
    """Returns a checkpoint's manifest: ``format``, ``nervex`` (version), ``metadata`` and ``files``.

    Raises:
        CheckpointError: the manifest is missing, damaged, foreign, or of a newer format.
    """
    path = Path(directory) / MANIFEST
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise CheckpointError(f"{path} is no regular file; this is not a nerveX checkpoint")
        data = path.read_bytes()
    except OSError as e:
        raise CheckpointError(
            f"{directory} is not a nerveX checkpoint: cannot read its {MANIFEST} ({e.strerror})"
        ) from e
    manifest = unseal(data, path)
    records = manifest.get("files")
    if manifest.get("format") != FORMAT or not isinstance(records, dict):
        raise CheckpointError(f"{path} is not the manifest of a nerveX checkpoint; use another checkpoint")
    foreign = sorted(name for name in set(records) - _KNOWN if not _PART.fullmatch(name))
    if not all(isinstance(r, dict) and set(r) == {"sha256", "bytes"} for r in records.values()):
        raise CheckpointError(f"{path} does not describe its files by sha256 and bytes; use another checkpoint")
    if foreign or not _REQUIRED.issubset(records):
        raise CheckpointError(
            f"{path} lists {', '.join(map(repr, foreign or sorted(records)))}, but a checkpoint holds "
            f"{', '.join(sorted(_KNOWN))} and nothing else; do not use it"
        )
    return manifest


def seal(content: Mapping[str, Any]) -> bytes:
    """Returns ``content`` as JSON with its own digest, so that ``unseal`` finds any change of any bit."""
    body = _canonical(content)
    return _canonical({**content, "sha256": hashlib.sha256(body).hexdigest()})


def unseal(data: bytes, path: Path) -> dict[str, Any]:
    """Returns what ``seal`` was given, ``path`` being the file that ``data`` was read from.

    Raises:
        CheckpointError: ``data`` is damaged, was edited, or was written by a newer version.
    """
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as e:
        raise CheckpointError(f"{path} is damaged (not valid JSON: {e}); use another checkpoint") from e
    if not isinstance(content, dict) or "sha256" not in content:
        raise CheckpointError(f"{path} is not a file of a nerveX checkpoint; use another one")
    found = content.get("format")
    if isinstance(found, int) and found > FORMAT:
        raise CheckpointError(f"{path} has format {found}, this nerveX reads up to {FORMAT}; upgrade nerveX to load it")
    content.pop("sha256")
    if seal(content) != data:
        raise CheckpointError(f"{path} is damaged or was edited: its digest does not match; use another checkpoint")
    return content


def _canonical(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, allow_nan=False, indent=1).encode() + b"\n"


def _plain_metadata(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    notes = dict(metadata or {})
    try:
        json.dumps(notes, allow_nan=False, sort_keys=True)
    except (TypeError, ValueError, RecursionError) as e:
        raise TypeError(f"checkpoint metadata {notes} is not plain JSON: {e}") from e
    return notes


def _manifest(records: dict[str, Any], notes: dict[str, Any]) -> bytes:
    try:
        version = importlib.metadata.version("nervex")
    except importlib.metadata.PackageNotFoundError:
        version = "unknown"
    return seal({"format": FORMAT, "nervex": version, "metadata": notes, "files": records})


def _write_file(path: Path, chunks: Iterable[bytes | memoryview], files: FileLayer) -> dict[str, Any]:
    """Writes one file durably and returns its entry of the manifest."""
    with files.create(path) as file:
        hashing = HashingFile(file, files)
        for chunk in chunks:
            hashing.write(chunk)
        files.fsync(file)
    return {"sha256": hashing.sha256(), "bytes": hashing.size_bytes}


def _check_file(path: Path, record: Any, contents: bool = True) -> None:
    """Raises CheckpointError unless the file at ``path`` is the one that the manifest's ``record`` describes, as far as
    its size tells or, with ``contents``, its digest."""
    damaged = f"{path} is damaged: {{}}; use another checkpoint"
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError(damaged.format("it is no regular file"))
        expected = record["bytes"]
        if status.st_size != expected:
            raise CheckpointError(damaged.format(f"it has {status.st_size:,} bytes, its manifest says {expected:,}"))
        if not contents:
            return
        digest = hashlib.sha256()
        with open(path, "rb", buffering=0) as file:
            for chunk in _chunks(file):
                digest.update(chunk)
    except OSError as e:
        raise CheckpointError(damaged.format(f"cannot read it ({e.strerror})")) from e
    if digest.hexdigest() != record["sha256"]:
        raise CheckpointError(damaged.format("its digest does not match its manifest"))
