"""What an env manager says when an env raises or sends what its info does not declare, and nothing is mended."""

import traceback

import numpy as np
import pytest
from manager_envs import CounterEnv, FaultEnv, ForgetfulEnv

from nervex.utils.errors import EnvFault
from nervex.worker.actor.env_manager.registry import create_env_manager


def counters(num, **cfg):
    return [{"env": i, **cfg} for i in range(num)]


def zeros(num):
    return np.zeros(num, np.int64)


STEP_FAULTS = {
    "raise in step": "env 1 raised ZeroDivisionError in step(): the physics exploded [",
    "wrong shape": "env 1 sent obs float32 [5], its info says float32 [3]; reshape it in the env or correct info()",
    "wrong dtype": "env 1 sent obs float64 [3], its info says float32 [3]; cast it in the env or correct info()",
    "nan obs": "env 1 sent obs with nan at index [1], expected finite numbers",
    "nan reward": "env 1 sent reward nan, expected a finite float32 number",
    "huge reward": "env 1 sent reward 1e+300, expected a finite float32 number",
    "reward vector": "env 1 sent reward float64 [2], expected a finite float32 number",
    "five values": "env 1 returned 5 values of types (ndarray, float, bool, bool, dict) from step(); return BaseEnvT",
    "info is a list": "env 1 returned 4 values of types (ndarray, float, bool, list) from step()",
    "done without reason": "env 1 sent done=False with terminated=False and truncated=True in its info",
    "odd done": "env 1 sent done 'yes', expected True or False",
}
RESET_FAULTS = {
    "raise in reset": "env 1 raised KeyError in reset(): 'lost level' [",
    "reset gives (obs, info)": "env 1 returned a tuple (obs, info) from reset(); return the observation alone",
    "reset gives a timestep": "env 1 returned a timestep from reset(); return the observation alone",
    "reset gives nothing": "env 1 sent obs object [], its info says float32 [3]",
}


def run_into_fault(manager):
    manager.launch()
    with pytest.raises(EnvFault) as caught:
        for _ in range(10):
            manager.step_block(zeros(2), np.arange(2))
    with pytest.raises(EnvFault, match="the env manager does not run: it was closed after EnvFault"):
        manager.step_block(zeros(2), np.arange(2))
    return caught.value


@pytest.mark.parametrize("kind", ["base", "sync_subprocess"])
@pytest.mark.parametrize("fault", [*STEP_FAULTS, *RESET_FAULTS])
def test_faults_say_who_where_and_what(kind, fault):
    with create_env_manager(kind, FaultEnv, counters(2, fault=fault), fault_budget=0) as manager:
        error = run_into_fault(manager)
    step = 2 if fault in STEP_FAULTS else 0
    assert str(error).startswith({**STEP_FAULTS, **RESET_FAULTS}[fault])
    assert str(error).endswith(f"(episode 1, step {step})")
    assert (error.env_id, error.step) == (1, step)


def test_the_original_traceback_is_shown(make):
    error = run_into_fault(make(FaultEnv, counters(2, fault="raise in step"), fault_budget=0))
    text = "".join(traceback.format_exception(error))
    assert 'raise ZeroDivisionError("the physics exploded")' in text
    assert "manager_envs.py" in str(error)


def test_a_constructor_that_raises(make):
    manager = make(CounterEnv, counters(2, fault="constructor"))
    with pytest.raises(EnvFault, match=r"env 1 raised OSError in its constructor: no such map \["):
        manager.launch()
    with pytest.raises(EnvFault, match="does not run"):
        manager.ready_block()


def test_missing_key_of_an_observation(make):
    manager = make(ForgetfulEnv, counters(1, length=9), fault_budget=0)
    manager.launch()
    action = {"key": zeros(1), "move": np.zeros((1, 2), np.float32)}
    manager.step_block(action, [0])
    with pytest.raises(
        EnvFault, match=r"env 0 sent obs.unit with the keys \['position'\], its info says a dict of \['kin"
    ):
        manager.step_block(action, [0])


class ImpatientEnv(CounterEnv):
    """Is interrupted from the keyboard in its second step."""

    def step(self, action):
        if self.step_count == 1:
            raise KeyboardInterrupt
        return super().step(action)


def test_an_interrupted_step_closes_the_manager(tmp_path):
    closed = tmp_path / "closed"
    manager = create_env_manager("base", ImpatientEnv, counters(2, closed_file=str(closed)))
    manager.launch()
    manager.step_block(zeros(2), np.arange(2))
    with pytest.raises(KeyboardInterrupt):
        manager.step_block(zeros(2), np.arange(2))
    assert closed.read_text().count("closed") == 3
    with pytest.raises(EnvFault, match="it was closed after KeyboardInterrupt"):
        manager.state_dict()
