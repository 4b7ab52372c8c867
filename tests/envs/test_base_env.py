"""The contract of an env in numbers: timesteps, info, one config per env, names."""

import numpy as np
import pytest

from nervex.envs import BaseEnv, BaseEnvInfo, BaseEnvTimestep, EnvElementInfo, get_vec_env_setting, register_env
from nervex.envs.registry import ENV_REGISTRY
from nervex.utils.errors import ConfigError


class ThreeStepEnv(BaseEnv):
    def __init__(self, cfg):
        self.cfg = cfg

    def reset(self):
        return np.zeros(2, np.float32)

    def step(self, action):
        return BaseEnvTimestep(np.ones(2, np.float32), 0.5, True, {"final_eval_reward": 1.5})

    def seed(self, seed):
        pass

    def close(self):
        pass

    def info(self):
        box = EnvElementInfo(2, {"dtype": np.float32})
        return BaseEnvInfo(1, box, EnvElementInfo(3, {"dtype": np.int64}), EnvElementInfo(1, {"dtype": np.float32}))

    def __repr__(self):
        return "ThreeStepEnv()"


@pytest.fixture
def names(monkeypatch):
    """The registry, left as it was."""
    monkeypatch.setattr(ENV_REGISTRY, "_entries", dict(ENV_REGISTRY._entries))


def test_a_timestep_is_a_tuple_of_four():
    obs, reward, done, info = ThreeStepEnv({}).step(0)
    assert obs.tolist() == [1.0, 1.0] and (reward, done, info) == (0.5, True, {"final_eval_reward": 1.5})
    assert BaseEnvTimestep(1, 2.0, False, {})._asdict() == {"obs": 1, "reward": 2.0, "done": False, "info": {}}


def test_info_has_spaces_under_both_names():
    info = ThreeStepEnv({}).info()
    assert (info.agent_num, info.obs_space.shape, info.act_space.shape, info.rew_space.shape) == (1, 2, 3, 1)
    assert info.obs_shape.shape == 2 and info.act_shape.shape == 3


@pytest.mark.parametrize("create, key", [("create_actor_env_cfg", "actor_env_num"),
                                         ("create_evaluator_env_cfg", "evaluator_env_num")])  # fmt: skip
def test_each_env_has_a_config_of_its_own(create, key):
    cfg = {"actor_env_num": 5, "evaluator_env_num": 7, key: 3, "size": [1, 2]}
    before = {**cfg, "size": [1, 2]}
    made = getattr(BaseEnv, create)(cfg)
    assert made == [{"size": [1, 2]}] * 3 and cfg == before
    made[0]["size"].append(3)
    assert made[1] == {"size": [1, 2]} and cfg["size"] == [1, 2]
    assert getattr(BaseEnv, create)({"a": 1}) == [{"a": 1}]


def test_an_env_is_found_by_its_name(names):
    register_env("three_steps", ThreeStepEnv)
    section = {
        "env_type": "three_steps",
        "env_manager_type": "base",
        "actor_env_num": 2,
        "evaluator_env_num": 1,
        "size": 4,
    }
    assert get_vec_env_setting(section) == (ThreeStepEnv, [{"size": 4}, {"size": 4}], [{"size": 4}])
    assert section["env_type"] == "three_steps"
    register_env("three_steps", ThreeStepEnv)
    other = type("OtherEnv", (ThreeStepEnv,), {})
    with pytest.raises(
        ConfigError, match=r"env 'three_steps' is registered twice: by .*ThreeStepEnv and by .*OtherEnv"
    ):
        register_env("three_steps", other)
    with pytest.raises(ConfigError, match=r"unknown env 'three_step'; did you mean 'three_steps'\?"):
        get_vec_env_setting({"env_type": "three_step"})
