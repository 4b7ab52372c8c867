"""Shows what a checkpoint, a run folder or a file of tensors holds, without loading tensors or running anything."""

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from nervex.data.memory import human_bytes
from nervex.torch_utils.checkpoint import CHECKPOINTS, CheckpointManager, refuse_pickle
from nervex.torch_utils.state_files import MANIFEST, STATE, STATE_TENSORS, WEIGHTS, read_manifest, verify_state
from nervex.torch_utils.tensor_header import TensorHead, check_name, read_tensor_heads, refuse_code
from nervex.utils.errors import CheckpointError, RunFolderError
from nervex.worker.monitor.jsonl_sink import read_metrics
from nervex.worker.monitor.run_folder import RunFolder

_TENSORS = ".safetensors"
_SHOWN = 60  # characters of a value
_RESULT_KEYS = ("stop_reason", "env_step", "train_iter", "solved", "best_eval_return")


class Inspection(NamedTuple):
    """What ``inspect_path`` found.

    Attributes:
        lines: to show.
        sound: nothing is damaged. Of a run folder the damaged checkpoints are listed among the others.
    """

    lines: list[str]
    sound: bool


def inspect_path(path: Path | str) -> Inspection:
    """Returns what is in a checkpoint, a state directory (``bad_batch_...``), a run folder or a ``.safetensors`` file.

    Tensors are not loaded (their files are read once, for the digest), and nothing in a file is executed.

    Raises:
        CheckpointError: it is missing, damaged, foreign, or could run code.
        RunFolderError: a file of the run folder is damaged.
    """
    path = Path(path)
    refuse_pickle(path)
    if path.is_dir():
        if (path / "config.yaml").exists() and not (path / MANIFEST).exists():
            return _run_folder(path)
        return Inspection(_state(path), True)
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise CheckpointError(f"{path} is neither a file nor a directory; give a checkpoint or a run folder")
        with open(path, "rb") as file:
            begin = file.read(8)
    except OSError as e:
        raise CheckpointError(f"cannot read {path}: {e.strerror}; give a checkpoint or a run folder") from e
    if path.suffix != _TENSORS:
        refuse_code(path, begin)
        raise CheckpointError(
            f"{path} is no {_TENSORS} file; give one, a checkpoint's directory, a bad batch or a run folder"
        )
    heads = read_tensor_heads(path.resolve())
    return Inspection([f"{path}: {_sum(heads)}", *_tensor_lines(heads)], True)


def _state(path: Path) -> list[str]:
    manifest = read_manifest(path)
    records = manifest["files"]
    _refuse_foreign(path, {MANIFEST, *records})
    verify_state(path)
    lines = [f"{path}: format {manifest['format']}, written by nervex {_shown(manifest['nervex'])}, all digests match"]
    lines += [f"  {name}  {human_bytes(records[name]['bytes'])}  sha256 {records[name]['sha256'][:16]}"
              for name in sorted(records)]  # fmt: skip
    lines += [f"  {_shown(key)}: {_shown(value)}" for key, value in sorted(manifest["metadata"].items())]
    heads = {name: read_tensor_heads(path / name) for name in sorted(records) if name.endswith(_TENSORS)}
    weights = heads.pop(WEIGHTS, None)
    state = {name: head for held in heads.values() for name, head in held.items()}  # with parts in files of their own
    try:
        tree = list(_tree(json.loads((path / STATE).read_bytes()), state, 1))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as e:
        raise CheckpointError(f"{path / STATE} is no state of a checkpoint: {e}; use another checkpoint") from e
    if weights is not None:
        lines += [f"{WEIGHTS}: {_sum(weights)}", *_tensor_lines(weights)]
    more = f" and {len(heads) - 1} parts" if len(heads) > 1 else ""
    return [*lines, f"{STATE} with {STATE_TENSORS}{more}: {_sum(state)}", *tree]


def _refuse_foreign(path: Path, known: set[str]) -> None:
    """Raises CheckpointError for links, which may lead elsewhere, and for files that the manifest does not list."""
    for entry in sorted(path.iterdir()):
        if entry.is_symlink():
            raise CheckpointError(f"{entry} is a link, which no checkpoint holds; use another checkpoint")
        if entry.name not in known:
            raise CheckpointError(
                f"{path} holds {entry.name!r}, which its {MANIFEST} does not list; remove it, or use another checkpoint"
            )


def _run_folder(path: Path) -> Inspection:
    folder = RunFolder.open(path)
    known = folder.read_versions()
    lines = [f"{path}: run '{_shown(known.get('name'))}', seed {_shown(known.get('seed'))}"]
    lines += [f"  {_shown(key)} {_shown(known[key])}" for key in known if key not in ("name", "seed")]
    if folder.result_path.exists():
        result = folder.read_result()
        lines.append("  ended: " + ", ".join(f"{key} {_shown(result.get(key))}" for key in _RESULT_KEYS))
    else:
        lines.append("  no result: it is running, or was killed")
    if folder.metrics_path.exists():
        lines.append(_metrics_line(folder.metrics_path))
    sound = True
    labels = {entry.stem: entry for entry in sorted(folder.checkpoint_dir.glob("*.pin"))}
    manager = CheckpointManager(folder.checkpoint_dir)
    targets = {label: manager.pinned(label) for label in labels}
    found = manager.all() + sorted(path.glob("bad_batch_iteration_*"))
    for directory in found:
        try:
            if directory.is_symlink():
                raise CheckpointError(f"{directory} is a link, which no run folder holds")
            verify_state(directory)
            manifest = read_manifest(directory)
            size = sum(record["bytes"] for record in manifest["files"].values())
            notes = ", ".join(f"{_shown(k)} {_shown(v)}" for k, v in sorted(manifest["metadata"].items()))
            pins = "".join(f" [{_shown(label)}]" for label, target in targets.items() if target == directory)
            name = _shown(directory.relative_to(path))
            lines.append(f"  {name}{pins}  {human_bytes(size)}  digests match  {notes}".rstrip())
        except CheckpointError as e:
            sound = False
            lines.append(f"  {_shown(directory.relative_to(path))}  DAMAGED: {_shown(e, longest=1000)}")
    lines.append(
        f"  more: nervex inspect {_shown(found[-1], longest=1000)}" if found else f"  no checkpoint in {CHECKPOINTS}/"
    )
    return Inspection(lines, sound)


def _metrics_line(metrics: Path) -> str:
    try:
        rows = read_metrics(metrics)
        last = f", the last at env step {rows[-1]['env_step']:,}, iteration {rows[-1]['train_iter']:,}" if rows else ""
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise RunFolderError(f"{metrics} is damaged: {type(e).__name__}: {e}") from e
    return f"  {metrics.name}: {len(rows):,} rows{last}"


def _tensor_lines(heads: dict[str, TensorHead]) -> list[str]:
    width = max(map(len, heads), default=0)
    return [f"  {name:<{width}}  {_head(head)}" for name, head in heads.items()]


def _sum(heads: dict[str, TensorHead]) -> str:
    return f"{len(heads)} tensors, {human_bytes(sum(head.size_bytes for head in heads.values()))}"


def _head(head: TensorHead) -> str:
    return f"{head.dtype} {list(head.shape)}"


def _tree(node: Any, heads: dict[str, TensorHead], depth: int, name: str = "") -> Iterator[str]:
    """Yields the lines of a node of ``state.json``: a leaf's value or tensor beside its key, what holds others above
    them; long lists of plain numbers are one line."""
    label = "  " * depth + (f"{_shown(name)}: " if name else "")
    children = _children(node)
    if children is None:
        yield label + _leaf(node, heads)
        return
    if all(type(child) in (int, float, bool, str, type(None)) for _, child in children) and type(node) is list:
        yield f"{label}list of {len(children)}: {_shown([child for _, child in children])}"
        return
    if name:
        yield label.rstrip() if children else f"{label}empty"
    for key, child in children:
        yield from _tree(child, heads, depth + bool(name), str(key))


def _children(node: Any) -> list[tuple[Any, Any]] | None:
    """Returns the entries of a node that holds others, else None."""
    if type(node) is list:
        return list(enumerate(node))
    if type(node) is not dict:
        return None
    if len(node) != 1:
        raise ValueError("a mapping where a node of one kind is expected")
    ((kind, payload),) = node.items()
    if kind == "dict":
        return list(payload.items())
    if kind == "tuple":
        return list(enumerate(payload))
    if kind in ("items", "ordered"):
        return [(key if type(key) in (str, int) else _shown(key), child) for key, child in payload]
    return None


def _leaf(node: Any, heads: dict[str, TensorHead]) -> str:
    if type(node) is not dict:
        return _shown(node)
    ((kind, payload),) = node.items()
    if kind not in ("array", "tensor", "complex"):
        return f"{_shown(kind)} {_shown(payload)}"
    tensor = payload[0] if kind == "array" else payload
    check_name(tensor)
    if tensor not in heads:
        raise ValueError(f"it names the tensor {tensor!r}, which is not there")
    return f"{kind} {_head(heads[tensor])}"


def _shown(value: Any, longest: int = _SHOWN) -> str:
    """Returns a value as short text without characters that could steer a terminal."""
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(value))
    return text if len(text) <= longest else f"{text[: longest - 3]}..."
