"""Env worker processes: how they die, hang, start, end, and what they leave behind."""

import gc
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from manager_envs import CounterEnv, FaultEnv, GateEnv, SlowEnv, Unloadable

from nervex.utils.errors import EnvFault, SpecError
from nervex.utils.import_helper import import_names
from nervex.worker.actor.env_manager import SubprocessEnvManager, SyncSubprocessEnvManager

MANAGERS = [SyncSubprocessEnvManager, SubprocessEnvManager]
LIMIT_S = 20.0


def counters(num, **cfg):
    return [{"env": i, **cfg} for i in range(num)]


def zeros(num):
    return np.zeros(num, np.int64)


def is_gone(pid):
    """Whether the process has ended; one that nobody has waited for is still there, as a zombie."""
    return not Path(f"/proc/{pid}").exists()


def is_dead(pid):
    """Whether the process has ended; how soon an orphan is waited for is up to the machine."""
    return is_gone(pid) or Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def wait_until(condition):
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)


def children():
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def in_use():
    """What this process holds: child processes, blocks shared with env workers, open files."""
    gc.collect()
    blocks = Path("/proc/self/maps").read_text().count("nervex_env_blocks")
    return children(), blocks, len(os.listdir("/proc/self/fd"))


@pytest.fixture(autouse=True)
def nothing_left():
    before = in_use()
    yield
    assert in_use() == before


def test_workers_load_no_torch_and_use_one_thread():
    assert "torch" in sys.modules  # of this process, through the dict view
    with SyncSubprocessEnvManager(CounterEnv, counters(2), 2, worker_num=2) as manager:
        manager.launch()
        for modules in manager.loaded_modules:
            assert "manager_envs" in modules and not {"torch", "optree", "tensorboard"} & set(modules)
        assert manager.threads_variable == ["1", "1"]
        pids = manager.pid
        assert len({*pids, os.getpid()}) == 3
    assert all(is_gone(pid) for pid in pids)


@pytest.mark.parametrize("manager_class", MANAGERS)
@pytest.mark.parametrize("in_flight", [False, True])
def test_a_killed_worker_is_named_at_once(manager_class, in_flight, tmp_path):
    configs = counters(3, length=100)
    if in_flight:
        configs[1] |= {"gate": str(tmp_path / "gate"), "gate_step": 3}
        os.mkfifo(tmp_path / "gate")
    with manager_class(GateEnv, configs, 3, worker_num=3, fault_budget=0) as manager:
        manager.launch()
        pids = manager.pid
        while manager.ready_block().obs[:, 2].sum() < 6:
            lanes = manager.ready_block().lane_id
            lanes = lanes[manager.ready_block().obs[:, 2] < 2]
            manager.step_block(zeros(len(lanes)), lanes)
        if not in_flight:
            os.kill(pids[1], signal.SIGKILL)
        else:
            killer = f"import os; open({str(tmp_path / 'gate')!r}, 'w'); os.kill({pids[1]}, 9)"
            # Opening the pipe waits for the env to be inside its step.
            killer_process = subprocess.Popen([sys.executable, "-c", killer])
        with pytest.raises(EnvFault, match=rf"env 1 \(pid {pids[1]}\) died with signal 9 at episode \d+") as caught:
            while True:
                lanes = manager.ready_block().lane_id
                manager.step_block(zeros(len(lanes)), lanes)
        if in_flight:
            killer_process.wait()
        assert caught.value.env_id == 1
        assert all(is_gone(pid) for pid in pids)


@pytest.mark.parametrize("manager_class", MANAGERS)
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("hang", "has not answered for 0.3 s at episode 1 step 2; mend the env, or raise step_timeout_s"),
        ("hang in reset", "has not answered for 0.4 s at episode 1 step 0; mend the env, or raise reset_timeout_s"),
        ("exit", "exited with code 7 at episode 1 step 2"),
        ("kill", "died with signal 9 at episode 1 step 2"),
    ],
)
def test_hangs_and_exits(manager_class, fault, message):
    options = {"reset_timeout_s": 0.4} if fault == "hang in reset" else {}
    options |= {"step_timeout_s": 0.3} if fault == "hang" else {}
    manager = manager_class(FaultEnv, counters(2, fault=fault), 2, close_timeout_s=0.1, worker_num=2, fault_budget=0)
    manager.launch()
    for name, value in options.items():  # starting the processes may take longer
        setattr(manager._crew, name, value)
    pids = manager.pid
    with pytest.raises(EnvFault, match=message) as caught:
        while True:
            lanes = manager.ready_block().lane_id
            manager.step_block(zeros(len(lanes)), lanes)
    assert str(caught.value).startswith(f"env 1 (pid {pids[1]}) ")
    assert all(is_gone(pid) for pid in pids)


def test_a_stopped_worker():
    limits = {"step_timeout_s": 0.3, "close_timeout_s": 0.1, "fault_budget": 0}
    with SyncSubprocessEnvManager(CounterEnv, counters(2), 2, worker_num=2, **limits) as manager:
        manager.launch()
        pid = manager.pid[0]
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(EnvFault, match=rf"env 0 \(pid {pid}\) has not answered for 0.3 s"):
            manager.step_block(zeros(2), np.arange(2))
        assert is_gone(pid)


def test_a_killed_fork_server():
    others = children()
    with SyncSubprocessEnvManager(CounterEnv, counters(2), 2, worker_num=2) as manager:
        manager.launch()
        pids = manager.pid
        (server,) = children() - others
        os.kill(int(server), signal.SIGKILL)
        with pytest.raises(EnvFault, match=r"env \d \(pid \d+\) died together with its fork server"):
            for _ in range(1000):
                manager.step_block(zeros(2), np.arange(2))
    wait_until(lambda: all(is_dead(pid) for pid in pids))


@pytest.mark.parametrize("manager_class", MANAGERS)
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("hang", "has not answered for 0.3 s at episode 1 step 2; mend the env, or raise step_timeout_s"),
        ("exit", "exited with code 7 at episode 1 step 2"),
    ],
)
def test_the_env_at_fault_among_those_of_a_worker(manager_class, fault, message):
    manager = manager_class(FaultEnv, counters(3, fault=fault), 3, close_timeout_s=0.1, worker_num=1, fault_budget=0)
    manager.launch()
    manager._crew.step_timeout_s = 0.3  # starting the processes may take longer
    pids = manager.pid
    assert len(set(pids)) == 1
    with pytest.raises(EnvFault, match=message) as caught:
        while True:
            lanes = manager.ready_block().lane_id
            manager.step_block(zeros(len(lanes)), lanes)
    assert str(caught.value).startswith(f"env 1 (pid {pids[0]}, which also runs envs 0, 2) ")
    assert caught.value.env_id == 1
    assert is_gone(pids[0])


def test_the_limit_is_that_of_each_env_of_a_worker():
    with SyncSubprocessEnvManager(SlowEnv, counters(6), 6, worker_num=1) as manager:
        manager.launch()
        # Starting the processes may take longer. Six steps take 1.2 s, twice the limit and its overtime.
        manager._crew.step_timeout_s = manager._crew.reset_timeout_s = 0.3
        block = manager.step_block(zeros(6), np.arange(6))
        assert block.obs[:, 2].tolist() == [1] * 6


def test_one_message_per_worker_and_step():
    with SyncSubprocessEnvManager(CounterEnv, counters(5, length=1000), 5, worker_num=2) as manager:
        manager.launch()
        assert [worker.env_ids for worker in manager._crew.workers] == [[0, 1, 2], [3, 4]]
        sent = []
        for worker in manager._crew.workers:
            worker.sock = Overheard(worker.sock, sent)
        manager.step_block(zeros(5), np.arange(5))
        manager.step_block(zeros(3), np.array([4, 2, 0]))
        assert [len(message) for message in sent] == [8, 8, 8 + 8, 8 + 16]  # header, ids of some lanes
        assert manager.actions == [[0, 0], [0], [0, 0], [0], [0, 0]]


class Overheard:
    """A socket whose messages are written down."""

    def __init__(self, sock, sent):
        self._sock, self._sent = sock, sent

    def sendall(self, message):
        self._sent.append(message)
        self._sock.sendall(message)

    def __getattr__(self, name):
        return getattr(self._sock, name)


def test_a_worker_takes_up_what_was_sent_meanwhile(tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    configs = counters(3, length=50)
    configs[0] |= {"gate": str(gate)}
    with SubprocessEnvManager(GateEnv, configs, 3, wait_num=1, worker_num=2) as manager:  # lanes 0 and 1 share one
        manager.launch()
        assert manager.step_block(zeros(2), np.array([0, 2])).lane_id.tolist() == [2]
        assert manager.step_block(zeros(2), np.array([1, 2])).lane_id.tolist() == [2]
        gate.write_text("go")
        taken = {0: 1, 1: 1, 2: 2}
        while set(manager.ready_block().lane_id.tolist()) != {0, 1, 2}:
            block = manager.step_block(zeros(0), [])
            assert block.obs.tolist() == [[i, 0, taken[i]] for i in block.lane_id.tolist()]


def test_asynchronous_lanes_go_at_their_own_pace(tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    configs = counters(3, length=50)
    configs[0] |= {"gate": str(gate)}
    with SubprocessEnvManager(GateEnv, configs, 3, wait_num=2) as manager:
        manager.launch()
        taken = [0, 0, 0]
        block = manager.step_block(zeros(3), np.arange(3))
        for _ in range(10):
            assert 0 not in block.lane_id and block.lane_id.tolist() == sorted(block.lane_id.tolist())
            for lane, obs in zip(block.lane_id.tolist(), block.obs, strict=True):
                taken[lane] += 1
                assert obs.tolist() == [lane, 0, taken[lane]]
            ready = manager.ready_block()
            assert 0 not in ready.lane_id
            assert ready.obs.tolist() == [[i, 0, taken[i]] for i in ready.lane_id]
            block = manager.step_block(zeros(len(ready.lane_id)), ready.lane_id)
        with pytest.raises(SpecError, match=r"the lanes \[0\] cannot act: their last steps have not come back"):
            manager.step_block(zeros(1), [0])
        gate.write_text("go")
        late = manager.step_block(zeros(0), [])
        while 0 not in late.lane_id:
            late = manager.step_block(zeros(0), [])
        assert late.obs[late.lane_id == 0].tolist() == [[0, 0, 1]]


def test_a_state_with_lanes_in_flight_delivers_them_later(tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    configs = counters(2, length=2)
    configs[1] |= {"gate": str(gate), "gate_step": 2}
    with SubprocessEnvManager(GateEnv, configs, 2, wait_num=1) as manager:
        manager.launch()
        while manager.ready_block().obs[:, 2].tolist() != [1, 1]:
            waiting = [i for i, obs in zip(*manager.ready_block(), strict=True) if obs[2] == 0]
            manager.step_block(zeros(len(waiting)), waiting)
        assert manager.step_block(zeros(2), np.arange(2)).lane_id.tolist() == [0]
        opener = subprocess.Popen([sys.executable, "-c", f"open({str(gate)!r}, 'w')"])
        saved = manager.state_dict()  # waits for lane 1
        opener.wait()
        assert [lane["delivered"] for lane in saved["lanes"]] == [True, False]

        def rest(of):
            assert of.ready_block().lane_id.tolist() == [0]
            return of.step_block(zeros(0), [])

        original = rest(manager)
    with SubprocessEnvManager(CounterEnv, configs, 2, wait_num=1) as fresh:
        fresh.load_state_dict(saved)
        restored = rest(fresh)
        assert restored.lane_id.tolist() == original.lane_id.tolist() == [1]
        assert restored.obs.tolist() == original.obs.tolist() == [[1, 0, 2]]
        assert restored.terminated.all() and original.terminated.all() and restored.valid.all()
        assert restored.episode_return.tolist() == [3.0] and restored.info == original.info


def run_script(folder, text, *args, **options):
    script = Path(folder) / "script.py"
    script.write_text(textwrap.dedent(text))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return subprocess.Popen([sys.executable, str(script), *args], env=env, stdout=subprocess.PIPE, text=True, **options)


def test_a_script_needs_no_main_guard_and_its_env_class_may_stand_in_it(tmp_path):
    process = run_script(
        tmp_path,
        """
        import numpy as np
        from manager_envs import CounterEnv
        from nervex.worker.actor.env_manager import SyncSubprocessEnvManager

        SCALE = 10

        class MyEnv(CounterEnv):
            def _obs(self):
                return super()._obs() * np.float32(SCALE)

        manager = SyncSubprocessEnvManager(MyEnv, [{"env": 1}], 1)
        manager.launch()
        print(manager.step_block(np.array([0]), [0]).obs.tolist())
        """,
    )
    assert process.communicate(timeout=LIMIT_S)[0] == "[[10.0, 0.0, 10.0]]\n"
    assert process.returncode == 0


def test_an_env_in_a_file_loaded_by_its_path(tmp_path):
    file = tmp_path / "my_env.py"
    file.write_text(
        "from manager_envs import CounterEnv\n\nOFFSET = 5\n\n\n"
        "class Base(CounterEnv):\n    def close(self):\n        pass\n\n\n"
        "class MyEnv(Base):\n    def reset(self):\n        self.step_count = OFFSET\n        return super()._obs()\n"
    )
    (module,) = import_names([str(file)], "env.import_names")
    with SyncSubprocessEnvManager(module.MyEnv, counters(1), 1) as manager:
        manager.launch()
        assert manager.ready_block().obs.tolist() == [[0, -1, 5]]
    del sys.modules[module.__name__]


def test_an_env_that_cannot_be_loaded_in_the_worker():
    with SyncSubprocessEnvManager(Unloadable(), counters(1), 1) as manager:
        with pytest.raises(EnvFault, match="the env cannot be loaded in a worker process: ImportError: only here"):
            manager.launch()


def test_nothing_survives_a_parent_that_is_killed_also_of_replaced_workers(tmp_path):
    process = run_script(
        tmp_path,
        """
        import os
        import numpy as np
        from manager_envs import FaultEnv
        from nervex.worker.actor.env_manager import SubprocessEnvManager

        configs = [{"env": i, "fault": "hang"} for i in range(2)]
        manager = SubprocessEnvManager(FaultEnv, configs, 2, wait_num=2)
        manager.launch()
        lost = manager.pid[0]
        os.kill(lost, 9)
        print(lost, *manager.pid, *open("/proc/self/task/%d/children" % os.getpid()).read().split(), flush=True)
        while True:
            lanes = manager.ready_block().lane_id
            manager.step_block(np.zeros(len(lanes), np.int64), lanes)
        """,
        stderr=subprocess.DEVNULL,  # the warning of the fault
    )
    lost, *pids = [int(p) for p in process.stdout.readline().split()]
    assert is_gone(lost) and lost not in pids and len(pids) == 3 and not any(is_gone(pid) for pid in pids)
    process.kill()
    process.wait()
    process.stdout.close()
    wait_until(lambda: all(is_dead(pid) for pid in pids))


def test_a_forgotten_manager_is_freed():
    manager = SyncSubprocessEnvManager(CounterEnv, counters(1), 1)
    manager.launch()
    (pid,) = manager.pid
    del manager
    gc.collect()
    assert is_gone(pid)
