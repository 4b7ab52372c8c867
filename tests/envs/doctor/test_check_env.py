"""The doctor finds every fault by its kind, and finds none in correct envs, however odd."""

import random
import signal

import gymnasium
import numpy as np
import pytest
from base_envs import BASES, Corridor
from doctor_envs import WALKS, Hangs, Walk
from odd_envs import CORRECT, INSIDE

from nervex.envs import Limits, check_env
from nervex.envs.doctor import examine_env
from nervex.envs.doctor.check import PROBES
from nervex.utils.errors import ConfigError

LIMITS = Limits(time_s=120, step=2000)  # the steps are the limit: what is tried does not hang on the machine's load


def found(env, cfg=None, limits=LIMITS):
    return {finding.kind: finding for finding in check_env(env, cfg, limits)}


@pytest.mark.parametrize(("kind", "level", "env"), WALKS + BASES + INSIDE, ids=lambda v: getattr(v, "__name__", str(v)))
def test_a_fault_is_found(kind, level, env):
    findings = found(env)
    assert kind in findings, list(map(str, findings.values()))
    assert findings[kind].level == level
    assert "\n" not in str(findings[kind]) and findings[kind].fix


@pytest.mark.parametrize("env", [*CORRECT, Corridor], ids=lambda env: env.__name__)
def test_a_correct_env_gets_notes_at_most(env):
    findings = [finding for finding in check_env(env, limits=LIMITS) if finding.level != "note"]
    assert not findings, list(map(str, findings))


def test_a_hanging_env_is_left():
    before = signal.getsignal(signal.SIGALRM)
    finding = found(Hangs, limits=Limits(step=500, call_s=0.3))["hangs"]
    assert finding.what.startswith("step(") and finding.level == "error"
    assert signal.getsignal(signal.SIGALRM) is before and signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_global_generators_come_back():
    np.random.seed(5)
    random.seed(5)
    expected = np.random.get_state()[1].copy(), random.getstate()
    found(next(env for kind, _, env in WALKS if kind == "global-random"))
    assert (np.random.get_state()[1] == expected[0]).all() and random.getstate() == expected[1]


def test_steps_are_limited_and_what_was_left_out_is_said():
    diagnosis = examine_env(Walk, limits=Limits(step=60))
    skipped = next(finding for finding in diagnosis.findings if finding.kind == "skipped")
    assert "shared_state" in skipped.what and "60 steps" in skipped.what
    played = int(diagnosis.summary[0].split()[1])
    assert played <= 60


def test_time_is_limited():
    findings = found(Walk, limits=Limits(time_s=0.0))
    assert "same_seed" in findings["skipped"].what  # all that needs new envs


@pytest.mark.parametrize("wrapped", [False, True])
def test_what_may_be_given(wrapped):
    env = gymnasium.wrappers.TimeLimit(Walk(), 20) if wrapped else Walk()
    assert not found(env, limits=Limits(time_s=60, step=1000))
    assert not found(type(env.unwrapped), limits=Limits(time_s=60, step=1000))
    assert not found(Corridor({}), limits=Limits(time_s=60, step=1000))


def test_what_may_not_be_given():
    with pytest.raises(ConfigError, match="did you mean"):
        check_env("CartPol-v1")
    with pytest.raises(ConfigError, match="check_env got a int"):
        check_env(3)


def test_the_text_of_a_finding():
    finding = found(next(env for kind, _, env in WALKS if kind == "obs-bounds"))["obs-bounds"]
    assert str(finding).startswith("error   step() sent in episode 0, step ")
    assert "declared is at" in str(finding) and str(finding).endswith("clip in the env [obs-bounds]")


def test_what_is_printed_is_counted_and_not_kept():
    class Chatty(Walk):
        def step(self, action):
            print("x" * 200)
            return super().step(action)

    findings = found(Chatty)
    assert "prints" in findings and "memory" not in findings  # the checker's own record does not grow
    assert findings["prints"].what.endswith(f"such as '{'x' * 60}'")


def test_a_class_that_cannot_be_sent_is_found_by_what_sends_it():
    def send(value):
        raise TypeError("cannot pickle a connection")

    findings = examine_env(Corridor, {}, LIMITS, send).findings
    assert any(f.kind == "pickle-class" and "cannot pickle a connection" in f.what for f in findings)


def test_every_probe_says_what_it_looks_for():
    assert all(probe.run.__doc__ for probe in PROBES)
