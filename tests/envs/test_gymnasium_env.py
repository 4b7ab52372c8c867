"""The Gymnasium adapter: same numbers as the bare env, ends of episodes, wrappers, seeds, one-line errors."""

import copy
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from envs.gymnasium_tool import ScaleObservation, inner, make, run_episode
from gymnasium import spaces

from nervex import envs
from nervex.envs.base_env import BaseEnvTimestep
from nervex.envs.gymnasium_env import GymnasiumEnv
from nervex.utils.errors import ConfigError, EnvFault, MissingExtraError, SpecError


@pytest.mark.parametrize(
    ("env_id", "scale"),
    [("CartPole-v1", 1), ("Acrobot-v1", 1), ("MountainCar-v0", 1), ("Pendulum-v1", 2), ("MountainCarContinuous-v0", 1)],
)
def test_same_numbers_as_the_bare_env(env_id, scale):
    bare, env = gymnasium.make(env_id), make(env_id)
    rng = np.random.default_rng(0)
    for seed in (3, 17):
        env.seed(seed)
        obs = env.reset()
        expected, _ = bare.reset(seed=seed)
        np.testing.assert_array_equal(obs, expected)
        total, done = 0.0, False
        while not done:
            if isinstance(bare.action_space, spaces.Discrete):
                action = bare_action = int(rng.integers(bare.action_space.n))
            else:
                action = rng.uniform(-1, 1, 1).astype(np.float32)
                bare_action = action * np.float32(scale)
            timestep = env.step(action)
            expected, reward, terminated, truncated, _ = bare.step(bare_action)
            np.testing.assert_array_equal(timestep.obs, expected)
            assert timestep.obs.dtype == np.float32
            assert timestep.reward == float(reward)
            assert (timestep.info["terminated"], timestep.info["truncated"]) == (
                terminated,
                truncated and not terminated,
            )
            total += float(reward)
            done = terminated or truncated
            assert timestep.done is done
            assert ("final_eval_reward" in timestep.info) is done
        assert timestep.info["final_eval_reward"] == total
    env.close()


def test_declared_spaces():
    info = make("CartPole-v1").info()
    assert info.agent_num == 1
    assert (info.obs_shape.shape, info.act_shape.shape, info.rew_space.shape) == (4, 2, 1)
    assert info.act_space.value == {"min": 0, "max": 1, "dtype": np.int64, "kind": "discrete"}
    assert info.rew_space.value["dtype"] is np.float32
    pendulum = make("Pendulum-v1").info()
    assert (pendulum.act_space.shape, pendulum.act_space.value["min"], pendulum.act_space.value["max"]) == (1, -1, 1)
    raw = make("Pendulum-v1", scale_action=False).info()
    assert (raw.act_space.value["min"], raw.act_space.value["max"]) == (-2, 2)
    assert make("FrozenLake-v1").info().obs_space.shape == 16
    assert make("Blackjack-v1").info().obs_space["1"].shape == 11


def test_nested_spaces_end_to_end():
    env = make("nervex_test/Nested-v0")
    obs = env.reset()
    np.testing.assert_array_equal(obs["mode"], [1, 0, 0])
    timestep = env.step({"0": 1, "1": np.float32([0.5])})
    assert inner(env).actions == [(6, np.array([7.5]))]
    assert timestep.obs["x"][0] == 1
    np.testing.assert_array_equal(timestep.obs["mode"], [0, 1, 0])
    assert set(env.info().obs_space) == {"x", "mode"}


@pytest.mark.parametrize(
    ("stop", "terminated", "truncated"),
    [("terminated", True, False), ("truncated", False, True), ("both", True, False)],
)
def test_ends_of_episodes(stop, terminated, truncated):
    _, timesteps = run_episode(make(make_kwargs={"stop": stop}), lambda t: 0)
    assert [t.done for t in timesteps] == [False] * 4 + [True]
    assert [t.info for t in timesteps[:-1]] == [{"terminated": False, "truncated": False}] * 4
    last = timesteps[-1].info
    assert (last["terminated"], last["truncated"]) == (terminated, truncated)
    assert type(last["truncated"]) is bool
    assert last["final_eval_reward"] == sum([0.1] * 5)
    assert isinstance(timesteps[0], BaseEnvTimestep)


def test_the_return_starts_anew_with_each_episode_and_is_summed_in_float64():
    env = make(make_kwargs={"end": 3, "gain": np.float32(0.1)})
    for _ in range(3):
        _, timesteps = run_episode(env, lambda t: 0)
        assert timesteps[-1].info["final_eval_reward"] == sum([float(np.float32(0.1))] * 3)
        assert type(timesteps[0].reward) is float


def test_last_info_keeps_the_numbers_of_the_env_and_is_its_own():
    env = make()
    _, timesteps = run_episode(env, lambda t: 0)
    last = timesteps[-1].info
    assert set(last) == {"score", "count", "terminated", "truncated", "final_eval_reward"}
    env.reset()
    env.step(0)
    assert last["count"] == 5
    assert len({id(t.info) for t in timesteps}) == 5


@pytest.mark.parametrize(
    ("cfg", "limit"),
    [
        ({"wrappers": [{"type": "TimeLimit", "max_episode_steps": 4}]}, 4),
        ({"make_kwargs": {"max_episode_steps": 2}}, 2),
        ({"env_id": "nervex_test/Limited-v0"}, 3),
    ],
)
def test_time_limit_truncates(cfg, limit):
    _, timesteps = run_episode(make(**cfg), lambda t: 0)
    assert len(timesteps) == limit
    assert timesteps[-1].info["truncated"] is True
    assert timesteps[-1].info["terminated"] is False
    assert timesteps[-1].obs[0] == limit


def test_termination_on_the_step_of_the_time_limit_is_a_termination():
    _, timesteps = run_episode(make(make_kwargs={"max_episode_steps": 5}), lambda t: 0)
    assert (timesteps[-1].info["terminated"], timesteps[-1].info["truncated"]) == (True, False)


def test_seed_starts_one_episode_and_the_next_go_on_from_it():
    first, second = make(), make()
    for env in (first, second):
        env.seed(11)
    episodes = [[run_episode(env, lambda t: 0)[0] for _ in range(3)] for env in (first, second)]
    np.testing.assert_array_equal(episodes[0], episodes[1])
    assert not np.array_equal(episodes[0][0], episodes[0][1])
    assert inner(first).seeds == [11, None, None]
    other = make()
    other.seed(12)
    assert not np.array_equal(run_episode(other, lambda t: 0)[0], episodes[0][0])
    np.testing.assert_array_equal(run_episode(first, lambda t: 0, seed=11)[0], episodes[0][0])


def test_seed_reaches_the_action_space():
    samples = []
    for _ in range(2):
        env = make()
        env.seed(5)
        env.reset()
        samples.append([int(env._env.action_space.sample()) for _ in range(20)])
    assert samples[0] == samples[1]


def test_reset_options_reach_the_env():
    env = make()
    env.reset(options={"level": 3})
    env.reset()
    assert inner(env).options == [{"level": 3}, None]


def test_the_simulator_is_made_late_and_freed():
    env = make()
    assert env._env is None
    env.info()
    simulator = inner(env)
    env.reset()
    assert inner(env) is simulator
    env.close()
    env.close()
    assert simulator.closed == 1
    assert env.info().obs_space.shape == 2
    assert env._env is None
    env.reset()
    assert env.step(1).obs[0] == 1


def test_step_before_reset():
    with pytest.raises(EnvFault, match=r"env 'CartPole-v1': step\(\) before reset\(\)"):
        make("CartPole-v1").step(0)


def test_wrong_action():
    env = make("CartPole-v1")
    env.reset()
    with pytest.raises(SpecError, match="action 2 for the action space of 'CartPole-v1' is not among its 2 actions"):
        env.step(2)


def test_wrappers_are_applied_in_order():
    own = f"{ScaleObservation.__module__}:ScaleObservation"
    limit = {"type": "TimeLimit", "max_episode_steps": 9}
    env = make(wrappers=[limit, "TimeAwareObservation", "FlattenObservation"])
    assert env.info().obs_space.shape == 3
    env = make(wrappers=[{"type": "FrameStackObservation", "stack_size": 4}])
    assert env.info().obs_space.shape == (4, 2)
    env = make(wrappers=[own, {"type": own, "factor": 3.0}])
    env.reset()
    assert env.step(0).obs[0] == 30.0
    env = make("Acrobot-v1", wrappers=[{"type": "RescaleObservation", "min_obs": -1.0, "max_obs": 1.0}])
    assert env.info().obs_space.value["max"] == 1.0


def test_the_config_is_not_shared_with_the_env():
    cfg = {
        "env_id": "nervex_test/Count-v0",
        "make_kwargs": {"end": 2},
        "wrappers": [{"type": "TimeLimit", "max_episode_steps": 9}],
    }
    before = copy.deepcopy(cfg)
    env = GymnasiumEnv(cfg)
    cfg["make_kwargs"]["end"] = 4
    assert len(run_episode(env, lambda t: 0)[1]) == 2
    cfg["make_kwargs"]["end"] = 2
    assert cfg == before


def test_an_env_that_changes_its_arguments_is_made_again_with_the_same():
    env = make(make_kwargs={"table": [1, 2]})
    for _ in range(2):
        env.reset()
        assert inner(env).table == [1, 2]
        env.close()


def test_render():
    env = make(render_mode="rgb_array")
    env.reset()
    env.step(0)
    frame = env.render()
    assert frame.shape == (4, 6, 3)
    assert frame.dtype == np.uint8
    assert frame.max() == 1
    with pytest.raises(ConfigError, match=r"made without frames; set env\.render_mode to 'rgb_array'"):
        make().render()
    flat = make("nervex_test/FlatFrame-v0", render_mode="rgb_array")
    flat.reset()
    with pytest.raises(ConfigError, match=r"rendered an array \[4, 6\], expected a frame \[H, W, 3\]"):
        flat.render()


def test_the_env_section_may_be_given_whole():
    section = {"env_type": "gymnasium", "env_manager_type": "base", "import_names": [], "manager": {}}
    env = GymnasiumEnv({**section, "env_id": "CartPole-v1", "actor_env_num": 8, "evaluator_env_num": 5})
    assert env.info().obs_space.shape == 4


def test_repr():
    assert repr(make("CartPole-v1")) == "GymnasiumEnv(CartPole-v1)"


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ({"env_idd": "CartPole-v1"}, "unknown key 'env.env_idd'.*did you mean 'env_id'"),
        ({}, "env.env_id"),
        ({"env_id": "CartPole-v1", "render_mode": "ascii"}, "env.render_mode.*rgb_array"),
        ({"env_id": "CartPole-v1", "scale_action": 3}, "env.scale_action"),
        ({"env_id": 5}, "env.env_id"),
    ],
)
def test_wrong_config(cfg, message):
    with pytest.raises(ConfigError, match=message):
        GymnasiumEnv(cfg)


@pytest.mark.parametrize(
    ("cfg", "error", "message"),
    [
        ({"env_id": "CartPol-v1"}, ConfigError, "unknown env.env_id 'CartPol-v1'; did you mean 'CartPole-v1'"),
        ({"env_id": "Foo/Bar-v0"}, ConfigError, "unknown env.env_id 'Foo/Bar-v0'.*'module:id'"),
        ({"env_id": "no_such_pkg:Foo-v0"}, ConfigError, "cannot import the module 'no_such_pkg'"),
        ({"env_id": "a b"}, ConfigError, "env 'a b' cannot be made"),
        ({"env_id": "Pendulum-v0"}, ConfigError, "Please use `Pendulum-v1` instead"),
        ({"env_id": "nervex_test/Text-v0"}, ConfigError, "observation space of 'nervex_test/Text-v0' is Text"),
        ({"env_id": "nervex_test/OldReset-v0"}, ConfigError, r"returned ndarray from reset\(\).*old Gym API"),
        ({"env_id": "nervex_test/NotGymnasium-v0"}, ConfigError, "must inherit from the gymnasium.Env class"),
        ({"env_id": "nervex_test/VectorOnly-v0"}, ConfigError, "entry_point is not specified"),
        ({"env_id": "nervex_test/Missing-v0"}, MissingExtraError, "package 'cv2'.*pip install opencv-python"),
        ({"make_kwargs": {"endd": 3}}, ConfigError, "env 'nervex_test/Count-v0' cannot be made with .*'endd'"),
        ({"wrappers": ["FlatenObservation"]}, ConfigError, r"env.wrappers\[0\]: no wrapper .*'FlattenObservation'"),
        ({"wrappers": ["FlattenObservation", 3]}, ConfigError, r"env.wrappers\[1\] is 3, expected a name"),
        ({"wrappers": [{"max_episode_steps": 3}]}, ConfigError, r"env.wrappers\[0\] is .*with the key 'type'"),
        ({"wrappers": [{"type": "TimeLimit", "steps": 3}]}, ConfigError, r"env.wrappers\[0\]: TimeLimit.*'steps'"),
        ({"wrappers": ["no_such_pkg:Wrapper"]}, ConfigError, "cannot import 'no_such_pkg:Wrapper'"),
        ({"wrappers": [f"{__name__}:NoSuchWrapper"]}, ConfigError, "NoSuchWrapper"),
        ({"wrappers": ["builtins:id"]}, ConfigError, "id returned int, expected a gymnasium.Env"),
    ],
)
def test_errors_of_making_the_env(cfg, error, message):
    with pytest.raises(error, match=message):
        make(**cfg).reset()


@pytest.mark.parametrize("env_id", ["ALE/Pong-v5", "HalfCheetah-v5"])
def test_a_missing_package_is_named(env_id, monkeypatch):
    for package in ("ale_py", "mujoco"):
        monkeypatch.setitem(sys.modules, package, None)
    for module in [m for m in sys.modules if m.startswith("gymnasium.envs.mujoco")]:
        monkeypatch.delitem(sys.modules, module)
    with pytest.raises(MissingExtraError, match=f"env '{env_id}' .*pip install"):
        make(env_id).info()


def test_envs_do_not_import_torch():
    code = (
        "import sys; from nervex.envs import GymnasiumEnv, register_env, get_vec_env_setting; "
        "env = GymnasiumEnv({'env_id': 'CartPole-v1'}); env.reset(); env.step(0); print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_public_names():
    for name in dir(envs):
        assert getattr(envs, name) is not None
    assert envs.ENV_REGISTRY.get("gymnasium") is GymnasiumEnv
