"""The other side of the subprocess managers: a server that has the env's module loaded, and the workers it forks.

Runs in processes of its own, which never import torch. The server is started as a fresh interpreter, so that neither a
threaded parent is forked nor a user's script has to guard its main part.
"""

import ctypes
import json
import mmap
import os
import pickle
import random
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

import cloudpickle
import numpy as np

from nervex.utils.errors import EnvFault
from nervex.worker.actor.env_manager.blocks import Blocks
from nervex.worker.actor.env_manager.env_runner import EnvRunner, episode_seed
from nervex.worker.actor.env_manager.step_clock import StepClock
from nervex.worker.actor.env_manager.wire import HEADER_BYTES, Kind, packed, receive, unpacked

_DONE = packed(Kind.DONE)
_ORPHAN_GRACE_S = 2.0
_PR_SET_PDEATHSIG = 1


def serve(fd: int) -> None:
    """Loads the env's module, then forks a worker whenever asked, until told to close or the manager is gone.

    Args:
        fd: socket to the manager.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sock = socket.socket(fileno=fd)
    workers: set[int] = set()
    grace_s = _ORPHAN_GRACE_S
    try:
        _, payload, fds = _receive_with_fds(sock)
        try:
            env_fn = cloudpickle.loads(payload)
        except Exception as e:
            message = f"the env cannot be loaded in a worker process: {type(e).__name__}: {e}"
            sock.sendall(packed(Kind.FAULT, 0, _described_as(e, message, -1, -1)))
            return
        sock.sendall(packed(Kind.DONE))
        while True:
            kind, payload, worker_fds = _receive_with_fds(sock)
            if kind is Kind.SPAWN:
                pid = _fork_worker(sock, worker_fds[0], fds[0], env_fn)
                workers.add(pid)
                sock.sendall(packed(Kind.VALUE, 0, str(pid).encode()))
            elif kind is Kind.REAP:
                status = _reap(int(payload))
                workers.discard(int(payload))
                sock.sendall(packed(Kind.VALUE, 0, status.encode()))
            else:
                grace_s = 0.0
                return
    except (EOFError, ConnectionError):
        return
    finally:
        _end_all(workers, grace_s)


def _receive_with_fds(sock: socket.socket) -> tuple[Kind, bytes, list[int]]:
    header, fds, _, _ = socket.recv_fds(sock, HEADER_BYTES, 1)
    if len(header) < HEADER_BYTES:
        raise EOFError("the manager is gone")
    kind, _, payload = unpacked(sock, header)
    return kind, payload, fds


def _fork_worker(sock: socket.socket, worker_fd: int, memory_fd: int, env_fn: Callable[[Any], Any]) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    server_pid = os.getpid()
    pid = os.fork()
    if pid == 0:
        sock.close()
        _be_worker(worker_fd, memory_fd, env_fn, server_pid)
    os.close(worker_fd)
    return pid


def _reap(pid: int) -> str:
    """Ends a worker, with what it has started, and returns how it ended; a worker that was dead keeps its status."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return f"died with signal {-code}" if code < 0 else f"exited with code {code}"


class _GraceOverError(Exception):
    pass


def _end_all(workers: set[int], grace_s: float) -> None:
    """Waits for the workers for a while, then kills the rest; no zombie stays."""
    if grace_s > 0:

        def stop_waiting(*_: object) -> NoReturn:
            raise _GraceOverError

        signal.signal(signal.SIGALRM, stop_waiting)
        signal.setitimer(signal.ITIMER_REAL, grace_s)
        try:
            for pid in sorted(workers):
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        except _GraceOverError:
            pass
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    for pid in workers:
        _reap(pid)


def _be_worker(fd: int, memory_fd: int, env_fn: Callable[[Any], Any], server_pid: int) -> NoReturn:
    code = 1
    try:
        os.setsid()
        _die_with_parent(server_pid)
        # Held in this frame, so that only the end of the process closes it and tells the manager.
        sock = socket.socket(fileno=fd)
        _work(sock, memory_fd, env_fn)
        code = 0
    except (EOFError, ConnectionError):
        code = 0
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _die_with_parent(server_pid: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != server_pid:
            os._exit(0)


def _work(sock: socket.socket, memory_fd: int, env_fn: Callable[[Any], Any]) -> None:
    setup = cloudpickle.loads(receive(sock)[2])
    memory = mmap.mmap(memory_fd, 0)
    specs = {"obs_spec": setup["obs_spec"], "action_spec": setup["action_spec"]}
    blocks = Blocks(**specs, env_num=setup["env_num"], memory=memory)
    began: Any = blocks.began.data
    # All workers are forked with the same state of these generators; one that replaces another does not repeat it.
    first = setup["envs"][0]
    seed = episode_seed(first["seed"], first["next_episode"]) if first["next_episode"] else first["seed"]
    random.seed(seed)
    np.random.seed(seed % 2**32)
    runners: dict[int, EnvRunner] = {}
    try:
        for env in setup["envs"]:
            i = env["env_id"]
            began[i] = time.monotonic()
            seeds = {"seed": env["seed"], "next_episode": env["next_episode"]}
            runners[i] = EnvRunner(i, env_fn, env["cfg"], blocks, **specs, **seeds)
            runners[i].set_reset_param(env["reset_param"])
        sock.sendall(packed(Kind.DONE))
        _answer(sock, runners, began, StepClock(blocks, list(runners)))
    except EnvFault as e:
        sock.sendall(packed(Kind.FAULT, 0, _described(e, e.env_id)))
    finally:
        for runner in runners.values():
            with suppress(EnvFault):
                runner.close()


def _answer(sock: socket.socket, runners: dict[int, EnvRunner], began: Any, clock: StepClock) -> None:
    every = list(runners)
    # A receive that waits on a Unix socket is also woken when the other side has read our last answer; a poll is not.
    message = select.poll()
    message.register(sock, select.POLLIN)
    while True:
        message.poll()
        kind, slot, payload = receive(sock)
        if kind is Kind.CLOSE:
            return
        if kind is Kind.CALL:
            sock.sendall(_called(runners, payload, began))
            continue
        lanes = np.frombuffer(payload, np.int64).tolist() if payload else every
        if kind is Kind.ANEW:
            for lane in lanes:
                runners[lane].spoil()
        sock.sendall(_stepped(runners, lanes, slot, began, clock))


def _stepped(runners: dict[int, EnvRunner], lanes: list[int], slot: int, began: Any, clock: StepClock) -> bytes:
    """Steps envs one after the other; one that fails does not keep the others from theirs."""
    infos: dict[int, Any] = {}
    faults: dict[int, bytes] = {}
    for at in lanes:
        began[at] = time.monotonic()
        try:
            info = runners[at].step(slot)
        except Exception as e:
            faults[at] = _described(e, at)
            continue
        if info is not None:
            infos[at] = info
    if clock.due():
        clock.record(lanes, time.monotonic())
    if faults:
        values = {lane: infos.get(lane) for lane in lanes if lane not in faults}
        return packed(Kind.BROKEN, 0, pickle.dumps({"values": values, "faults": faults}))
    return packed(Kind.ENDED, 0, json.dumps(infos).encode()) if infos else _DONE


def _called(runners: dict[int, EnvRunner], payload: bytes, began: Any) -> bytes:
    """Calls methods of the runners; one that fails does not keep the others from theirs."""
    values: dict[int, Any] = {}
    faults: dict[int, bytes] = {}
    for at, (method, args) in cloudpickle.loads(payload).items():
        began[at] = time.monotonic()
        try:
            values[at] = getattr(runners[at], method)(*args)
        except AttributeError as e:
            return packed(Kind.ABSENT, 0, str(e).encode())
        except Exception as e:
            faults[at] = _described(e, at)
    if faults:
        return packed(Kind.BROKEN, 0, cloudpickle.dumps({"values": values, "faults": faults}))
    return packed(Kind.VALUE, 0, cloudpickle.dumps(values))


def _described(error: Exception, env_id: int) -> bytes:
    """Returns JSON of which the manager makes an ``EnvFault``, with the traceback of what the env raised."""
    if isinstance(error, EnvFault):
        return _described_as(error.__cause__ or error, str(error), error.env_id, error.step)
    return _described_as(error, f"env {env_id}: {type(error).__name__} in its worker: {error}", env_id, -1)


def _described_as(error: BaseException, message: str, env_id: int, step: int) -> bytes:
    text = "".join(traceback.format_exception(error))
    return json.dumps({"message": message, "env_id": env_id, "step": step, "traceback": text}).encode()
