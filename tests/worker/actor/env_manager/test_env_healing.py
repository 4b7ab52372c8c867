"""Envs that fail are replaced: what becomes of their episode, of their neighbors, and of the manager."""

import copy
import os
import re
import signal

import numpy as np
import pytest
from manager_envs import CounterEnv, HealingEnv, NeverAgainEnv
from test_env_processes import counters, in_use, is_gone, zeros

from nervex.envs.base_env import spec_tree
from nervex.utils.errors import ConfigError, EnvFault
from nervex.worker.actor.env_manager import fault_budget as budget_module
from nervex.worker.actor.env_manager.blocks import Blocks
from nervex.worker.actor.env_manager.crew import Crew
from nervex.worker.actor.env_manager.env_runner import episode_seed
from nervex.worker.actor.env_manager.fault_budget import FaultBudget
from nervex.worker.actor.env_manager.registry import create_env_manager
from nervex.worker.actor.env_manager.step_clock import StepClock

IN_PROCESS = {
    "raise": r"env 1 raised ZeroDivisionError in step\(\): the physics exploded \[",
    "nan": r"env 1 sent obs with nan at index \[1\]",
    "shape": r"env 1 sent obs float32 \[5\], its info says float32 \[3\]",
    "dtype": r"env 1 sent obs float64 \[3\], its info says float32 \[3\]",
    "nan reward": r"env 1 sent reward nan",
    "nan return": r"env 1 sent info\['final_eval_reward'\] nan",
}
OF_A_PROCESS = {
    "kill": r"env 1 \(pid \d+.*\) died with signal 9 at episode 1 step 2",
    "exit": r"env 1 \(pid \d+.*\) exited with code 7 at episode 1 step 2",
    "stop": r"env 1 \(pid \d+.*\) has not answered for 0.3 s at episode 1 step 2",
    "hang": r"env 1 \(pid \d+.*\) has not answered for 0.3 s at episode 1 step 2",
}
KINDS = ("sync_subprocess", "subprocess")
CASES = [("base", fault) for fault in IN_PROCESS]
CASES += [("sync_subprocess", fault) for fault in ("raise", "nan", "nan return", *OF_A_PROCESS)]
CASES += [("subprocess", fault) for fault in ("raise", "nan", "kill", "hang")]


@pytest.fixture(autouse=True)
def nothing_left():
    before = in_use()
    yield
    assert in_use() == before


def build(kind, fault, num=3, worker_num=None, env=HealingEnv, **options):
    """A manager whose env 1 has a fault in step 2 of its episode 1; it goes in step."""
    options["close_timeout_s"] = 0.1
    if kind == "base":
        del options["close_timeout_s"]
    else:
        options["worker_num"] = worker_num or num
    if kind == "subprocess":
        options["wait_num"] = num
    manager = create_env_manager(kind, env, counters(num, fault=fault, bad_seed=episode_seed(11, 1)), **options)
    manager.seed(10)
    manager.launch()
    if kind != "base":
        manager._crew.step_timeout_s = 0.3  # starting the processes may take longer
    return manager


def all_rows(manager, steps):
    """Steps all lanes and returns what each got: (episode, step, valid) of every row, the episode by its seed."""
    rows = [[] for _ in range(manager.env_num)]
    number = {(i, episode_seed(10 + i, k) % 2**20): k for i in range(manager.env_num) for k in range(20)}
    for _ in range(steps):
        block = manager.step_block(zeros(manager.env_num), np.arange(manager.env_num))
        assert not (block.terminated & ~block.valid).any() and not block.reward[~block.valid].any()
        for i, obs, valid in zip(block.lane_id.tolist(), block.obs, block.valid.tolist(), strict=True):
            assert obs[0] == i
            rows[i].append((number[i, int(obs[1])], int(obs[2]), valid))
    return rows


# Episodes of 3 steps. Lane 1 stops after step 1 of episode 1; the row after that begins episode 2.
EPISODE = [(1, True), (2, True), (3, True)]
HEALTHY = [(k, s, v) for k in range(3) for s, v in [*([(0, False)] if k else []), *EPISODE]][:10]
BROKEN = [(0, 1, True), (0, 2, True), (0, 3, True), (1, 0, False), (1, 1, True), (2, 0, False), (2, 1, True),
          (2, 2, True), (2, 3, True), (3, 0, False)]  # fmt: skip


@pytest.mark.parametrize(("kind", "fault"), CASES)
def test_a_fault_costs_one_env_its_episode(kind, fault, caplog):
    step_fault = fault != "nan return"  # that one comes with the last step
    with build(kind, fault) as manager:
        pids = manager.pid
        rows = all_rows(manager, 10)
        assert rows[0] == rows[2] == HEALTHY
        last = [(1, 2, True)]
        assert rows[1] == (BROKEN if step_fault else [*BROKEN[:5], *last, (2, 0, False), *BROKEN[6:9]])
        assert manager.fault_count == 1
        is_new = [new != old for new, old in zip(manager.pid, pids, strict=True)]
        assert is_new == [False, fault in OF_A_PROCESS, False]
        assert fault not in OF_A_PROCESS or is_gone(pids[1])
        assert manager.seeds[1][-1] == episode_seed(11, rows[1][-1][0])
    (record,) = [r for r in caplog.records if r.levelname == "WARNING"]
    text = record.getMessage()
    assert re.match({**IN_PROCESS, **OF_A_PROCESS}[fault], text)
    assert "episode 1" in text and f"step {2 if step_fault else 3}" in text
    assert "episode cut off there (fault 1" in text
    if fault == "raise":
        assert 'raise ZeroDivisionError("the physics exploded")' in text


@pytest.mark.parametrize("fault", ["raise", "nan", "kill", "hang"])
def test_neighbors_in_the_same_process(fault):
    with build("sync_subprocess", fault, worker_num=1) as manager:
        pids = manager.pid
        rows = all_rows(manager, 10)
        if fault in OF_A_PROCESS:  # they share its fate, at their last delivered rows
            assert rows == [BROKEN] * 3
            assert all(is_gone(pid) for pid in pids) and len(set(manager.pid)) == 1
        else:
            assert rows == [HEALTHY, BROKEN, HEALTHY]
            assert manager.pid == pids
        assert manager.fault_count == 1


@pytest.mark.parametrize(("kind", "how"), [*((kind, signal.SIGKILL) for kind in KINDS), (KINDS[0], signal.SIGSTOP)])
def test_a_process_that_is_lost_between_two_steps(kind, how):
    with build(kind, None) as manager:
        all_rows(manager, 2)
        os.kill(manager.pid[1], how)
        rows = all_rows(manager, 2)
        assert rows == [[(0, 3, True), (1, 0, False)], [(1, 0, False), (1, 1, True)], [(0, 3, True), (1, 0, False)]]


def test_a_process_that_is_lost_while_its_env_awaits_the_reset():
    with build("sync_subprocess", None) as manager:
        all_rows(manager, 3)
        os.kill(manager.pid[1], signal.SIGKILL)
        assert all_rows(manager, 2) == [[(1, 0, False), (1, 1, True)]] * 3


def test_an_asynchronous_manager_serves_the_others_meanwhile():
    configs = counters(2, fault="hang", bad_seed=episode_seed(11, 0), length=1000)
    manager = create_env_manager("subprocess", HealingEnv, configs, wait_num=1, close_timeout_s=0.1)
    with manager:
        manager.seed(10)
        manager.launch()
        manager._crew.step_timeout_s = 0.3
        rows = {0: [], 1: []}
        while len(rows[1]) < 2:
            lanes = manager.ready_block().lane_id
            block = manager.step_block(zeros(len(lanes)), lanes)
            for lane, obs in zip(block.lane_id.tolist(), block.obs.tolist(), strict=True):
                rows[lane].append(obs)
        assert len(rows[0]) > 10 and manager.fault_count == 1
        assert rows[1] == [[1, episode_seed(11, 0) % 2**20, 1], [1, episode_seed(11, 1) % 2**20, 0]]


@pytest.mark.parametrize("kind", ["base", "sync_subprocess"])
def test_what_cannot_be_built_again_uses_the_budget_up(kind):
    most = 4 if kind == "base" else 3
    configs = counters(3, fault="raise", bad_seed=episode_seed(11, 1), most=most)
    NeverAgainEnv.built = 0
    options = {} if kind == "base" else {"worker_num": 1}
    with create_env_manager(kind, NeverAgainEnv, configs, fault_budget=3, **options) as manager:
        manager.seed(10)
        manager.launch()
        with pytest.raises(EnvFault) as caught:
            all_rows(manager, 10)
        assert str(caught.value).startswith("env 1 raised OSError in its constructor: no such map [")
        assert str(caught.value).endswith(
            "; this was fault 4 within 600 s, env.manager.fault_budget allows 3; mend the env, or raise fault_budget"
        )
        with pytest.raises(EnvFault, match="does not run: it was closed after EnvFault"):
            manager.ready_block()


def test_the_budget_is_a_rate(monkeypatch, caplog):
    now = [100.0]
    monkeypatch.setattr(budget_module.time, "monotonic", lambda: now[0])
    budget = FaultBudget(2, 10.0)
    for at in (0, 1, 11.5, 12, 23, 23, 34, 40, 45):  # never three within 10 s
        now[0] = 100.0 + at
        budget.spend(EnvFault("env 0 failed", 0, 3))
    assert budget.count == 9
    shown = [r.getMessage().split("(")[1] for r in caplog.records]
    assert shown == [f"fault {n}; shown next: fault {2 * n})" for n in (1, 2, 4, 8)]
    now[0] += 4.5
    with pytest.raises(EnvFault, match="env 0 failed; this was fault 3 within 10 s") as caught:
        budget.spend(EnvFault("env 0 failed", 0, 3))
    assert (caught.value.env_id, caught.value.step, budget.count) == (0, 3, 9)
    with pytest.raises(EnvFault, match=r"^env 0 failed$"):
        FaultBudget(0, 10.0).spend(EnvFault("env 0 failed", 0, 3))


def test_wrong_budgets():
    with pytest.raises(ConfigError, match="fault_budget of an env manager is -1, expected 0 or more"):
        create_env_manager("base", CounterEnv, counters(1), fault_budget=-1)
    with pytest.raises(ConfigError, match="fault_window_s of an env manager is 0, expected a number above 0"):
        create_env_manager("base", CounterEnv, counters(1), fault_window_s=0)


@pytest.mark.parametrize("kind", ["sync_subprocess"])
def test_new_seeds_reach_an_env_whose_process_is_lost(kind):
    with build(kind, None) as manager:
        all_rows(manager, 5)
        os.kill(manager.pid[2], signal.SIGKILL)
        manager.seed(40)
        os.kill(manager.pid[0], signal.SIGKILL)
        manager.reset({2: {"level": 3}})
        expected = [[i, episode_seed(40 + i, 0) % 2**20, 0] for i in range(3)]
        assert manager.ready_block().obs.tolist() == expected
        os.kill(manager.pid[2], signal.SIGKILL)
        block = manager.step_block(zeros(3), np.arange(3))
        assert block.obs[2].tolist() == [2, episode_seed(42, 1) % 2**20, 0] and manager.params[2] == [{"level": 3}]


@pytest.mark.parametrize(
    ("kind", "awaits"), [("sync_subprocess", False), ("sync_subprocess", True), ("subprocess", False)]
)
def test_a_state_that_is_saved_over_a_lost_process(kind, awaits):
    """The lane's episode cannot be brought back; that it was cut off is still told after the state is loaded."""
    with build(kind, None) as manager:
        all_rows(manager, 3 if awaits else 2)
        before = manager.ready_block().obs.copy()
        os.kill(manager.pid[1], signal.SIGKILL)
        saved = copy.deepcopy(manager.state_dict())
        np.testing.assert_array_equal(manager.ready_block().obs, before)
        expected = all_rows(manager, 9)
        manager.load_state_dict(saved)
        np.testing.assert_array_equal(manager.ready_block().obs, before)
        assert all_rows(manager, 9) == expected
    assert expected[1][:2] == [(1, 0, False), (1, 1, True)]


@pytest.mark.parametrize("kind", ["base", "sync_subprocess"])
def test_a_state_after_a_fault_is_exact(kind):
    with build(kind, "raise") as manager:
        all_rows(manager, 7)
        saved = copy.deepcopy(manager.state_dict())
        expected = all_rows(manager, 9)
        manager.load_state_dict(saved)
        assert all_rows(manager, 9) == expected


def test_the_dict_calls_leave_a_replaced_env_out():
    with build("base", "raise", num=2) as manager:
        for _ in range(3):
            manager.step({0: 0, 1: 0})
        manager.step({0: 0, 1: 0})
        assert list(manager.step({0: 0, 1: 0})) == [0]
        assert manager.next_obs[1].tolist() == [1, episode_seed(11, 2) % 2**20, 0]
        assert list(manager.step({0: 0, 1: 0})) == [0, 1]


def test_a_first_observation_of_a_reset_that_is_not_finite():
    configs = counters(2, fault="nan first", bad_seed=episode_seed(21, 0))
    with create_env_manager("base", HealingEnv, configs) as manager:
        manager.seed(10)
        manager.launch()
        manager.seed(20)
        manager.reset()
        assert manager.ready_block().obs[:, 1].tolist() == [episode_seed(20, 0) % 2**20, episode_seed(21, 1) % 2**20]
        assert manager.fault_count == 1


def test_the_limit_of_a_step_follows_the_measured_times():
    info = CounterEnv({}).info()
    specs = {"obs_spec": spec_tree(info.obs_space), "action_spec": spec_tree(info.act_space, is_action=True)}
    blocks = Blocks(**specs, env_num=2)
    crew = Crew(None, blocks, None, None, None, 60.0)
    assert crew.step_limit == (60.0, "step_timeout_s")  # nothing was measured
    clock = StepClock(blocks, [0, 1])
    for n in range(100):
        blocks.began[:] = [10.0, 10.0 + (0.5 if n == 7 else 0.1)]
        blocks.progress[:, 1] = 1, n % 2  # every second step of env 1 was a reset
        assert clock.due() == (n < 67 or (n + 1) % 8 == 0)
        clock.record([0, 1], float(blocks.began[1]) + (9.0 if n % 2 == 0 else 0.4))
    assert blocks.step_p99.tolist() == pytest.approx([np.quantile([0.1] * 66 + [0.5] + [0.4] * 33, 0.99)] * 2)
    assert crew.step_limit == (pytest.approx(20 * float(blocks.step_p99[0])), "step_timeout_s")
    blocks.step_p99[:] = 0.001
    assert crew.step_limit == (5.0, "step_timeout_s")
    crew.step_timeout_s = 2.5
    assert crew.step_limit == (2.5, "step_timeout_s")


def test_workers_measure_their_steps():
    with build("sync_subprocess", None, num=2, worker_num=1) as manager:
        all_rows(manager, 72)
        assert 0 < manager._blocks.step_p99.min() < 1


class NeverBeginsEnv(CounterEnv):
    """Begins its first episode, and raises or dies in every reset of env 1 once a file is there."""

    def reset(self, **param):
        if self.cfg["env"] == 1 and self.cfg["file"].exists():
            if self.cfg["fault"] == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError("the server is gone")
        return super().reset(**param)


@pytest.mark.parametrize(
    ("kind", "fault"), [("base", "raise"), ("sync_subprocess", "raise"), ("sync_subprocess", "kill")]
)
def test_an_env_that_never_begins_again_is_given_up_however_slowly_it_fails(tmp_path, kind, fault):
    file = tmp_path / "gone"
    configs = [{**cfg, "file": file} for cfg in counters(2, fault=fault)]
    with create_env_manager(kind, NeverBeginsEnv, configs, fault_budget=10**6) as manager:
        manager.launch()
        file.touch()
        with pytest.raises(EnvFault, match="it has failed so 5 times in a row, mend the env"):
            for _ in range(30):
                lanes = manager.ready_block().lane_id
                manager.step_block(zeros(len(lanes)), lanes)
        assert 5 <= manager.fault_count <= 6
