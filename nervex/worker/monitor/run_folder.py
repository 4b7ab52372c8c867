"""The folder that a run leaves behind, and what the run cost."""

import fcntl
import json
import math
import os
import platform
import re
import resource
import socket
import sys
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any

from nervex.utils.errors import RunFolderError
from nervex.utils.files import atomic_write_text, is_temporary, write_failure

_LOCK_NAME = ".lock"
# what a run that failed before its config was written leaves behind; it may be begun again in the same folder
_LEFT_BY_CREATE = frozenset({_LOCK_NAME, "versions.json", "checkpoints"})
_PACKAGES = ("nervex", "torch", "numpy", "gymnasium")


class RunFolder:
    """Paths and small files of one run.

    ===================  ==================  ==========================================
    ``config_path``      ``config.yaml``     resolved configuration
    ``versions_path``    ``versions.json``   name and seed of the run, versions of packages
    ``metrics_path``     ``metrics.jsonl``   metrics, one row per line
    ``tensorboard_dir``  ``tensorboard/``    the same as TensorBoard events
    ``checkpoint_dir``   ``checkpoints/``    checkpoints
    ``curve_path``       ``curve.png``       return over env steps
    ``result_path``      ``result.json``     how the run ended
    ===================  ==================  ==========================================

    Made by ``create`` (a new run, locked) or ``open`` (a run that is there). The lock belongs to the process: it is let
    go at ``close`` and at the process's end, a kill included.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_path = path / "config.yaml"
        self.versions_path = path / "versions.json"
        self.metrics_path = path / "metrics.jsonl"
        self.tensorboard_dir = path / "tensorboard"
        self.checkpoint_dir = path / "checkpoints"
        self.curve_path = path / "curve.png"
        self.result_path = path / "result.json"
        self._lock_file: int | None = None

    @classmethod
    def create(cls, run_dir: Path | str | None, name: str, seed: int) -> "RunFolder":
        """Makes and locks the folder of a new run and writes ``versions.json``.

        Args:
            run_dir: the folder; None for ``runs/<name>_seed<seed>_<YYYYmmdd-HHMMSS>`` in the working directory.
            name: name of the configuration.
            seed: seed of the run.

        Raises:
            RunFolderError: the folder holds something, is in use, or cannot be made.
        """
        if run_dir is None:
            folder = cls(_make_default_folder(name, seed))
        else:
            folder = cls(Path(run_dir))
            _make_folder(folder.path)
            folder._refuse_content()
        folder.lock()
        try:
            folder._refuse_content()  # another process may have begun a run here a moment ago
            folder.checkpoint_dir.mkdir(exist_ok=True)
            folder._write("versions.json", _to_json(versions(name, seed)))
        except OSError as error:
            folder.close()
            raise RunFolderError(f"cannot make a run folder in {folder.path}: {error}") from error
        except RunFolderError:
            folder.close()
            raise
        return folder

    @classmethod
    def check_new(cls, run_dir: Path | str | None) -> None:
        """Says at once what ``create`` would refuse; writes nothing.

        Raises:
            RunFolderError: the folder holds something already.
        """
        if run_dir is not None and Path(run_dir).is_dir():
            cls(Path(run_dir))._refuse_content()

    @classmethod
    def open(cls, path: Path | str) -> "RunFolder":
        """Returns the folder of a run that is there, not locked; ``lock`` it before you train in it.

        Raises:
            RunFolderError: there is no such folder, or it has no ``config.yaml``.
        """
        folder = cls(Path(path))
        if not folder.path.is_dir():
            raise RunFolderError(f"no run folder {folder.path}; give the folder that `nervex train` has printed")
        if not folder.config_path.is_file():
            raise RunFolderError(f"{folder.path} is no run folder: it has no config.yaml; give one of `nervex train`")
        return folder

    def write_config(self, text: str) -> None:
        """Writes ``config.yaml``, whole or not at all.

        Raises:
            RunFolderError: it cannot be written.
        """
        self._write("config.yaml", text)

    def read_versions(self) -> dict[str, Any]:
        """Returns what ``versions.json`` holds.

        Raises:
            RunFolderError: it is missing or damaged.
        """
        return self._read_json(self.versions_path, "the folder was not made by `nervex train`")

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Writes ``result.json``, whole or not at all; NaN and infinity become null, paths strings.

        Raises:
            RunFolderError: it cannot be written; a result that was there is kept.
            TypeError: a value has no form in JSON.
        """
        self._write("result.json", _to_json(result))

    def read_result(self) -> dict[str, Any]:
        """Returns what ``result.json`` holds.

        Raises:
            RunFolderError: it is missing (the run has not ended) or damaged.
        """
        hint = f"the run has not ended; if it was killed, `nervex train --resume --run-dir {self.path}` goes on with it"
        return self._read_json(self.result_path, hint)

    def lock(self) -> None:
        """Takes the folder for this process.

        Raises:
            RunFolderError: another process trains in it; the message names that process.
        """
        if self._lock_file is not None:
            return
        path = self.path / _LOCK_NAME
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise RunFolderError(f"cannot write to run folder {self.path}: {error.strerror}") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(file, 200, 0).decode(errors="replace").strip() or "another process"
            os.close(file)
            if not isinstance(error, BlockingIOError):
                raise RunFolderError(f"cannot lock {path}: {error.strerror}; use a folder on a local disk") from error
            raise RunFolderError(
                f"run folder {self.path} is in use by {holder}; wait for its end, or give another --run-dir"
            ) from error
        os.ftruncate(file, 0)
        os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        self._lock_file = file

    def close(self) -> None:
        """Lets the lock go; may be called twice."""
        file, self._lock_file = self._lock_file, None
        if file is not None:
            os.ftruncate(file, 0)
            os.close(file)

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _refuse_content(self) -> None:
        rest = [entry for entry in self.path.iterdir() if entry.name not in _LEFT_BY_CREATE]
        if all(map(is_temporary, rest)) and not (self.checkpoint_dir.is_dir() and any(self.checkpoint_dir.iterdir())):
            return
        if self.config_path.is_file():
            advice = (
                f"`nervex train --resume --run-dir {self.path}` goes on with it, another --run-dir begins a new one"
            )
            raise RunFolderError(f"{self.path} already holds a run; {advice}")
        raise RunFolderError(f"{self.path} is not empty and holds no run; give another --run-dir")

    def _write(self, name: str, text: str) -> None:
        path = self.path / name
        try:
            atomic_write_text(path, text)
        except OSError as error:
            raise RunFolderError(write_failure(path, len(text.encode()), error)) from error

    def _read_json(self, path: Path, hint: str) -> dict[str, Any]:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise RunFolderError(f"no {path.name} in {self.path}: {hint}") from error
        except (OSError, ValueError) as error:
            raise RunFolderError(f"{path} is damaged: {error}") from error
        if not isinstance(content, dict):
            raise RunFolderError(f"{path} is damaged: it holds a {type(content).__name__}, expected an object")
        return content


def versions(name: str, seed: int) -> dict[str, Any]:
    """Returns name and seed of a run, the platform, and the versions of Python and of the packages (None: absent)."""
    found: dict[str, Any] = {"name": name, "seed": seed, "python": platform.python_version()}
    found["platform"] = f"{platform.system()}-{platform.release()}-{platform.machine()}"
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def cpu_s() -> float:
    """Returns the CPU seconds, user and system, of this process and of its children that have ended."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def peak_rss_bytes() -> int:
    """Returns the largest resident set that this process, or any one child of it that has ended, has ever had."""
    # The two are not added: just after a fork a child counts the pages of its parent as its own.
    unit_bytes = 1 if sys.platform == "darwin" else 1024
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(one).ru_maxrss for one in who) * unit_bytes


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise RunFolderError(f"cannot make run folder {path}: a file of this name is there") from error
    except OSError as error:
        raise RunFolderError(f"cannot make run folder {path}: {error.strerror}") from error


def _make_default_folder(name: str, seed: int) -> Path:
    runs = Path("runs")
    _make_folder(runs)
    safe_name = re.sub(r"[^\w.-]+", "_", name).lstrip(".") or "run"
    stem = f"{safe_name}_seed{seed}_{time.strftime('%Y%m%d-%H%M%S')}"
    for number in range(1, 1000):
        path = runs / (stem if number == 1 else f"{stem}_{number}")
        try:
            path.mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            raise RunFolderError(f"cannot make run folder {path}: {error.strerror}") from error
        return path
    raise RunFolderError(f"{runs} holds 1000 runs of this second already; give a --run-dir")


def _to_json(content: Mapping[str, Any]) -> str:
    return json.dumps(_finite(content), indent=2, allow_nan=False, default=_encode) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _encode(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{value!r} ({type(value).__name__}) has no form in JSON")
