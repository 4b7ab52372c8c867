"""The Python environment of each peer: made once from a pinned requirements file, kept in a folder that git ignores."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

PEERS = Path(__file__).resolve().parent.parent / "peers"
ROOT = PEERS / ".venv"
_STAMP = ".installed"  # holds the digest of the requirements that are installed
_LIMIT_S = 1800.0


class Environment(NamedTuple):
    """Where a peer's Python is, or why it has none.

    Attributes:
        python: its interpreter; None: it could not be installed.
        problem: why not, in one line.
    """

    python: Path | None
    problem: str | None = None


def requirements(name: str, folder: Path = PEERS / "requirements") -> list[str]:
    """Returns the packages of an environment, as pip takes them."""
    lines = (folder / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def steps(python: Path, packages: list[str]) -> list[list[str]]:
    """Returns the commands that install ``packages``: torch before the others, at its very version, so that nothing
    that depends on it draws another build."""
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    torch = [package for package in packages if package.startswith("torch==")]
    return [[*pip, *torch], [*pip, *packages]] if torch else [[*pip, *packages]]


def prepare(name: str | None, given: Mapping[str, Path], root: Path = ROOT) -> Environment:
    """Returns the environment ``name``, which is installed first where it is not there or its requirements changed.

    Args:
        name: stem of a requirements file; None: the interpreter that runs this, which has nerveX.
        given: interpreters to use in place of an environment of our own.
        root: folder of the environments.
    """
    if name is None or name in given:
        return Environment(given[name] if name in given else Path(sys.executable))  # type: ignore[index]
    packages = requirements(name)
    digest = hashlib.sha256("\n".join(packages).encode()).hexdigest()
    python, stamp = root / name / "bin" / "python", root / name / _STAMP
    if stamp.exists() and stamp.read_text(encoding="utf-8") == digest:
        return Environment(python)
    make = [sys.executable, "-m", "venv", "--clear", str(root / name)]
    for command in [make, *steps(python, packages)]:
        problem = _run(command)
        if problem is not None:
            return Environment(None, f"{' '.join(command[1:4])} of {name} failed: {problem}")
    stamp.write_text(digest, encoding="utf-8")
    return Environment(python)


def _run(command: list[str]) -> str | None:
    """Runs a command and returns the last line of its complaint, if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, env=_plain(), check=False)
    except (OSError, subprocess.TimeoutExpired) as e:
        return f"{type(e).__name__}: {e}"
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return None if done.returncode == 0 else (lines[-1] if lines else f"exit code {done.returncode}")


def _plain() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
