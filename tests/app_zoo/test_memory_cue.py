"""The memory cue: what is told when, what pays, and that memory is needed."""

import numpy as np
import pytest

from app_zoo.memory_cue.envs import MemoryCueEnv
from nervex.envs.registry import get_vec_env_setting
from nervex.utils.errors import ConfigError, EnvFault, SpecError


def episode(env, act):
    """Plays one episode with ``act(observations so far)``; returns observations and timesteps."""
    obs, steps = [env.reset()], []
    while not steps or not steps[-1].done:
        steps.append(env.step(act(obs)))
        obs.append(steps[-1].obs)
    return obs, steps


def mean_return(env, act, episodes=400):
    return np.mean([sum(s.reward for s in episode(env, act)[1]) for _ in range(episodes)])


def recalled(obs):
    return int(obs[0][:-2].argmax())


@pytest.mark.parametrize(("delay", "cue_num"), [(20, 2), (1, 2), (3, 5)])
def test_what_an_episode_shows(delay, cue_num):
    env = MemoryCueEnv({"delay": delay, "cue_num": cue_num})
    env.seed(0)
    cues = set()
    for _ in range(30):
        obs, steps = episode(env, recalled)
        assert len(steps) == delay + 1
        rows = np.stack(obs)
        assert rows.dtype == np.float32 and rows.shape == (delay + 2, cue_num + 2)
        assert rows[0, :-2].sum() == 1 and (rows[1:, :-2] == 0).all()
        assert rows[:, -2].tolist() == [0] * delay + [1, 0]
        assert (rows[:, -1] == 1).all()
        assert [s.reward for s in steps] == [0] * delay + [1]
        assert [s.done for s in steps] == [s.info["terminated"] for s in steps] == [False] * delay + [True]
        assert not any(s.info["truncated"] for s in steps) and steps[-1].info["final_eval_reward"] == 1
        cues.add(recalled(obs))
    assert cues == set(range(cue_num))


def test_the_default_is_twenty_steps_and_two_cues():
    env = MemoryCueEnv({})
    assert repr(env) == "MemoryCueEnv(delay=20, cue_num=2)"
    info = env.info()
    assert (info.obs_space.shape, info.act_space.shape, info.act_space.value["kind"]) == (4, 2, "discrete")
    assert len(episode(env, recalled)[1]) == 21


@pytest.mark.parametrize("cue_num", [2, 4])
def test_memory_is_needed_and_is_enough(cue_num):
    env, rng = MemoryCueEnv({"delay": 3, "cue_num": cue_num}), np.random.default_rng(0)
    env.seed(1)
    assert mean_return(env, recalled) == 1.0
    assert mean_return(env, lambda obs: int(rng.integers(cue_num))) == pytest.approx(1 / cue_num, abs=0.08)
    assert mean_return(env, lambda obs: recalled(obs[-1:])) == pytest.approx(1 / cue_num, abs=0.08)
    assert mean_return(env, lambda obs: (recalled(obs) + 1) % cue_num) == 0


def test_only_the_last_action_counts():
    env = MemoryCueEnv({"delay": 4})
    env.seed(2)
    wrong_before = lambda obs: recalled(obs) if len(obs) == 5 else 1 - recalled(obs)  # noqa: E731
    assert mean_return(env, wrong_before, 20) == 1.0


def test_cues_are_fixed_by_the_seed():
    def cues(seed):
        env = MemoryCueEnv({"cue_num": 6})
        env.seed(seed)
        return [int(env.reset().argmax()) for _ in range(20)]

    assert cues(3) == cues(3) != cues(4)


def test_frames():
    env = MemoryCueEnv({"delay": 2, "cue_num": 3, "render_mode": "rgb_array"})
    env.seed(0)
    cue = recalled([env.reset()])
    frames = [env.render()]
    for _ in range(3):
        env.step(0)
        frames.append(env.render())
    assert all(f.dtype == np.uint8 and f.shape == (64, 96, 3) for f in frames)
    lit = frames[0][16, 16::32, 0]
    assert lit.argmax() == cue and (lit == 255).sum() == 1 and (frames[1][16, 16::32] == 90).all()
    assert [int(f[48, :, 0].max()) for f in frames] == [0, 90, 255, 255]
    with pytest.raises(ConfigError, match="memory_cue was made without frames; set env"):
        MemoryCueEnv({}).render()


def test_registered_by_name():
    cfg = {"env_type": "memory_cue", "import_names": ["app_zoo.memory_cue.envs.memory_cue_env"], "delay": 5,
           "actor_env_num": 2, "evaluator_env_num": 1}  # fmt: skip
    found, actor_cfgs, evaluator_cfgs = get_vec_env_setting(cfg)
    assert found is MemoryCueEnv and (actor_cfgs, evaluator_cfgs) == ([{"delay": 5}] * 2, [{"delay": 5}])


def test_what_it_refuses():
    for cfg, message in (({"delay": 0}, "env.delay"), ({"cue_num": 1}, "env.cue_num"), ({"cues": 3}, "env.cues")):
        with pytest.raises(ConfigError, match=message):
            MemoryCueEnv(cfg)
    env = MemoryCueEnv({"delay": 1})
    with pytest.raises(EnvFault, match="memory_cue: step\\(\\) without an episode under way"):
        env.step(0)
    env.reset()
    with pytest.raises(SpecError, match="memory_cue: action 2 is not among its 2 actions"):
        env.step(2)
    env.step(0)
    env.step(0)
    with pytest.raises(EnvFault, match="without an episode under way"):
        env.step(0)
