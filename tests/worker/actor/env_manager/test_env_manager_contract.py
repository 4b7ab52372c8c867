"""What every env manager must do, on all three."""

import copy
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manager_envs import CounterEnv, EndEnv, NestedEnv
from pole_env import PoleEnv

from nervex.utils.errors import CheckpointError, ConfigError, EnvFault, NumericalError, SpecError
from nervex.worker.actor.env_manager.env_runner import episode_seed
from nervex.worker.actor.env_manager.registry import ENV_MANAGER_REGISTRY, create_env_manager

KINDS = ("base", "sync_subprocess", "subprocess")


def counters(num, **cfg):
    return [{"env": i, **cfg} for i in range(num)]


def rows_of(block):
    """Copies a block, since its arrays are used again."""
    return copy.deepcopy(tuple(block))


def zeros(num):
    return np.zeros(num, np.int64)


def test_rows_with_autoreset(make):
    manager = make(CounterEnv, [{"env": i, "length": 2 + i} for i in range(3)])
    manager.launch()
    model = dict.fromkeys(range(3), (0, 0))  # lane -> (episode, step)
    for _ in range(9):
        ready = manager.ready_block()
        assert ready.lane_id.tolist() == [0, 1, 2] and ready.lane_id.dtype == np.int64
        np.testing.assert_array_equal(ready.obs, [(i, *model[i]) for i in range(3)])
        block = manager.step_block(zeros(3), ready.lane_id)
        assert block.lane_id is ready.lane_id
        assert (block.obs.dtype, block.reward.dtype, block.episode_return.dtype) == ("float32", "float32", "float64")
        for i in range(3):
            episode, step = model[i]
            length = 2 + i
            dummy = step == length
            model[i] = (episode + 1, 0) if dummy else (episode, step + 1)
            ends = model[i][1] == length
            assert block.obs[i].tolist() == [i, *model[i]]
            assert block.valid[i] == (not dummy)
            assert block.reward[i] == (0 if dummy else step + 1)
            assert (block.terminated[i], block.truncated[i]) == (ends, False)
            expected = length * (length + 1) / 2
            assert block.episode_return[i] == expected if ends else math.isnan(block.episode_return[i])
            if ends:
                assert block.info[i] == {"truncated": False}
        assert (block.info is None) == (not block.terminated.any())


def test_lanes_may_be_few_and_in_any_order(make):
    manager = make(CounterEnv, counters(4, length=100))
    manager.launch()
    block = manager.step_block(zeros(2), np.array([3, 1]))
    if make.kind == "subprocess":
        assert sorted(block.lane_id.tolist()) == [1, 3]
    else:
        assert block.lane_id.tolist() == [3, 1]
    assert block.obs[:, 0].tolist() == block.lane_id.tolist()
    assert block.obs[:, 2].tolist() == [1, 1]
    assert manager.ready_block().obs[:, 2].tolist() == [0, 1, 0, 1]
    manager.step_block(zeros(4), np.arange(4))
    block = manager.step_block(zeros(1), [2])
    assert block.obs.tolist() == [[2, 0, 2]]
    assert manager.ready_block().obs[:, 2].tolist() == [1, 2, 2, 2]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sets(st.integers(0, 3)).map(list), max_size=12))
def test_any_sequence_of_lanes_keeps_every_lane_in_order(calls):
    with create_env_manager("base", CounterEnv, counters(4, length=3)) as manager:
        manager.launch()
        taken = [0] * 4
        held = [manager.ready_block()]
        for lanes in calls:
            block = manager.step_block(zeros(len(lanes)), np.array(lanes, np.int64))
            for i in lanes:
                taken[i] += 1
            # Next-step autoreset makes 4 rows of a 3-step episode: steps 1, 2, 3 and the reset.
            assert block.obs.tolist() == [[i, taken[i] // 4, taken[i] % 4] for i in lanes]
            assert block.valid.tolist() == [taken[i] % 4 != 0 for i in lanes]
            held.append(manager.ready_block())
            assert held[-1].obs.tolist() == [[i, taken[i] // 4, taken[i] % 4] for i in range(4)]


def test_rows_stay_valid_while_the_next_arrive(make):
    manager = make(CounterEnv, counters(3, length=100))
    manager.launch()
    first = manager.ready_block()
    one = manager.step_block(zeros(3), first.lane_id)
    assert first.obs[:, 2].tolist() == [0, 0, 0]
    manager.step_block(zeros(3), first.lane_id)
    assert one.obs[:, 2].tolist() == [1, 1, 1]
    assert one.reward.tolist() == [1, 1, 1]
    few = manager.step_block(zeros(2), np.array([0, 2]))
    manager.step_block(zeros(2), np.array([0, 2]))
    assert few.obs[:, 2].tolist() == [3, 3]


def test_actions_reach_their_envs(make):
    manager = make(CounterEnv, counters(3, length=100))
    manager.launch()
    manager.step_block(np.array([1, 0, 1]), np.arange(3))
    manager.step_block(np.array([1, 0], np.int32), np.array([1, 0]))
    assert manager.actions == [[1, 0], [0, 1], [1]]
    assert all(type(a) is int for actions in manager.actions for a in actions)


@pytest.mark.parametrize(
    ("done", "info", "expected"),
    [
        (True, {}, (True, False)),
        (True, {"truncated": True}, (False, True)),
        (np.bool_(True), {"truncated": np.bool_(True)}, (False, True)),
        (np.array([1]), {"terminated": True, "truncated": True}, (True, True)),
        (1, {"terminated": np.array(True)}, (True, False)),
    ],
)
def test_ends_told_apart(done, info, expected):
    with create_env_manager("base", EndEnv, [{"done": done, "info": info, "length": 1}]) as manager:
        manager.launch()
        block = manager.step_block(zeros(1), [0])
        assert (bool(block.terminated[0]), bool(block.truncated[0])) == expected


def test_truncation_and_infos_cross_unchanged(make):
    info = {
        "truncated": np.True_,
        "final_eval_reward": 7.5,
        "level": "two",
        "won": False,
        "map": [1, 2],
        "n": np.int32(3),
    }
    manager = make(EndEnv, [{"done": True, "info": info, "length": 2}, {"done": True, "info": {}, "length": 9}])
    manager.launch()
    manager.step_block(zeros(2), np.arange(2))
    block = manager.step_block(zeros(2), np.arange(2))
    assert block.terminated.tolist() == [False, False] and block.truncated.tolist() == [True, False]
    assert block.episode_return[0] == 7.5
    scalars = {"truncated": True, "final_eval_reward": 7.5, "level": "two", "won": False, "n": 3}
    assert block.info == (scalars, {})


def test_every_episode_has_its_own_seed(make):
    manager = make(CounterEnv, counters(2, length=1))
    manager.seed(40)
    manager.launch()
    for _ in range(4):
        manager.step_block(zeros(2), np.arange(2))
    assert manager.seeds == [[episode_seed(40 + i, k) for k in range(3)] for i in range(2)]
    assert len({s for seeds in manager.seeds for s in seeds}) == 6
    manager.seed([7, 9])
    manager.reset()
    assert [seeds[-1] for seeds in manager.seeds] == [episode_seed(7, 0), episode_seed(9, 0)]
    with pytest.raises(ConfigError, match="expected 2 numbers"):
        manager.seed([1])


def test_without_a_seed_runs_differ():
    first = []
    for _ in range(2):
        with create_env_manager("base", CounterEnv, counters(1)) as manager:
            manager.launch()
            first.append(manager.seeds[0])
    assert first[0] != first[1]


def stream(manager, steps, rng):
    rows = []
    for _ in range(steps):
        lane_id = np.arange(manager.lane_num)
        rows.append(rows_of(manager.step_block(rng.integers(0, 2, manager.lane_num), lane_id)))
    return rows


def assert_same_streams(a, b):
    for x, y in zip(a, b, strict=True):
        for column in range(7):
            np.testing.assert_array_equal(x[column], y[column])
        assert x[7] == y[7]


def test_all_kinds_give_the_same_rows(make):
    streams = []
    for manager in (make(PoleEnv, [{}, {}]), create_env_manager("base", PoleEnv, [{}, {}])):
        with manager:
            manager.seed(3)
            manager.launch()
            streams.append(stream(manager, 60, np.random.default_rng(0)))
    assert_same_streams(*streams)
    assert any(row[3].any() for row in streams[0]) and any(row[4].any() for row in streams[0])


def test_restored_envs_go_on_identically(make):
    manager = make(PoleEnv, [{}, {}, {}])
    manager.seed(5)
    manager.launch()
    rng = np.random.default_rng(1)
    for _ in range(200):
        block = manager.step_block(rng.integers(0, 2, 3), np.arange(3))
        if (block.terminated | block.truncated).sum() == 1:
            break  # saved while one lane awaits its reset and the others are somewhere in their episodes
    saved = copy.deepcopy(manager.state_dict())
    ready = rows_of(manager.ready_block())
    expected = stream(manager, 50, np.random.default_rng(2))
    manager.close()
    assert sum(lane["awaits_reset"] for lane in saved["lanes"]) == 1
    fresh = make(PoleEnv, [{}, {}, {}])
    fresh.load_state_dict(saved)
    np.testing.assert_array_equal(fresh.ready_block().obs, ready[1])
    assert_same_streams(stream(fresh, 50, np.random.default_rng(2)), expected)
    fresh.load_state_dict(saved)
    np.testing.assert_array_equal(fresh.ready_block().obs, ready[1])


def test_nested_actions_are_restored(make):
    manager = make(NestedEnv, counters(2, length=50))
    manager.launch()
    for t in range(3):
        manager.step_block({"move": np.full((2, 2), t + 0.5), "key": np.array([t, 3])}, np.arange(2))
    saved = manager.state_dict()
    np.testing.assert_array_equal(saved["lanes"][1]["actions"]["move"], np.float32([[0.5] * 2, [1.5] * 2, [2.5] * 2]))
    manager.load_state_dict(saved)
    position = manager.ready_block().obs["unit"]["position"]
    assert position.tolist() == [[[i, 3], [2.5, 2.5]] for i in range(2)]


def test_an_env_that_does_not_replay_is_told(make):
    manager = make(PoleEnv, [{}, {"drift": True}])
    manager.launch()
    saved = manager.state_dict()
    with pytest.raises(CheckpointError, match="env 1 does not come back to its saved state when episode 0 is replayed"):
        manager.load_state_dict(saved)
    with pytest.raises(CheckpointError, match="has 2 envs, this manager has 3"):
        make(PoleEnv, [{}] * 3).load_state_dict(saved)


def test_nested_obs_and_actions(make):
    manager = make(NestedEnv, counters(2, length=4))
    manager.launch()
    action = {"key": np.array([3, 1]), "move": np.array([[0.5, 1], [2, 3]])}
    block = manager.step_block(action, np.arange(2))
    assert list(block.obs) == ["unit", "image"]
    assert block.obs["unit"]["kind"].tolist() == [3, 1] and block.obs["unit"]["kind"].dtype == np.int64
    assert block.obs["unit"]["position"].tolist() == [[[0, 1], [0.5, 1]], [[1, 1], [2, 3]]]
    assert block.obs["image"].dtype == np.uint8 and block.obs["image"].tolist() == [[[1] * 3] * 2] * 2
    few = manager.step_block({"key": np.array([2]), "move": np.ones((1, 2), np.float32)}, [1])
    assert few.obs["unit"]["position"].tolist() == [[[1, 2], [1, 1]]]


def test_actions_that_do_not_fit(make):
    manager = make(NestedEnv, counters(2))
    manager.launch()
    key, move, lanes = zeros(2), np.zeros((2, 2), np.float32), np.arange(2)
    with pytest.raises(
        SpecError, match=r"got action with the keys \['key'\], the env's info says a dict of \['key', 'm"
    ):
        manager.step_block({"key": key}, lanes)
    with pytest.raises(
        SpecError, match=r"got action.move float32 \[2\] for 2 lanes, the env's info says float32 \[2, 2\]"
    ):
        manager.step_block({"key": key, "move": move[0]}, lanes)
    with pytest.raises(SpecError, match=r"got action.key float64 \[2\]"):
        manager.step_block({"key": key + 0.5, "move": move}, lanes)
    move[1, 0] = np.nan
    with pytest.raises(NumericalError, match=r"got action.move \[nan, 0.0\] for env 1 \(episode 0, step 1\)"):
        manager.step_block({"key": key, "move": move}, lanes)
    for wrong in ([0, 0], [2], [-1]):
        with pytest.raises(SpecError, match="expected each at most once, from 0 to 1"):
            manager.step_block({"key": key, "move": move}, wrong)
    manager.step_block({"key": key, "move": np.nan_to_num(move)}, lanes)  # nothing was lost by all that


def test_configs_are_not_shared(make):
    shared = {"env": 0, "visits": []}
    manager = make(CounterEnv, [shared, shared])
    manager.launch()
    shared["env"] = 5
    manager.close()
    manager.launch()
    assert [cfg["visits"] for cfg in manager.cfg] == [[0], [0]]
    assert manager.ready_block().obs[:, 0].tolist() == [0, 0]
    assert shared["visits"] == []


def test_reset_param(make):
    manager = make(CounterEnv, counters(2, length=1))
    manager.launch([{"level": 3}, {}])
    manager.reset({1: {"level": 4}})
    manager.step_block(zeros(2), np.arange(2))
    manager.step_block(zeros(2), np.arange(2))
    assert manager.params == [[{"level": 3}] * 3, [{}, {"level": 4}, {"level": 4}]]


def test_attributes_are_read_from_every_env(make):
    manager = make(CounterEnv, counters(2))
    with pytest.raises(AttributeError, match="after launch"):
        manager.episode
    manager.launch()
    assert manager.episode == [0, 0]
    with pytest.raises(AttributeError, match="no attribute 'episodes'"):
        manager.episodes
    with pytest.raises(AttributeError, match="'end_info' is a method of the env"):
        manager.end_info
    manager.step_block(zeros(2), np.arange(2))
    assert list(manager.method_name_list) == ["reset", "step", "seed", "close"]


def test_close_is_idempotent_and_launch_begins_afresh(make, tmp_path):
    closed = tmp_path / "closed"
    manager = make(CounterEnv, counters(2, closed_file=str(closed)))
    manager.close()
    with pytest.raises(EnvFault, match=r"launch\(\) was not called"):
        manager.ready_block()
    manager.launch()
    with pytest.raises(ConfigError, match="call close"):
        manager.launch()
    held = manager.ready_block()
    manager.close()
    manager.close()
    assert held.obs[:, 0].tolist() == [0, 1]  # what was handed out outlives the manager
    assert closed.read_text().count("closed") == 3  # two envs, and the one that was asked for its info
    with pytest.raises(EnvFault, match="it was closed; call launch"):
        manager.step_block(zeros(2), np.arange(2))
    manager.launch()
    assert manager.ready_block().obs.tolist() == [[0, 0, 0], [1, 0, 0]]


def test_info_and_specs(make):
    manager = make(NestedEnv, counters(2))
    assert manager.env_info().agent_num == 1
    assert manager.obs_spec["unit"]["position"].shape == (2, 2)
    assert manager.action_spec["key"].n == 4
    assert (manager.env_num, manager.lane_num) == (2, 2)


def test_wrong_settings():
    for kind in KINDS:
        with pytest.raises(ConfigError, match="env_num is 3 and env_cfg holds 2 configs; give one config per env"):
            create_env_manager(kind, CounterEnv, counters(2), env_num=3)
        with pytest.raises(ConfigError, match="step_timeout_s of an env manager is 0, expected a number above 0"):
            create_env_manager(kind, CounterEnv, counters(2), step_timeout_s=0)
        with pytest.raises(
            ConfigError,
            match=rf"'{kind}' has no option 'reset_timeout' \(env\.manager\.reset_timeout\); "
            "did you mean 'reset_timeout_s'",
        ):
            create_env_manager(kind, CounterEnv, counters(2), reset_timeout=3)
    with pytest.raises(ConfigError, match="wait_num of an env manager is 3, expected 1 to env_num = 2"):
        create_env_manager("subprocess", CounterEnv, counters(2), wait_num=3)
    with pytest.raises(ConfigError, match="unknown env manager 'subproces'; did you mean 'subprocess'"):
        create_env_manager("subproces", CounterEnv, counters(2))
    assert set(KINDS) <= set(ENV_MANAGER_REGISTRY.names())
