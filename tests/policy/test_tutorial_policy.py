"""The tutorial's own policy class: loads from a YAML of the tutorial's form, learns what the built-in one learns."""

import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from nervex.config.source import ConfigSource, read_source
from nervex.entry import serial_pipeline
from nervex.entry.compile_config import compile_config
from nervex.envs.base_env import BaseEnv, BaseEnvInfo, BaseEnvTimestep, EnvElementInfo
from nervex.policy import POLICY_REGISTRY, CommonPolicy, DQNPolicy
from nervex.utils.errors import ConfigError
from nervex.utils.import_helper import import_names

TUTORIAL = Path(__file__).with_name("tutorial_dqn.py")


@pytest.fixture(autouse=True)
def built_in_again(monkeypatch):
    """The name 'dqn', which the tutorial's class takes, is the built-in policy's again afterwards."""
    monkeypatch.setattr(POLICY_REGISTRY, "_entries", dict(POLICY_REGISTRY._entries))


YAML = """
common:
  name: cartpole_dqn
  save_path: '.'
  load_path: ''
  time_wrapper_type: time
env:
  env_manager_type: base
  import_names: [app_zoo.classic_control.cartpole.envs.cartpole_env]
  env_type: cartpole
  actor_env_num: 8
  evaluator_env_num: 5
policy:
  use_cuda: False
  policy_type: dqn
  import_names: [tutorial_dqn.py]
  on_policy: False
  model:
    obs_dim: 4
    action_dim: 2
    embedding_dim: 64
    dueling: True
  learn:
    train_step: 3
    batch_size: 64
    learning_rate: 0.001
    weight_decay: 0
    algo:
      target_update_freq: 100
      discount_factor: 0.95
      nstep: 1
  collect:
    traj_len: 1
    unroll_len: 1
    algo:
      nstep: 1
  command:
    eps:
      type: exp
      start: 0.95
      end: 0.1
      decay: 10000
replay_buffer:
  meta_maxlen: 100000
  max_reuse: 100
  unroll_len: 1
  min_sample_ratio: 1
actor:
  n_sample: 8
  traj_len: 1
  traj_print_freq: 100
  collect_print_freq: 100
evaluator:
  n_episode: 5
  eval_freq: 200
  stop_val: 195
learner:
  hook:
    log_show:
      name: log_show
      type: log_show
      priority: 20
      position: after_iter
      ext_args:
        freq: 100
command:
  placeholder: placeholder
"""


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    """A registry in which nobody has asked for a policy yet; what a test registers is forgotten afterwards."""
    monkeypatch.setattr(POLICY_REGISTRY, "_entries", {})
    modules = set(sys.modules)
    yield
    for name in set(sys.modules) - modules:
        if name.startswith("nervex_user_"):
            del sys.modules[name]


def config(nstep=1, traj_len=1, **changed):
    cfg = yaml.safe_load(YAML)
    cfg["policy"]["import_names"] = [str(TUTORIAL)]
    cfg["policy"]["learn"]["algo"]["nstep"] = cfg["policy"]["collect"]["algo"]["nstep"] = nstep
    cfg["policy"]["collect"]["traj_len"] = cfg["actor"]["traj_len"] = traj_len
    for path, value in changed.items():
        *sections, key = path.split("__")
        section = cfg
        for name in sections:
            section = section.setdefault(name, {})
        section[key] = value
    return cfg


class TestLoading:
    def test_a_file_beside_the_yaml(self, tmp_path):
        shutil.copy(TUTORIAL, tmp_path)
        (tmp_path / "my_config.yaml").write_text(YAML)
        compiled = compile_config(read_source(tmp_path / "my_config.yaml"))
        assert compiled.policy_class is not DQNPolicy and issubclass(compiled.policy_class, CommonPolicy)
        assert compiled.policy_class.__name__ == "DQNPolicy"
        assert Path(sys.modules[compiled.policy_class.__module__].__file__) == tmp_path / "tutorial_dqn.py"
        policy = compiled.policy_class(compiled.cfg.policy)
        assert policy._gamma == 0.95 and policy._nstep == 1 and policy._collect_nstep == 1
        assert policy._optimizer.defaults["lr"] == 0.001 and policy.window is None

    def test_infinity_arrives_as_infinity(self):
        """The tutorial compares where it means to assign: ``self._traj_len == float("inf")``."""
        compiled = compile_config(ConfigSource.from_dict(config(traj_len="inf")))
        assert compiled.policy_class(compiled.cfg.policy)._traj_len == math.inf

    def test_a_key_that_it_reads_and_the_file_lacks(self, tmp_path):
        cfg = config(max_env_step=10)
        del cfg["policy"]["learn"]["algo"]["target_update_freq"]
        with pytest.raises(ConfigError, match="policy DQNPolicy reads a key that the config lacks: "
                                              r"no key 'policy\.learn\.algo\.target_update_freq'"):  # fmt: skip
            serial_pipeline(cfg, run_dir=tmp_path / "run", show=False)

    def test_it_replaces_the_built_in_one_with_one_line(self, caplog):
        with caplog.at_level("INFO", logger="nervex"):
            compile_config(ConfigSource.from_dict(config()))
        assert [r.message for r in caplog.records if "policy 'dqn'" in r.message and "replaces" in r.message]
        assert POLICY_REGISTRY.get("dqn") is not DQNPolicy

    @pytest.mark.parametrize("first", ["builtin", "user"])
    def test_whichever_of_the_two_is_imported_first(self, first):
        def builtin():
            POLICY_REGISTRY.register("dqn", DQNPolicy)  # the last line of nervex.policy.dqn

        def user():
            import_names([str(TUTORIAL)], "policy.import_names", package="nervex.policy")

        for register in (builtin, user) if first == "builtin" else (user, builtin):
            register()
        assert POLICY_REGISTRY.get("dqn").__module__.startswith("nervex_user_")


def batch(nstep, seed, size=64):
    rng = torch.Generator().manual_seed(seed)
    return {
        "obs": torch.randn(size, 4, generator=rng),
        "next_obs": torch.randn(size, 4, generator=rng),
        "action": torch.randint(2, (size,), generator=rng),
        "reward": torch.randn(size, nstep, generator=rng),
        "done": torch.rand(size, generator=rng) < 0.3,
        "weight": torch.rand(size, generator=rng),
    }


@pytest.mark.parametrize("nstep", [1, 3])
def test_it_learns_from_a_batch_what_the_built_in_one_learns(nstep):
    cfg = config(nstep, policy__learn__algo__target_update_freq=2)
    compiled = compile_config(ConfigSource.from_dict(cfg))
    tutorial = compiled.policy_class(compiled.cfg.policy)
    builtin = DQNPolicy({k: v for k, v in cfg["policy"].items() if k != "import_names"})
    builtin.model.load_state_dict(tutorial.model.state_dict())
    builtin._agent.target_update(builtin._agent.state_dict()["model"], direct=True)
    builtin._agent.target_reset()
    for seed in range(5):
        samples = batch(nstep, seed)
        own = samples | ({"reward": samples["reward"][:, 0]} if nstep == 1 and seed == 0 else {})
        found = tutorial.learn_mode.forward(tutorial.learn_mode.data_preprocess(own))["total_loss"]
        factor = {"value_gamma": torch.full((64,), 0.95**nstep)}
        expected = builtin.learn_mode.forward(builtin.learn_mode.data_preprocess(samples | factor))["total_loss"]
        assert found == pytest.approx(expected.item(), rel=1e-6)
    for a, b in zip(tutorial.model.parameters(), builtin.model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("nstep, traj_len", [(1, 1), (3, 11)])
def test_it_runs(tmp_path, nstep, traj_len):
    cfg = config(nstep, traj_len, max_env_step=500, torch_threads=1, evaluator__n_episode=2)
    result = serial_pipeline(cfg, seed=0, run_dir=tmp_path / "run", show=False)
    assert type(result.policy).__module__.startswith("nervex_user_tutorial_dqn")
    assert result.result["stop_reason"] == "max_env_step" and 500 <= result.result["env_step"] < 500 + 8 * 11
    assert result.result["train_iter"] >= 15
    assert 0.1 < result.policy._eps < 0.95  # the command's setting reached it


def test_priorities_that_it_does_not_give_are_missed_at_once(tmp_path):
    cfg = config(max_env_step=500, replay_buffer__sampler="prioritized", torch_threads=1, evaluator__n_episode=1)
    with pytest.raises(ConfigError, match="the policy's _forward_learn returned no 'priority'"):
        serial_pipeline(cfg, seed=0, run_dir=tmp_path / "run", show=False)


class OneStateEnv(BaseEnv):
    """One state, every step pays 1, a time limit after 5 steps: Q = 1 / (1 − γ) whatever the action."""

    end = "truncated"

    def __init__(self, cfg):
        self.count = 0

    def reset(self):
        self.count = 0
        return np.ones(1, np.float32)

    def step(self, action):
        self.count += 1
        done = self.count == 5
        return BaseEnvTimestep(
            np.ones(1, np.float32), 1.0, done, {"truncated": self.end == "truncated"} if done else {}
        )

    def seed(self, seed):
        pass

    def close(self):
        pass

    def info(self):
        return BaseEnvInfo(
            agent_num=1,
            obs_space=EnvElementInfo(1, {"dtype": np.float32}),
            act_space=EnvElementInfo(2, {"dtype": np.int64}),
            rew_space=EnvElementInfo(1, {"dtype": np.float32}),
        )

    def __repr__(self):
        return "one state"


class EndingEnv(OneStateEnv):
    """The same, but the fifth step terminates."""

    end = "terminated"


class Table(nn.Module):
    """One value per action."""

    def __init__(self, obs_dim, action_dim):
        super().__init__()
        self.value = nn.Linear(obs_dim, action_dim, bias=False)

    def forward(self, x):
        return {"logit": self.value(x["obs"])}


def learned_q(tmp_path, env, nstep, traj_len):
    cfg = config(
        nstep, traj_len, max_train_iter=600, torch_threads=1, learner={"log_freq": 500},
        evaluator={"n_episode": 1, "eval_freq": 10_000}, actor__n_sample=100,  # a fifth of each action's rows end
        policy__model={}, policy__learn__train_step=20, policy__learn__learning_rate=0.1,
        policy__learn__algo__discount_factor=0.9, policy__learn__algo__target_update_freq=4,
        policy__command__eps={"type": "linear", "start": 0.5, "end": 0.5, "decay": 1},
    )  # fmt: skip
    result = serial_pipeline(
        cfg, seed=0, env_setting=(env, [{}, {}, {}], [{}]), model_type=Table, run_dir=tmp_path / "run", show=False
    )
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    return result.policy.model.value.weight.detach().flatten().tolist(), rows


@pytest.mark.parametrize("nstep, traj_len", [(1, 1), (1, 7), (3, 7), (3, 1), (3, "inf")])
def test_it_bootstraps_at_a_time_limit(tmp_path, nstep, traj_len):
    """It knows only ``done``; were that the union of both ends, it would learn 3.6 or 3.1."""
    q, rows = learned_q(tmp_path, OneStateEnv, nstep, traj_len)
    assert q == pytest.approx([10.0, 10.0], abs=0.1)
    dropped = max(row.get("dropped_window", 0) for row in rows)
    assert (dropped > 0) is (nstep == 3)  # two of five windows are cut short, and its loss takes no value_gamma


@pytest.mark.parametrize("nstep, expected", [(1, 1 / (1 - 0.9 * 4 / 5)), (3, 2.206 / (1 - 0.729 * 2 / 5))])
def test_it_does_not_at_a_termination(tmp_path, nstep, expected):
    """The mean over the five steps: 4 of 5 one-step windows bootstrap, 2 of 5 three-step windows."""
    q, _ = learned_q(tmp_path, EndingEnv, nstep, 7)
    assert q == pytest.approx([expected] * 2, abs=0.4)
