"""Mutual exclusion between threads and between processes, with a limit on every wait."""

import enum
import os
import tempfile
import threading
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any

import filelock

from nervex.utils.errors import ConfigError, LockTimeoutError


class LockContextType(enum.Enum):
    """Between whom a lock excludes."""

    THREAD_LOCK = "thread"
    PROCESS_LOCK = "process"


class LockContext:
    """A lock for ``with``: one holder at a time; the holder may enter it again.

    A process lock is a lock on a file, which the system frees when its holder dies. It may be sent to another process
    (pickled) and is the same lock there; so are two locks on one ``path``. Within a process it excludes threads too.

    Args:
        type_: between threads of this process, or between processes of this machine.
        path: file of a process lock; None: a new one in the folder for temporary files.
        timeout_s: longest wait for the lock, in seconds.

    Raises:
        ConfigError: the timeout is not positive or endless, or a thread lock is given a path.
    """

    def __init__(
        self,
        type_: LockContextType = LockContextType.THREAD_LOCK,
        path: str | os.PathLike[str] | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        if not isinstance(type_, LockContextType):
            raise ConfigError(f"LockContext got the type {type_!r}; expected a LockContextType")
        if not 0 < timeout_s <= threading.TIMEOUT_MAX:
            raise ConfigError(
                f"LockContext got timeout_s={timeout_s}; expected a positive number of seconds, at most "
                f"{threading.TIMEOUT_MAX:.0f}"
            )
        if path is not None and type_ is LockContextType.THREAD_LOCK:
            raise ConfigError(f"LockContext got the path {path} for a thread lock; only a process lock has a file")
        self.type = type_
        self.timeout_s = timeout_s
        if type_ is LockContextType.PROCESS_LOCK:
            self.path: Path | None = Path(path or Path(tempfile.gettempdir()) / f"nervex-{uuid.uuid4().hex}.lock")
        else:
            self.path = None
        self._make()

    def acquire(self) -> None:
        """Waits for the lock and takes it.

        Raises:
            LockTimeoutError: another held it for all of ``timeout_s``.
            OSError: the file of a process lock cannot be made.
        """
        if not self._thread_lock.acquire(timeout=self.timeout_s):
            raise LockTimeoutError(self._late("another thread"))
        if self._file_lock is None:
            return
        try:
            self._file_lock.acquire(timeout=self.timeout_s, poll_interval=0.01)
        except BaseException as e:
            self._thread_lock.release()
            if isinstance(e, filelock.Timeout):
                raise LockTimeoutError(self._late("another process")) from e
            raise

    def release(self) -> None:
        """Gives the lock back.

        Raises:
            RuntimeError: this thread does not hold it.
        """
        self._thread_lock.release()  # raises before the file is let go
        if self._file_lock is not None:
            self._file_lock.release()

    def __enter__(self) -> "LockContext":
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __getstate__(self) -> dict[str, Any]:
        if self.path is None:
            raise TypeError("a thread lock cannot go to another process; use LockContextType.PROCESS_LOCK")
        return {"type": self.type, "path": self.path, "timeout_s": self.timeout_s}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._make()

    def _make(self) -> None:
        self._thread_lock = threading.RLock()
        self._file_lock = None if self.path is None else filelock.FileLock(self.path, thread_local=False)

    def _late(self, holder: str) -> str:
        what = "the thread lock" if self.path is None else f"the lock {self.path}"
        return (
            f"process {os.getpid()} waited {self.timeout_s:g} s for {what}, which {holder} holds; end the holder, or "
            "raise timeout_s"
        )
