import ipaddress
import os
import socket
import subprocess
import sys
import threading
from typing import Any

import pytest

from nervex.utils import PropagatingThread, find_free_port, get_ip, get_pid, get_task_uid
from nervex.utils.system_helper import LOOPBACK


def test_pid_is_that_of_the_process() -> None:
    code = "from nervex.utils import get_pid; print(get_pid())"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and int(child.stdout.read()) == child.pid != get_pid()
    assert get_pid() == os.getpid()


def test_ip_is_one_of_this_machine() -> None:
    address = get_ip()
    assert ipaddress.ip_address(address).version == 4
    with socket.socket() as sock:
        sock.bind((address, 0))  # only an address of this machine can be bound


def test_ip_without_a_network_is_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    class Cut(socket.socket):
        def connect(self, address: Any) -> None:
            raise OSError("Network is unreachable")

    monkeypatch.setattr(socket, "socket", Cut)
    assert get_ip() == LOOPBACK == "127.0.0.1"


def test_task_uids_differ() -> None:
    uids = {get_task_uid() for _ in range(1000)}
    assert len(uids) == 1000 and all(len(uid) == 32 and int(uid, 16) for uid in uids)


def test_a_free_port_can_be_listened_on() -> None:
    port = find_free_port()
    with socket.create_server((LOOPBACK, port)):
        assert find_free_port() != port
        with socket.create_connection((LOOPBACK, port), timeout=5):
            pass
    with pytest.raises(OSError):
        find_free_port("192.0.2.1")


def test_a_thread_hands_over_its_result_or_its_error() -> None:
    thread = PropagatingThread(target=lambda a, b: a * b, args=(6,), kwargs={"b": 7})
    thread.start()
    assert thread.join() == 42

    def fail() -> None:
        raise ValueError("in the thread")

    thread = PropagatingThread(target=fail)
    thread.start()
    for _ in range(2):
        with pytest.raises(ValueError, match="in the thread"):
            thread.join()


def test_join_within_a_limit() -> None:
    go = threading.Event()
    thread = PropagatingThread(target=lambda: go.wait(60), daemon=True)
    thread.start()
    assert thread.join(timeout=0.01) is None and thread.is_alive()
    go.set()
    assert thread.join() is True
