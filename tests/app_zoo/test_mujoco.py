"""The MuJoCo env: robots, scaled actions, ends of episodes, frames, and EnvPool behind the same names."""

import os
import sys

import gymnasium
import numpy as np
import pytest

from app_zoo.mujoco.envs import MujocoEnv, mujoco_env, mujoco_pool
from nervex.envs.registry import get_vec_env_setting
from nervex.utils.errors import CheckpointError, ConfigError, MissingExtraError
from nervex.worker.actor.env_manager.envpool_engine import EnvPoolEngine, PoolStep
from nervex.worker.actor.env_manager.registry import create_env_manager


@pytest.mark.parametrize(
    ("env_id", "obs", "motors"),
    [
        ("HalfCheetah-v5", 17, 6),
        ("Hopper-v5", 11, 3),
        ("Walker2d-v5", 17, 6),
        ("Ant-v5", 105, 8),
        ("Humanoid-v5", 348, 17),
        ("HumanoidStandup-v5", 348, 17),
        ("InvertedPendulum-v5", 4, 1),
        ("InvertedDoublePendulum-v5", 9, 1),
        ("Pusher-v5", 23, 7),
        ("Reacher-v5", 10, 2),
        ("Swimmer-v5", 8, 2),
    ],
)
def test_robots(env_id, obs, motors):
    env = MujocoEnv({"env_id": env_id})
    info = env.info()
    assert (info.obs_space.shape, info.act_space.shape) == (obs, motors)
    assert (info.act_space.value["min"], info.act_space.value["max"]) == (-1, 1)
    env.seed(0)
    first = env.reset()
    assert (first.shape, first.dtype) == ((obs,), np.float32)
    assert env.step(np.zeros(motors, np.float32)).obs.shape == (obs,)
    env.close()


@pytest.mark.parametrize(("scale", "factor"), [(True, 0.4), (False, 1.0)])
def test_actions_are_scaled_to_the_motors(scale, factor):
    env, bare = MujocoEnv({"env_id": "Humanoid-v5", "scale_action": scale}), gymnasium.make("Humanoid-v5")
    assert env.info().act_space.value["max"] == pytest.approx(1.0 if scale else 0.4)
    env.seed(3)
    np.testing.assert_array_equal(env.reset(), bare.reset(seed=3)[0].astype(np.float32))
    rng = np.random.default_rng(0)
    for _ in range(5):
        action = rng.uniform(-0.4, 0.4, 17).astype(np.float32)
        step = env.step(action)
        obs, reward, *_ = bare.step(np.float32(action * factor))
        np.testing.assert_allclose(step.obs, obs, rtol=1e-4, atol=1e-4)
        assert step.reward == pytest.approx(float(reward), rel=1e-4)
    env.close()


def test_falls_terminate_and_time_limits_truncate():
    env = MujocoEnv({"env_id": "Hopper-v5"})
    env.seed(0)
    env.reset()
    total = 0.0
    for _ in range(200):
        step = env.step(np.ones(3, np.float32))
        total += step.reward
        if step.done:
            break
    assert step.info["terminated"] and not step.info["truncated"]
    assert step.info["final_eval_reward"] == pytest.approx(total)
    env.close()
    env = MujocoEnv({"env_id": "HalfCheetah-v5"})
    env.reset()
    done = [env.step(np.zeros(6, np.float32)) for _ in range(1000)]
    assert [step.done for step in done] == [False] * 999 + [True]
    assert (done[-1].info["terminated"], done[-1].info["truncated"]) == (False, True)
    env.close()


def test_make_kwargs_reach_the_robot():
    cfg = {"env_id": "HalfCheetah-v5", "make_kwargs": {"ctrl_cost_weight": 2.0, "max_episode_steps": 1}}
    env = MujocoEnv(cfg)
    env.reset()
    info = env.step(np.ones(6, np.float32)).info
    assert info["reward_ctrl"] == pytest.approx(-12.0) and info["truncated"]
    env.close()


def test_frames_are_drawn_without_a_screen(monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    plain = MujocoEnv({"env_id": "HalfCheetah-v5"})
    plain.reset()
    assert "MUJOCO_GL" not in os.environ
    env = MujocoEnv({"env_id": "HalfCheetah-v5", "render_mode": "rgb_array"})
    env.seed(0)
    env.reset()
    assert os.environ["MUJOCO_GL"] == "egl" or sys.platform != "linux"
    frames = [env.render()]
    for _ in range(20):
        env.step(np.ones(6, np.float32))
    frames.append(env.render())
    assert frames[0].shape == (480, 480, 3) and frames[0].dtype == np.uint8
    assert len(np.unique(frames[0].reshape(-1, 3), axis=0)) > 50 and (frames[0] != frames[1]).any()
    env.close()
    plain.close()
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    env = MujocoEnv({"env_id": "HalfCheetah-v5", "render_mode": "rgb_array"})
    env.info()
    assert os.environ["MUJOCO_GL"] == "glfw"
    env.close()


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ({"env_id": "HalfCheetah-v4"}, "env.env_id.*HalfCheetah-v5"),
        ({"env_id": "HalfCheetah-v5", "backends": "envpool"}, "unknown key 'env.backends'.*'backend'"),
        ({"env_id": "HalfCheetah-v5", "backend": "mjx"}, "env.backend"),
    ],
)
def test_wrong_config(cfg, message):
    with pytest.raises(ConfigError, match=message):
        MujocoEnv(cfg)


def test_registered_by_name():
    section = {"env_type": "mujoco", "import_names": ["app_zoo.mujoco.envs.mujoco_env"], "env_id": "Ant-v5"}
    env_class, actor, evaluator = get_vec_env_setting({**section, "actor_env_num": 2, "evaluator_env_num": 1})
    assert (env_class, actor, evaluator) == (MujocoEnv, [{"env_id": "Ant-v5"}] * 2, [{"env_id": "Ant-v5"}])


@pytest.mark.parametrize("package", ["mujoco", "imageio"])
def test_missing_package(monkeypatch, package):
    monkeypatch.setattr(mujoco_env, "find_spec", lambda name: None if name == package else True)
    with pytest.raises(MissingExtraError, match=rf'needs the package {package},.*run: pip install "nervex\[mujoco\]"'):
        MujocoEnv({"env_id": "Hopper-v5"}).info()


CHEETAH = {"env_id": "HalfCheetah-v5"}


@pytest.mark.parametrize(
    ("cfgs", "message"),
    [
        ([CHEETAH] * 2, "steps MuJoCo in EnvPool, env.backend is 'gymnasium'; set env.backend to 'envpool', or"),
        ([CHEETAH, {**CHEETAH, "backend": "envpool"}], "have the same configuration"),
        ([{**CHEETAH, "backend": "envpool", "wrappers": ["ClipAction"]}], "EnvPool takes none"),
    ],
)
def test_what_the_vector_cannot_do(cfgs, message):
    with pytest.raises(ConfigError, match=message):
        create_env_manager("vector", MujocoEnv, cfgs).launch()


def test_missing_envpool(monkeypatch):
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(MissingExtraError, match=r'needs the package envpool.*run: pip install "nervex\[envpool\]"'):
        create_env_manager("vector", MujocoEnv, [{**CHEETAH, "backend": "envpool"}]).launch()


class FakePool:
    """Takes the place of EnvPool: shows the motors, ends as it is told."""

    action_space = gymnasium.spaces.Box(np.array([-0.4, 0.0]), np.array([0.4, 2.0]), dtype=np.float64)

    def __init__(self, task_id, env_num, options):
        self.task = (task_id, env_num, options)
        self.flags = (np.zeros(2, bool), np.zeros(2, bool))

    def reset(self, seed):
        return np.stack([seed, -seed], axis=1) / 2, {}

    def step(self, action, lane_id):
        terminated, truncated = (flag[lane_id] for flag in self.flags)
        return PoolStep(action, np.arange(1.0, 3.0)[lane_id], terminated, truncated, {})

    def close(self):
        pass


def test_robots_in_a_pool(monkeypatch):
    monkeypatch.setattr(mujoco_pool, "EnvPoolEngine", FakePool)
    kwargs = {"frame_skip": 3}
    vector = MujocoEnv.create_vector([{**CHEETAH, "backend": "envpool", "make_kwargs": kwargs}] * 2)
    assert vector._engine.task == ("HalfCheetah-v5", 2, kwargs)
    out = np.zeros((2, 2), np.float32)
    vector.reset(np.array([3, 5]), out)
    assert out.tolist() == [[1.5, -1.5], [2.5, -2.5]]
    act, lanes = np.full(2, -1), np.arange(2)
    vector._engine.flags = np.array([True, False]), np.array([True, True])
    step = vector.step(np.array([[0.5, 0.5], [-3.0, 3.0]], np.float32), lanes, act, out)
    np.testing.assert_allclose(out, [[0.2, 1.5], [-0.4, 2.0]], rtol=1e-6)
    assert (step.reward.tolist(), step.terminated.tolist(), step.truncated.tolist()) == (
        [1, 2],
        [True, False],
        [False, True],
    )
    assert list(step.info) == [0, 1]
    dummy = vector.step(np.zeros((1, 2), np.float32), np.array([1]), np.array([9]), out)
    assert (dummy.reward.tolist(), dummy.terminated.tolist(), dummy.truncated.tolist()) == ([0], [False], [False])
    assert dummy.info == {}
    raw = MujocoEnv.create_vector([{**CHEETAH, "backend": "envpool", "scale_action": False}] * 2)
    raw.reset(np.array([3, 5]), out)
    raw.step(np.array([[0.1, 0.2]], np.float32), np.array([0]), act[:1], out)
    np.testing.assert_allclose(out[0], [0.1, 0.2], rtol=1e-6)


@pytest.mark.envpool
def test_envpool_has_the_same_robots():
    cfg = {"env_id": "Humanoid-v5", "backend": "envpool", "make_kwargs": {"max_episode_steps": 20}}
    streams, ends = [], set()
    for _ in range(2):
        with create_env_manager("vector", MujocoEnv, [cfg] * 3) as manager:
            manager.seed(3)
            manager.launch()
            rng = np.random.default_rng(0)
            rows, awaits, total = [], np.zeros(3, bool), np.zeros(3)
            for t in range(60):
                lanes = np.array([2, 0]) if t % 4 == 3 else np.arange(3)
                block = manager.step_block(rng.uniform(-1, 1, (len(lanes), 17)).astype(np.float32), lanes)
                rows.append(block.obs.copy())
                np.testing.assert_array_equal(block.valid, ~awaits[lanes])
                total[lanes] = np.where(awaits[lanes], 0, total[lanes] + block.reward)
                awaits[lanes] = block.terminated | block.truncated
                ended = awaits[lanes]
                np.testing.assert_allclose(block.episode_return[ended], total[lanes][ended], rtol=1e-6)
                ends |= set(zip(block.terminated[ended].tolist(), block.truncated[ended].tolist(), strict=True))
            streams.append(rows)
            saved = manager.state_dict()
            with pytest.raises(CheckpointError, match="takes seeds only when it is made"):
                manager.load_state_dict(saved)
    for a, b in zip(*streams, strict=True):
        np.testing.assert_array_equal(a, b)
    assert ends == {(True, False), (False, True)}
    with create_env_manager("vector", MujocoEnv, [{**cfg, "make_kwargs": {"bad": 1}}]) as manager:
        manager._info = MujocoEnv({"env_id": "Humanoid-v5"}).info()
        with pytest.raises(ConfigError, match=r"EnvPool cannot make 'Humanoid-v5' with \{'bad': 1\}"):
            manager.launch()


@pytest.mark.envpool
def test_a_task_that_envpool_lacks():
    with pytest.raises(ConfigError, match="EnvPool has no task 'HalfCheetah-v9'; did you mean 'HalfCheetah-v"):
        EnvPoolEngine("HalfCheetah-v9", 1, {})


def test_warnings_go_to_the_log_once(caplog, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed in range(2):
        env = MujocoEnv({"env_id": "HalfCheetah-v5"})
        env.seed(seed)
        env.reset()
        env.close()
    shown = capfd.readouterr()
    assert "deprecated" not in shown.out + shown.err and list(tmp_path.iterdir()) == []
    mujoco_env._log_warning.cache_clear()
    mujoco_env._log_warning("Nan, Inf or huge value in QACC")
    mujoco_env._log_warning("Nan, Inf or huge value in QACC")
    assert caplog.text.count("MuJoCo: Nan, Inf or huge value in QACC") == 1
