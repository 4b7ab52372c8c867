"""Where a process runs, and threads that do not hide their errors."""

import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

LOOPBACK = "127.0.0.1"
_ELSEWHERE = ("192.0.2.1", 9)  # an address for documentation (RFC 5737): nobody has it


def get_ip() -> str:
    """Returns the address by which this machine reaches others, or the loopback address where it reaches none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(_ELSEWHERE)  # picks the way, and sends nothing
        except OSError:
            return LOOPBACK
        return str(sock.getsockname()[0])


def get_pid() -> int:
    """Returns the id of this process."""
    return os.getpid()


def get_task_uid() -> str:
    """Returns a new name of 32 hexadecimal digits that no other task has."""
    return uuid.uuid4().hex


def find_free_port(host: str = LOOPBACK) -> int:
    """Returns a TCP port of ``host`` that nothing listens on now; another program may take it at any moment.

    Raises:
        OSError: ``host`` is no address of this machine.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.bind((host, 0))
        return int(sock.getsockname()[1])


class PropagatingThread(threading.Thread):
    """A thread whose ``join`` returns the target's result, or raises what the target raised.

    Args:
        target, args, kwargs: the call that is made in the thread.
        name, daemon: as for ``threading.Thread``.
    """

    def __init__(
        self,
        target: Callable[..., Any] | None = None,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        name: str | None = None,
        daemon: bool | None = None,
    ) -> None:
        super().__init__(name=name, daemon=daemon)
        self._call = (target, tuple(args), dict(kwargs or {}))
        self._result: Any = None
        self._error: BaseException | None = None

    def run(self) -> None:
        """Makes the call; whatever comes of it is kept for ``join``."""
        target, args, kwargs = self._call
        try:
            self._result = None if target is None else target(*args, **kwargs)
        except BaseException as e:  # the border of the thread: handed over at join
            self._error = e

    def join(self, timeout: float | None = None) -> Any:
        """Waits for the end of the thread.

        Args:
            timeout: longest wait in seconds; ``is_alive`` tells whether it was long enough.

        Returns:
            What the target returned; None while it runs.

        Raises:
            BaseException: what the target raised.
        """
        super().join(timeout)
        if not self.is_alive() and self._error is not None:
            raise self._error
        return None if self.is_alive() else self._result
