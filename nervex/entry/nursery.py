"""Processes that train on request: each is forked from a fresh interpreter that has everything loaded, and can be
killed at any instant without harm to the one who asked for it."""

import ctypes
import json
import logging
import os
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from nervex.config.source import apply_overrides, read_source
from nervex.entry.catalog import find_config
from nervex.entry.serial_entry import serial_pipeline
from nervex.utils.errors import NerveXError

_PR_SET_PDEATHSIG = 1
_START_LIMIT_S = 300.0  # loading torch on a busy machine
_END_LIMIT_S = 60.0  # it may still be loading
_CODE = "from nervex.entry.nursery import serve; serve()"


class Nursery:
    """Starts training processes, one at a time, without loading torch anew for each.

    The processes come from an interpreter of its own with a seed of its own for the order of sets, as that of a user's
    next command would have. They end with it, and it ends with this process.
    """

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-c", _CODE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # select sees every line that was not read
            env={**os.environ, "PYTHONHASHSEED": "random"},
        )
        self._pid: int | None = None

    def start(self, request: Mapping[str, Any], log: Path) -> None:
        """Begins to train.

        Args:
            request: ``config`` (file or shipped name), ``overrides``, ``seed``, ``run_dir``, ``resume``.
            log: file that the process's output is appended to.

        Raises:
            NerveXError: the process could not be started.
        """
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps({**request, "log": str(log)}).encode() + b"\n")
        self._server.stdin.flush()
        self._pid = int(self._answer(_START_LIMIT_S) or 0)

    def ended(self, timeout_s: float) -> int | None:
        """Returns the exit code (negative: the signal that killed it) once the process has ended, None after
        ``timeout_s`` without that."""
        answer = self._answer(timeout_s, wait_only=True)
        return None if answer is None else int(answer)

    def kill(self) -> int:
        """Ends the process by SIGKILL and returns its exit code: not -9 where it had ended before."""
        assert self._pid is not None
        os.kill(self._pid, signal.SIGKILL)
        code = self._answer(_START_LIMIT_S)
        return int(code or 0)

    def close(self) -> None:
        """Ends everything that was started; may be called twice."""
        assert self._server.stdin is not None and self._server.stdout is not None
        if self._pid is not None and self._server.poll() is None:
            os.kill(self._pid, signal.SIGKILL)  # perhaps a zombie by now: it is reaped when the server is told to end
        self._pid = None
        self._server.stdin.close()
        try:
            self._server.wait(_END_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        self._server.stdout.close()

    def _answer(self, timeout_s: float, wait_only: bool = False) -> str | None:
        pipe = self._server.stdout
        assert pipe is not None
        if not select.select([pipe], [], [], timeout_s)[0]:
            if wait_only:
                return None
            raise NerveXError(
                f"a training process has not answered for {timeout_s:.0f} s; try again, or a free machine"
            )
        line = pipe.readline()
        if not line:
            raise NerveXError("the process that starts training processes has died; see the messages above")
        return line.decode().strip()


def serve() -> None:
    """Forks a training process for each request on standard input; answers with its id, then with its exit code."""
    _die_with_parent(os.getppid())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever prints must not answer
    ended: list[int] = []
    while line := sys.stdin.readline():
        _reap(ended)  # only now: until it is reaped, no other process has the id that may be killed
        server = os.getpid()
        pid = os.fork()
        if pid == 0:
            _die_with_parent(server)
            _train(json.loads(line))
        print(pid, file=answers, flush=True)
        end = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert end is not None
        print(end.si_status if end.si_code == os.CLD_EXITED else -end.si_status, file=answers, flush=True)
        ended.append(pid)
    _reap(ended)


def _reap(ended: list[int]) -> None:
    while ended:
        os.waitpid(ended.pop(), 0)


def _die_with_parent(parent: int) -> None:
    """Asks for a SIGKILL at the parent's end, whatever ends it (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _train(request: dict[str, Any]) -> NoReturn:
    code = 1
    try:
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        for number in (sys.stdout.fileno(), sys.stderr.fileno()):
            os.dup2(log, number)
        logging.basicConfig(level=logging.INFO, format="nervex: %(message)s", stream=sys.stderr)
        source = apply_overrides(read_source(find_config(request["config"])), request["overrides"])
        serial_pipeline(source, request["seed"], run_dir=request["run_dir"], resume=request["resume"], show=False)
        code = 0
    except NerveXError as e:
        print(f"error: {e}", file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)
