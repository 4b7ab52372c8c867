"""The classic control envs: names, spaces, keys, ends of episodes."""

import gymnasium
import numpy as np
import pytest

from app_zoo.classic_control.acrobot.envs import AcrobotEnv
from app_zoo.classic_control.cartpole.envs import CartPoleEnv
from app_zoo.classic_control.mountaincar.envs import MountainCarEnv
from app_zoo.classic_control.pendulum.envs import PendulumEnv
from nervex.envs.registry import get_vec_env_setting
from nervex.utils.errors import ConfigError


@pytest.mark.parametrize(
    ("env", "env_id", "shapes", "kind", "limit"),
    [
        (CartPoleEnv(cfg={}), "CartPole-v1", (4, 2), "discrete", None),
        (CartPoleEnv(cfg={"env_id": "CartPole-v0"}), "CartPole-v0", (4, 2), "discrete", None),
        (AcrobotEnv(cfg={}), "Acrobot-v1", (6, 3), "discrete", 500),
        (PendulumEnv(cfg={}), "Pendulum-v1", (3, 1), "box", 200),
        (MountainCarEnv(cfg={}), "MountainCar-v0", (2, 3), "discrete", 200),
        (MountainCarEnv(cfg={"continuous": True}), "MountainCarContinuous-v0", (2, 1), "box", 999),
    ],
)
def test_spaces_and_time_limits(env, env_id, shapes, kind, limit):
    info = env.info()
    assert (info.obs_shape.shape, info.act_shape.shape) == shapes
    assert type(info.obs_shape.shape) is int
    assert type(info.act_shape.shape) is int
    assert info.act_space.value["kind"] == kind
    assert repr(env) == f"{type(env).__name__}({env_id})"
    env.seed(0)
    assert env.reset().shape == (shapes[0],)
    action = 0 if kind == "discrete" else np.zeros(1, np.float32)
    steps = 1
    while not (timestep := env.step(action)).done:
        steps += 1
    assert timestep.info["truncated"] is (limit is not None)
    assert steps == limit or limit is None
    env.close()


@pytest.mark.parametrize(("env_id", "limit"), [("CartPole-v1", 500), ("CartPole-v0", 200)])
def test_cartpole_is_truncated_when_the_pole_stays_up(env_id, limit):
    env = CartPoleEnv({"env_id": env_id})
    env.seed(0)
    obs = env.reset()
    steps, done = 0, False
    while not done:
        obs, _, done, info = env.step(int(obs[2] + 0.3 * obs[3] + 0.05 * obs[1] + 0.01 * obs[0] > 0))
        steps += 1
    assert steps == limit
    assert info == {"terminated": False, "truncated": True, "final_eval_reward": float(limit)}


def test_cartpole_without_velocities():
    env, whole = CartPoleEnv({"mask_velocity": True}), CartPoleEnv({})
    element = env.info().obs_space
    assert element.shape == 2 and element.value["dtype"] == np.float32
    np.testing.assert_array_equal(element.value["max"], whole.info().obs_space.value["max"][[0, 2]])
    for e in (env, whole):
        e.seed(5)
    masked, full = [env.reset()], [whole.reset()]
    for t in range(8):
        masked.append(env.step(t % 2).obs)
        full.append(whole.step(t % 2).obs)
    assert masked[0].shape == (2,) and masked[0].dtype == np.float32
    np.testing.assert_array_equal(np.stack(masked), np.stack(full)[:, [0, 2]])


def test_cartpole_without_velocities_takes_further_wrappers():
    env = CartPoleEnv({"mask_velocity": True, "wrappers": [{"type": "FrameStackObservation", "stack_size": 3}]})
    assert env.info().obs_space.shape == (3, 2)
    assert CartPoleEnv({"mask_velocity": True}).info().obs_space.shape == 2  # the config was not shared


@pytest.mark.parametrize(("scale", "factor"), [(True, 2), (False, 1)])
def test_pendulum_torque_is_scaled(scale, factor):
    env, bare = PendulumEnv({"use_act_scale": scale}), gymnasium.make("Pendulum-v1")
    high = env.info().act_space.value["max"]
    assert high == (1 if scale else 2)
    env.seed(4)
    np.testing.assert_array_equal(env.reset(), bare.reset(seed=4)[0])
    for action in (0.5, -1.0, 0.25, 1.0):
        timestep = env.step(np.float32([action]))
        obs, reward, *_ = bare.step(np.float32([action * factor]))
        np.testing.assert_array_equal(timestep.obs, obs)
        assert timestep.reward == float(reward)


@pytest.mark.parametrize(
    ("name", "env_class"),
    [("cartpole", CartPoleEnv), ("pendulum", PendulumEnv), ("acrobot", AcrobotEnv), ("mountaincar", MountainCarEnv)],
)
def test_registered_by_name(name, env_class):
    module = f"app_zoo.classic_control.{name}.envs.{name}_env"
    cfg = {"env_type": name, "import_names": [module], "actor_env_num": 3, "evaluator_env_num": 2}
    found, actor_cfgs, evaluator_cfgs = get_vec_env_setting(cfg)
    assert found is env_class
    assert (actor_cfgs, evaluator_cfgs) == ([{}] * 3, [{}] * 2)
    assert found(actor_cfgs[0]).info().agent_num == 1


@pytest.mark.parametrize(
    ("env_class", "cfg", "message"),
    [
        (CartPoleEnv, {"env_id": "CartPole-v2"}, "env.env_id.*CartPole-v1"),
        (PendulumEnv, {"use_action_scale": True}, "unknown key 'env.use_action_scale'.*'use_act_scale'"),
        (PendulumEnv, {"scale_action": True}, "unknown key 'env.scale_action'"),
        (MountainCarEnv, {"continuos": True}, "unknown key 'env.continuos'.*'continuous'"),
        (MountainCarEnv, {"env_id": "MountainCar-v0"}, "unknown key 'env.env_id'"),
    ],
)
def test_wrong_config(env_class, cfg, message):
    with pytest.raises(ConfigError, match=message):
        env_class(cfg)
