"""The manager of native vectors: the whole contract suite on an engine of plain envs, and what is its own."""

import copy
import inspect

import numpy as np
import pytest
import test_env_manager_contract as contract
import test_env_manager_faults as faults
from list_vector import ListVector, vectored
from manager_envs import CounterEnv, NestedEnv
from pole_env import PoleEnv

from nervex.envs.vector_env import ACT, VectorEnv, VectorStep
from nervex.utils.errors import CheckpointError, ConfigError, EnvFault
from nervex.worker.actor.env_manager import action_log
from nervex.worker.actor.env_manager.env_runner import episode_seed
from nervex.worker.actor.env_manager.registry import create_env_manager


@pytest.fixture
def make():
    made = []

    def build(env_fn, configs, **options):
        manager = create_env_manager("vector", vectored(env_fn), configs, **options)
        made.append(manager)
        return manager

    build.kind = "vector"
    yield build
    for manager in made:
        manager.close()


# Every test of the shared suites that asks for the fixture `make` runs here with the one above.
for _suite in (contract, faults):
    for _name, _test in vars(_suite).items():
        if _name.startswith("test_") and "make" in inspect.signature(_test).parameters:
            globals()[_name] = _test


def step_all(manager, action=0):
    return manager.step_block(np.full(manager.env_num, action), np.arange(manager.env_num))


def test_the_engine_gets_seeds_where_episodes_begin(make):
    manager = make(CounterEnv, [{"env": 0, "length": 1}, {"env": 1, "length": 3}])
    manager.seed(40)
    manager.launch()
    for _ in range(3):
        step_all(manager)
    manager.step_block(np.zeros(1, np.int64), np.array([1]))
    first = episode_seed(40, 1)
    assert manager._blocks.progress.tolist() == [[1, 1], [1, 0]]  # episode, step
    vector = manager._vector
    assert vector.calls == [
        ([0, 1], [ACT] * 2),
        ([0, 1], [first, ACT]),
        ([0, 1], [ACT] * 2),
        ([1], [episode_seed(41, 1)]),
    ]
    assert vector.announced == {0: episode_seed(40, 2), 1: episode_seed(41, 2)}


class LifeVector(VectorEnv):
    """One number per lane, which actions are added to. Three steps are a life, two lives a game."""

    def __init__(self, num):
        self.state, self.clock = np.zeros(num, np.int64), np.zeros(num, np.int64)
        self.over = np.zeros(num, bool)
        self.drift = 0

    def reset(self, seed, out):
        self.state[:], self.clock[:], self.over[:] = seed % 1000, 0, False
        out[:, 0] = self.state

    def step(self, action, lane_id, seed, out):
        begins = seed != ACT
        assert (begins == self.over[lane_id]).all()  # what an ended lane would do with an action is not defined
        fresh = begins & (self.clock[lane_id] == 6)
        self.state[lane_id] += np.where(begins, 0, action) + self.drift
        self.state[lane_id[fresh]], self.clock[lane_id[fresh]] = seed[fresh] % 1000, 0
        self.clock[lane_id] += ~begins
        out[lane_id, 0] = self.state[lane_id]
        ended = ~begins & (self.clock[lane_id] % 3 == 0)
        self.over[lane_id] = ended
        info = {row: {} for row in np.flatnonzero(ended).tolist()}
        score = self.clock[lane_id].astype(float)
        return VectorStep(np.where(begins, 0.0, 1.0), ended, np.zeros_like(ended), score, begins & ~fresh, info)

    def close(self):
        pass


class LifeEnv(CounterEnv):
    """Never stepped: declares what ``LifeVector`` sends."""

    made = []

    @classmethod
    def create_vector(cls, cfgs):
        cls.made.append(LifeVector(len(cfgs)))
        return cls.made[-1]


def lives(seed=5):
    manager = create_env_manager("vector", LifeEnv, [{}, {}])
    manager.seed(seed)
    manager.launch()
    return manager


def test_episodes_that_go_on_in_a_game_are_restored():
    with lives() as manager:
        rng = np.random.default_rng(0)
        begun = manager.ready_block().obs[:, 0].copy()
        rows = []
        for lanes in [[0, 1]] * 6 + [[1]] * 4 + [[0, 1]] * 3:
            rows.append(copy.deepcopy(manager.step_block(rng.integers(0, 2, len(lanes)), np.array(lanes))))
        assert begun.tolist() == [episode_seed(5, 0) % 1000, episode_seed(6, 0) % 1000]
        # of lane 0: three steps, a dummy, two steps; then the third, a dummy of a new game, a step
        assert [row.valid[0] for row in rows[:6] + rows[-3:]] == [True] * 3 + [False] + [True] * 3 + [False, True]
        assert [rows[2].episode_return[0], rows[10].episode_return[0]] == [3, 6]  # what the engine says
        assert rows[11].obs[0, 0] == episode_seed(5, 2) % 1000
        for _ in range(4):
            saved = copy.deepcopy(manager.state_dict())
            assert [state["begins"].any() for state in saved["lanes"]].count(True)
            expected = [copy.deepcopy(step_all(manager, k % 2)) for k in range(9)]
            manager.load_state_dict(saved)
            contract.assert_same_streams([tuple(step_all(manager, 0))], [tuple(expected[0])])
            with lives() as other:
                other.load_state_dict(saved)
                contract.assert_same_streams([copy.deepcopy(tuple(step_all(other, k % 2))) for k in range(9)], expected)
            step_all(manager, 1)
        LifeEnv.made[0].drift = 1
        with pytest.raises(CheckpointError, match="env 0 does not come back to its saved state"):
            manager.load_state_dict(saved)


@pytest.mark.parametrize("step", [1, 3], ids=["a beginning within a life", "an action after a life"])
def test_a_state_that_the_engine_cannot_have_been_in(step):
    with lives() as manager:
        for _ in range(5):
            step_all(manager)
        saved = copy.deepcopy(manager.state_dict())
        manager.load_state_dict(saved)
        assert saved["lanes"][1]["begins"].tolist() == [False, False, False, True, False]
        saved["lanes"][1]["begins"][step] ^= True
        with pytest.raises(CheckpointError, match="env 1 does not come back to its saved state"):
            manager.load_state_dict(saved)


def test_a_log_that_grows_and_the_states_of_other_managers(make, monkeypatch):
    monkeypatch.setattr(action_log, "_FIRST_CAPACITY", 8)
    cfgs = [{"env": i, "length": 200} for i in range(2)]
    vector, base = make(NestedEnv, cfgs), create_env_manager("base", NestedEnv, cfgs)
    rng = np.random.default_rng(3)
    moves = [{"key": rng.integers(0, 4, 2), "move": rng.random((2, 2), np.float32)} for _ in range(100)]
    with base:
        for manager in (vector, base):
            manager.seed(1)
            manager.launch()
            for move in moves:
                manager.step_block(move, np.arange(2))
        states = vector.state_dict(), base.state_dict()
        for mine, theirs in zip(states[0]["lanes"], states[1]["lanes"], strict=True):
            np.testing.assert_array_equal(mine["actions"]["move"], theirs["actions"]["move"])
            np.testing.assert_array_equal(mine["actions"]["key"], theirs["actions"]["key"])
        vector.load_state_dict(states[1])
        base.load_state_dict(states[0])
        a, b = vector.step_block(moves[0], np.arange(2)), base.step_block(moves[0], np.arange(2))
        np.testing.assert_array_equal(a.obs["unit"]["position"], b.obs["unit"]["position"])
        assert (a.obs["image"] == 101).all()


class UnseededVector(ListVector):
    seeded = False


class UnseededEnv(PoleEnv):
    @classmethod
    def create_vector(cls, cfgs):
        return UnseededVector(PoleEnv, cfgs)


def test_an_engine_without_seeds_says_that_it_cannot_be_restored():
    with create_env_manager("vector", UnseededEnv, [{}] * 2) as manager:
        manager.launch()
        saved = manager.state_dict()
        assert [len(lane["actions"]) for lane in saved["lanes"]] == [0, 0]
        with pytest.raises(CheckpointError, match="the engine UnseededVector takes seeds only when it is made"):
            manager.load_state_dict(saved)
        manager.launch()  # a run goes on with new episodes
        step_all(manager)


class BrokenVector(LifeVector):
    def step(self, action, lane_id, seed, out):
        step = super().step(action, lane_id, seed, out)
        if self.clock[0] == 2:
            raise ZeroDivisionError("no more steps")
        reward = np.full(len(lane_id), 1.0)
        reward[-1] = np.inf if self.clock[1] == 1 and len(lane_id) == 1 else 1.0
        return step._replace(reward=reward)


class BrokenEnv(LifeEnv):
    @classmethod
    def create_vector(cls, cfgs):
        return BrokenVector(len(cfgs))


def test_faults_of_an_engine():
    manager = create_env_manager("vector", BrokenEnv, [{}, {}])
    manager.launch()
    step_all(manager)
    with pytest.raises(EnvFault, match=r"native vector of envs raised ZeroDivisionError in step\(\): no more steps \["):
        step_all(manager)
    with pytest.raises(EnvFault, match="it was closed after EnvFault"):
        manager.ready_block()
    manager.launch()
    with pytest.raises(
        EnvFault, match=r"env 1 sent reward inf, expected a finite float32 number \(episode 0, step 1\)"
    ):
        manager.step_block(np.zeros(1, np.int64), np.array([1]))


def test_what_it_cannot_do():
    with pytest.raises(ConfigError, match=r"env CounterEnv has no native vector .*use 'base' or 'sync_subprocess'"):
        create_env_manager("vector", CounterEnv, [{}])
    with lives() as manager:
        with pytest.raises(AttributeError, match="the envs of LifeVector have no attribute 'state'"):
            manager.state
    manager = create_env_manager("vector", LifeEnv, [{}, {}])
    with pytest.raises(ConfigError, match=r"LifeVector takes no reset_param, got \{1: \{'level': 2\}\}"):
        manager.launch({1: {"level": 2}})
