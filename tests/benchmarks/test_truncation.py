"""The learned value of the state before a time limit is the bootstrapped one; before a termination it is not."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

PATH = Path(__file__).resolve().parents[2] / "benchmarks" / "truncation.py"


@pytest.fixture(scope="module")
def truncation() -> ModuleType:
    sys.path.insert(0, str(PATH.parent))  # as for a script
    spec = importlib.util.spec_from_file_location("truncation", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules["truncation"] = module
    spec.loader.exec_module(module)
    sys.path.remove(str(PATH.parent))
    return module


def check(truncation: ModuleType, policy: str, convention: str, end: str) -> None:
    found = truncation.row(policy, convention, end, truncation.learned(policy, convention, end))
    assert found["right"], found


FAST = [
    ("dqn", "SAME_STEP", "truncated"),
    ("dqn", "DISABLED", "terminated"),
    ("a2c", "NEXT_STEP", "truncated"),
    ("ddpg", "single env", "truncated"),
]


@pytest.mark.parametrize(("policy", "convention", "end"), FAST)
def test_values_before_an_end(truncation, policy, convention, end):
    check(truncation, policy, convention, end)


@pytest.mark.slow
@pytest.mark.parametrize("end", ["truncated", "terminated"])
@pytest.mark.parametrize("convention", ["single env", "NEXT_STEP", "SAME_STEP", "DISABLED"])
@pytest.mark.parametrize("policy", ["dqn", "rainbow_dqn", "r2d2", "a2c", "ppo", "impala", "ddpg", "td3", "sac"])
def test_values_of_every_policy_before_every_end(truncation, policy, convention, end):
    check(truncation, policy, convention, end)


def test_the_expected_values(truncation):
    truncated, terminated = truncation.expected("truncated"), truncation.expected("terminated")
    assert truncated == pytest.approx(np.arange(4) + 0.8 * np.roll(truncated, -1))  # the ring goes on
    assert terminated[1:] == pytest.approx([1 + 0.8 * 2 + 0.64 * 3, 2 + 0.8 * 3, 3])
    assert (truncated[1:] - terminated[1:] > 3 * truncation.TOLERANCE).all()  # no value passes for the other


@pytest.mark.parametrize("convention", ["NEXT_STEP", "SAME_STEP", "DISABLED"])
def test_the_last_observation_is_the_final_one(truncation, convention):
    """Whatever the convention, the state of a row follows from the one before; the next episode comes a row later."""
    mode = truncation.AutoresetMode[convention]
    lanes = truncation.RingLanes(mode, 2, {"end": "truncated"})
    out, act = np.zeros((2, 4), np.float32), np.full(2, truncation.ACT)
    lane_id = np.arange(2)
    lanes.reset(np.array([3, 4]), out)
    for _ in range(4):
        state = out.argmax(1)
        for t in range(3):
            step = lanes.step(np.zeros(2, np.int64), lane_id, act, out)
            assert (step.reward == state).all()
            state = (state + 1) % 4
            assert (out.argmax(1) == state).all()
            assert (step.truncated == (t == 2)).all() and not step.terminated.any()
        step = lanes.step(np.zeros(2, np.int64), lane_id, np.array([5, 6]), out)
        assert not step.truncated.any() and not step.reward.any()
    lanes.close()
