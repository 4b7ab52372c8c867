"""Which env manager is picked, and what the measurement leaves alone. Times are given, never taken from a clock."""

import logging
import random

import numpy as np
import pytest
from list_vector import vectored
from manager_envs import CounterEnv, FaultEnv, NestedEnv, SlowEnv

from nervex.envs.base_env import EnvElementInfo
from nervex.utils.errors import ConfigError
from nervex.worker.actor.env_manager import BaseEnvManager, SyncSubprocessEnvManager
from nervex.worker.actor.env_manager import auto as auto_module
from nervex.worker.actor.env_manager.auto import measured_step, pick_env_manager
from nervex.worker.actor.env_manager.registry import create_env_manager, settled_manager


def counters(num, **cfg):
    return [{"env": i, **cfg} for i in range(num)]


def pick(step_s, num=8, **options):
    return pick_env_manager(CounterEnv, counters(num), time_step=lambda env_fn, cfg: (step_s, 100), **options)


@pytest.mark.parametrize(
    ("step_s", "num", "cores", "kind"),
    [
        (7e-6, 8, 2, "base"),  # 56 in turn, 228 in two processes
        (35e-6, 8, 2, "base"),  # 280 against 340
        (100e-6, 8, 2, "base"),  # 800 against 600: not worth two processes
        (1e-3, 8, 2, "sync_subprocess"),
        (1e-3, 8, 1, "base"),
        (1e-3, 1, 64, "base"),
        (40e-6, 64, 8, "sync_subprocess"),  # 2560 against 1120
        (40e-6, 8, 8, "base"),  # 320 against 840
    ],
)
def test_the_cheaper_one_is_picked(step_s, num, cores, kind):
    assert pick(step_s, num, cores=cores).kind == kind


def test_the_reason_says_what_was_measured():
    assert pick(7.25e-6, cores=2).reason == (
        "a step takes 7.2 µs (median of 100): 8 envs one after the other take 58.0 µs, in 2 worker processes about "
        "229 µs"
    )
    assert pick(1e-3, worker_num=4, cores=4).reason.endswith("8,000 µs, in 4 worker processes about 2,400 µs")
    assert pick(1e-3, cores=1).reason == "there is nothing to share among processes with 8 env(s) on 1 core(s)"


def test_more_workers_than_cores_are_no_faster():
    assert pick(1e-3, worker_num=8, cores=2).reason.endswith("in 8 worker processes about 4,800 µs")


@pytest.mark.parametrize(("exact", "kind"), [(True, "vector"), (False, "base"), (None, "base")])
def test_a_vector_is_taken_only_where_it_is_exact(exact, kind):
    class Env(vectored(CounterEnv)):
        if exact is not None:

            @classmethod
            def exact_vector(cls, cfgs):
                assert [cfg["env"] for cfg in cfgs] == [0, 1]
                return exact

    assert pick_env_manager(Env, counters(2), cores=1).kind == kind


class Recording(NestedEnv):
    """Writes down what becomes of its instances, and draws from the global generators."""

    log = []

    def seed(self, seed):
        random.random()
        np.random.rand()
        self.log.append("seed")

    def step(self, action):
        assert action["move"].min() >= -1 and action["move"].max() <= 1 and 0 <= action["key"] < 4
        self.log.append("step")
        return super().step(action)

    def close(self):
        self.log.append("close")


def test_the_trial_leaves_nothing_behind():
    Recording.log.clear()
    cfg = {"env": 0, "length": 2}
    before = random.getstate(), np.random.get_state()[1].tolist()
    seconds, count = measured_step(Recording, cfg)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    assert cfg == {"env": 0, "length": 2}
    assert seconds > 0 and count >= 3
    assert Recording.log.count("close") == 2 and Recording.log[-1] == "close"
    assert Recording.log.count("seed") >= 2  # it went on through ends of episodes


def test_a_slow_env_is_stepped_a_few_times(monkeypatch):
    monkeypatch.setattr(auto_module, "_BUDGET_S", 1e-3)
    seconds, count = measured_step(SlowEnv, {"sleep_s": 0.002})
    assert count == 3 and seconds >= 0.002


class MaskedEnv(CounterEnv):
    """Only every second action is allowed."""

    def __init__(self, cfg):
        super().__init__(cfg)
        flag = EnvElementInfo(6, {"dtype": np.bool_, "kind": "box"})
        self.obs_info = {"state": self.obs_info, "action_mask": flag}
        self.act_info = EnvElementInfo(cfg["actions"], {"dtype": np.int64, **cfg.get("kind", {})})

    def _obs(self):
        return {"state": super()._obs().copy(), "action_mask": np.arange(6) % 2 == 0}

    def step(self, action):
        assert (np.asarray(action) % 2 == 0).all()
        return super().step(action)


@pytest.mark.parametrize("cfg", [{"actions": 6}, {"actions": (4, 2), "kind": {"kind": "multi_discrete"}}])
def test_the_trial_takes_allowed_actions(cfg, monkeypatch):
    monkeypatch.setattr(auto_module, "_BUDGET_S", 0.3)  # steps enough on any machine
    assert measured_step(MaskedEnv, cfg)[1] > 20


def test_an_env_that_fails_is_left_to_the_run():
    configs = [{"env": 1, "fault": "raise in step"}, {"env": 0, "fault": ""}]
    choice = pick_env_manager(FaultEnv, configs, cores=2)
    assert choice.kind == "base"
    assert choice.reason.startswith("a trial env failed, so that nothing was measured: env 0 raised ZeroDivisionError")
    choice = pick_env_manager(CounterEnv, [{"env": 1, "fault": "constructor"}] * 2, cores=2)
    assert choice.reason.endswith("a trial env raised OSError: no such map")


@pytest.mark.parametrize(("step_s", "manager_class"), [(1e-6, BaseEnvManager), (1e-2, SyncSubprocessEnvManager)])
def test_auto_is_a_manager_that_says_what_it_is(monkeypatch, caplog, step_s, manager_class):
    monkeypatch.setattr(auto_module, "usable_cores", lambda: 2)
    monkeypatch.setattr(auto_module, "measured_step", lambda env_fn, cfg: (step_s, 7))
    with caplog.at_level(logging.INFO, "nervex"):
        manager = create_env_manager("auto", CounterEnv, counters(4), worker_num=2, step_timeout_s=9)
    assert type(manager) is manager_class and manager._step_timeout_s == 9
    (record,) = caplog.records
    kind = "base" if manager_class is BaseEnvManager else "sync_subprocess"
    assert record.getMessage().startswith(f"env manager auto: {kind}, since a step takes ")


def test_options_are_those_of_some_kind():
    options = {"worker_num": 2, "step_timeout_s": 5}
    assert settled_manager(CounterEnv, counters(2), options, "base") == ("base", {"step_timeout_s": 5})
    assert settled_manager(CounterEnv, counters(2), options, "sync_subprocess") == ("sync_subprocess", options)
    with pytest.raises(ConfigError, match=r"env manager 'auto' has no option 'worker_nun' .*; did you mean"):
        settled_manager(CounterEnv, counters(2), {"worker_nun": 2})
