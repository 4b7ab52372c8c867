"""The manager's side of the fork server: shared memory, starting and ending workers, and what a fault says."""

import json
import mmap
import os
import pickle
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from nervex.utils.errors import ConfigError, EnvFault
from nervex.worker.actor.env_manager.pickling import dumps_by_value
from nervex.worker.actor.env_manager.wire import Kind, packed, receive, set_limit

_ONE_THREAD = dict.fromkeys(
    (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "NUMEXPR_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
        "NUMBA_NUM_THREADS",
    ),
    "1",
)
_SERVER_EXIT_S = 10.0


def usable_cores() -> int:
    """Returns how many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Worker:
    """A worker process, the envs that it runs and the socket to it."""

    def __init__(self, env_ids: list[int], pid: int, sock: socket.socket) -> None:
        self.env_ids = env_ids
        self.pid = pid
        self.sock = sock

    def close_within(self, limit_s: float) -> None:
        """Waits until the worker has closed its socket, at most ``limit_s`` seconds."""
        deadline = time.monotonic() + limit_s
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        with suppress(OSError):
            while (left := deadline - time.monotonic()) > 0 and poll.poll(left * 1000):
                if not self.sock.recv(65536):
                    return


class WorkerPool:
    """Workers that share one block of memory, forked from a server that has the env loaded.

    Args:
        env_fn: what builds an env; classes of ``__main__``, of notebooks and of files loaded by path are sent by value.
        memory_bytes: size of the shared memory.
        limit_s: limit of loading the env in the server.

    Raises:
        ConfigError: ``env_fn`` cannot be pickled.
        EnvFault: the server could not load the env.
    """

    def __init__(self, env_fn: Callable[[Any], Any], memory_bytes: int, limit_s: float) -> None:
        self._limit_s = limit_s
        self._workers: list[Worker] = []
        self._server: subprocess.Popen[bytes] | None = None
        self._owner_pid = os.getpid()
        try:
            payload = dumps_by_value(env_fn)
        except Exception as e:  # whatever a reducer raises
            name = getattr(env_fn, "__name__", env_fn)
            raise ConfigError(
                f"env {name} cannot be sent to a worker process: {type(e).__name__}: {e}; "
                "keep locks, files, connections and simulators out of its class and its module (make them at the first "
                "reset), or set env.env_manager_type to base"
            ) from e
        memory_fd = _anonymous_file(memory_bytes)
        self._sock, theirs = socket.socketpair()
        set_limit(self._sock, limit_s)
        try:
            self.memory = mmap.mmap(memory_fd, 0)
            self._server = _start_server(theirs)
            self._send(packed(Kind.SETUP, 0, payload), memory_fd)
            self._reply("loading the env in the fork server")
        except BaseException:
            self.stop(0.0)
            raise
        finally:
            theirs.close()
            os.close(memory_fd)

    def spawn(self, env_ids: list[int], setup: dict[str, Any]) -> Worker:
        """Returns a new worker that has been sent ``setup``; it answers when its envs are built."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._send(packed(Kind.SPAWN), theirs.fileno())
            try:
                pid = int(self._reply(f"forking the worker of env {env_ids[0]}"))
            except BaseException:
                ours.close()
                raise
        set_limit(ours, self._limit_s)
        worker = Worker(env_ids, pid, ours)
        self._workers.append(worker)
        with suppress(ConnectionError, BlockingIOError):  # a worker that died at once is found when it is waited for
            ours.sendall(packed(Kind.SETUP, 0, dumps_by_value(setup)))
        return worker

    def reap(self, worker: Worker) -> str:
        """Ends a worker and returns how it ended, as ``'died with signal 9'``."""
        self._workers.remove(worker)
        worker.sock.close()
        try:
            self._send(packed(Kind.REAP, 0, str(worker.pid).encode()))
            return self._reply(f"ending the worker of env {worker.env_ids[0]}").decode()
        except OSError:
            return "died together with its fork server"
        except EnvFault:
            if self._server is not None and self._server.poll() is None:
                raise  # its answer may still come, and would be taken for that to the next question
            return "died together with its fork server"

    def stop(self, grace_s: float) -> None:
        """Ends all workers and the server: in peace within ``grace_s`` seconds, then by SIGKILL."""
        if os.getpid() != self._owner_pid:
            return
        workers, self._workers = self._workers, []
        deadline = time.monotonic() + grace_s
        if grace_s > 0:
            for worker in workers:
                with suppress(OSError):
                    worker.sock.sendall(packed(Kind.CLOSE))
            for worker in workers:
                worker.close_within(deadline - time.monotonic())
        with suppress(OSError):
            self._sock.sendall(packed(Kind.CLOSE))
        for worker in workers:
            worker.sock.close()
        self._sock.close()
        server, self._server = self._server, None
        if server is not None:
            try:
                server.wait(_SERVER_EXIT_S)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()

    def _send(self, message: bytes, *fds: int) -> None:
        try:
            if fds:
                sent = socket.send_fds(self._sock, [message], list(fds))
                message = message[sent:]
            self._sock.sendall(message)
        except BlockingIOError as e:
            raise EnvFault(f"the fork server of the envs took no message for {self._limit_s:g} s") from e
        except ConnectionError:
            return  # the reply that is missing says why

    def _reply(self, what: str) -> bytes:
        try:
            kind, _, payload = receive(self._sock)
        except BlockingIOError:
            raise EnvFault(f"{what} took longer than {self._limit_s:g} s (limit reset_timeout_s)") from None
        except (EOFError, ConnectionError):
            code = self._server.wait(_SERVER_EXIT_S) if self._server else None
            raise EnvFault(f"the fork server of the envs ended with code {code} while {what}") from None
        if kind is Kind.FAULT:
            raise fault_of(payload)
        return payload


def fault_of(payload: bytes) -> EnvFault:
    """Returns the fault that another process described, with the original traceback as a note."""
    content = json.loads(payload)
    fault = EnvFault(content["message"], content["env_id"], content["step"])
    fault.add_note(f"Traceback in the worker process:\n{content['traceback']}")
    return fault


def value_of(payload: bytes) -> Any:
    """Returns the value that a worker, forked by us and talking over a private socket, has sent."""
    return pickle.loads(payload)


def _anonymous_file(size: int) -> int:
    """A file without a name, so that nothing stays behind however the processes end."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("nervex_env_blocks")
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, size)
    return fd


def _start_server(theirs: socket.socket) -> subprocess.Popen[bytes]:
    path = [str(p) for p in sys.path]
    code = (
        f"import sys; sys.path[:] = {path!r}; "
        f"from nervex.worker.actor.env_manager.fork_server import serve; serve({theirs.fileno()})"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code],
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        env={**os.environ, **_ONE_THREAD},
    )
