import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from nervex.utils import LockContext, LockContextType
from nervex.utils.errors import ConfigError, LockTimeoutError

PROCESS, THREAD = LockContextType.PROCESS_LOCK, LockContextType.THREAD_LOCK


def test_kinds_by_name() -> None:
    assert {kind.value: LockContextType(kind.value) for kind in LockContextType} == {
        "thread": THREAD,
        "process": PROCESS,
    }


@pytest.mark.parametrize("kind", list(LockContextType))
def test_no_step_of_a_thread_is_lost(tmp_path: Path, kind: LockContextType) -> None:
    lock = LockContext(kind, tmp_path / "a.lock" if kind is PROCESS else None)
    count = [0]
    halfway = threading.Event()

    def add() -> None:
        for _ in range(20):
            with lock:
                seen = count[0]
                halfway.wait(1e-4)  # another thread runs here, if the lock lets it
                count[0] = seen + 1

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count[0] == 80


def test_a_lock_sent_to_another_process_is_the_same_lock() -> None:
    lock = LockContext(PROCESS, timeout_s=0.3)
    code = (
        "import pickle, sys\nlock = pickle.load(sys.stdin.buffer)\n"
        "try:\n    lock.acquire()\n    print('got')\nexcept Exception as e:\n    print(type(e).__name__, e)"
    )

    def ask() -> str:
        done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(lock), capture_output=True, timeout=60)
        return done.stdout.decode()

    with lock:
        answer = ask()
        assert "LockTimeoutError" in answer and f"waited 0.3 s for the lock {lock.path}" in answer
        assert "which another process holds" in answer
    assert ask() == "got\n"


def test_a_lock_of_a_dead_process_is_free(tmp_path: Path) -> None:
    path = tmp_path / "dead.lock"
    code = (
        "import os\nfrom nervex.utils import LockContext, LockContextType\n"
        f"LockContext(LockContextType.PROCESS_LOCK, {str(path)!r}).acquire()\nprint('held', flush=True)\nos._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60).stdout == b"held\n"
    with LockContext(PROCESS, path, timeout_s=5):
        pass


def in_thread(call: Any) -> Any:
    caught = []

    def run() -> None:
        try:
            call()
        except Exception as e:
            caught.append(e)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return caught[0] if caught else None


@pytest.mark.parametrize("kind", list(LockContextType))
def test_holder_enters_again_and_others_wait_for_a_limited_time(kind: LockContextType) -> None:
    lock = LockContext(kind, timeout_s=0.05)
    with lock, lock:
        error = in_thread(lock.acquire)
        assert isinstance(error, LockTimeoutError) and "waited 0.05 s for the" in str(error)
    lock.acquire()  # left twice, it is free
    assert isinstance(in_thread(lock.release), RuntimeError)  # not that thread's to release
    assert isinstance(in_thread(lock.acquire), LockTimeoutError)
    lock.release()
    assert in_thread(lambda: lock.acquire() or lock.release()) is None


def test_two_locks_of_one_path_exclude_each_other(tmp_path: Path) -> None:
    one, two = (LockContext(PROCESS, tmp_path / "x.lock", timeout_s=0.05) for _ in range(2))
    with one, pytest.raises(LockTimeoutError):
        two.acquire()
    with two:
        pass


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: LockContext("thread"), ConfigError, "the type 'thread'; expected a LockContextType"),
        (lambda: LockContext(THREAD, timeout_s=0), ConfigError, "timeout_s=0; expected a positive number"),
        (
            lambda: LockContext(PROCESS, timeout_s=float("inf")),
            ConfigError,
            "timeout_s=inf; expected a positive number",
        ),
        (lambda: LockContext(THREAD, "x.lock"), ConfigError, r"the path x\.lock for a thread lock"),
        (lambda: pickle.dumps(LockContext()), TypeError, "a thread lock cannot go to another process"),
    ],
)
def test_wrong_use_is_one_clear_sentence(call: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        call()
