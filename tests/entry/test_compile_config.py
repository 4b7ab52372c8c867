"""From a file to a checked configuration: values with one home, filled-in sizes, places in messages."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nervex.config.schema import option
from nervex.config.source import ConfigSource, apply_overrides, read_source
from nervex.entry.catalog import find_config, shipped_configs
from nervex.entry.compile_config import compile_config
from nervex.entry.learning import RolloutLearning
from nervex.entry.serial_parts import build_parts
from nervex.policy import POLICY_REGISTRY, DQNPolicy
from nervex.policy.config import LearnConfig, PolicyConfig
from nervex.utils.errors import ConfigError, MissingKeyError


def compiled(*overrides: str, **kwargs: Any) -> Any:
    return compile_config(apply_overrides(read_source(find_config("cartpole_dqn")), overrides), **kwargs)


def test_every_shipped_config_compiles_and_is_its_own_resolved_form() -> None:
    for path in shipped_configs().values():
        once = compile_config(read_source(path)).cfg.to_dict()
        assert compile_config(ConfigSource.from_dict(once)).cfg.to_dict() == once


def test_a_value_with_one_home_is_readable_under_each_path() -> None:
    cfg = compiled("policy.learn.algo.nstep=4", "actor.traj_len=2", "policy.collect.traj_len=2").cfg
    assert cfg.policy.collect.algo.nstep == 4
    assert cfg.policy.collect.traj_len == cfg.actor.traj_len == 2
    assert compiled("policy.collect.traj_len=inf", "actor.traj_len=200").cfg.actor.traj_len == math.inf
    assert compiled("replay_buffer.unroll_len=1").cfg.policy.collect.unroll_len == 1


def test_two_values_for_one_home_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"policy\.collect\.algo\.nstep.*one value"):
        compiled("policy.collect.algo.nstep=2")


def minimal(policy_type: str, **policy: Any) -> ConfigSource:
    """What a user gives at least."""
    env = {"env_type": "gymnasium", "env_id": "CartPole-v1", "actor_env_num": 2, "evaluator_env_num": 1}
    return ConfigSource.from_dict(
        {"env": env, "policy": {"policy_type": policy_type, **policy}, "max_env_step": 100}, name="minimal"
    )


@pytest.mark.parametrize("policy_type", ["ppo", "a2c", "impala"])
def test_a_rollout_without_a_length_has_the_default_one_of_the_policy(policy_type: str) -> None:
    compiled = compile_config(minimal(policy_type))
    cfg = compiled.cfg
    length = POLICY_REGISTRY.get(policy_type).config_class().collect.traj_len
    assert length > 1 and cfg.actor.traj_len == cfg.policy.collect.traj_len == length
    assert compile_config(ConfigSource.from_dict(cfg.to_dict())).cfg.to_dict() == cfg.to_dict()
    parts = build_parts(compiled)
    RolloutLearning(cfg, parts).collect()
    assert parts.rollout is not None
    assert [block["valid"].shape for block in parts.rollout.blocks] == [(length, 2)]
    parts.close()


def test_a_rollout_holds_a_block_of_each_env() -> None:
    """Fewer rows would leave calls of the actor that bring nothing to learn from."""
    source = minimal("ppo", collect={"traj_len": 16})
    assert compile_config(apply_overrides(source, ["actor.n_sample=32"])).cfg.actor.n_sample == 32
    with pytest.raises(
        ConfigError, match=r"actor\.n_sample' .*is 31, less than a rollout of traj_len = 16 rows.*32 or"
    ):
        compile_config(apply_overrides(source, ["actor.n_sample=31"]))


def test_sequences_without_a_length_have_the_default_one_of_the_policy() -> None:
    cfg = compile_config(minimal("r2d2")).cfg
    length = POLICY_REGISTRY.get("r2d2").config_class().collect.unroll_len
    assert length > 1 and cfg.replay_buffer.unroll_len == cfg.policy.collect.unroll_len == length
    assert compile_config(ConfigSource.from_dict(cfg.to_dict())).cfg.to_dict() == cfg.to_dict()


@pytest.mark.parametrize("key", ["actor_env_num", "evaluator_env_num"])
@pytest.mark.parametrize("policy_type", ["ppo", "dqn"])
def test_numbers_of_envs_that_are_left_out_have_one_home_too(policy_type: str, key: str) -> None:
    source = minimal(policy_type)
    del source.data["env"][key]
    cfg = compile_config(source).cfg
    mode = cfg.policy.collect if key == "actor_env_num" else cfg.policy.eval
    assert mode.env_num == cfg.env[key]
    assert compile_config(ConfigSource.from_dict(cfg.to_dict())).cfg.to_dict() == cfg.to_dict()


@pytest.mark.parametrize("policy_type", ["ppo", "a2c"])
@pytest.mark.parametrize("key", ["discount_factor", "gae_lambda"])
def test_what_advantages_need_may_be_given_where_they_are_made(policy_type: str, key: str) -> None:
    cfg = compile_config(minimal(policy_type, collect={"algo": {key: 0.5}})).cfg
    assert cfg.policy.learn.algo[key] == cfg.policy.collect.algo[key] == 0.5
    cfg = compile_config(minimal(policy_type, learn={"algo": {key: 0.25}})).cfg
    assert cfg.policy.learn.algo[key] == cfg.policy.collect.algo[key] == 0.25
    two = minimal(policy_type, learn={"algo": {key: 0.5}}, collect={"algo": {key: 0.25}})
    with pytest.raises(ConfigError, match=rf"policy\.collect\.algo\.{key}' .*is 0\.25, but .*is 0\.5; they are one"):
        compile_config(two)


def test_a_schema_without_the_other_path_is_left_alone() -> None:
    @dataclass
    class Algo:
        nstep: int = option(1)

    @dataclass
    class Learn(LearnConfig):
        algo: Algo = option(default_factory=Algo)

    @dataclass
    class Config(PolicyConfig):
        learn: Learn = option(default_factory=Learn)

    class Own(DQNPolicy):
        config_class = Config

        @classmethod
        def model_class(cls, cfg: Any) -> Any:
            return None

    source = ConfigSource.from_dict(
        {"env": {"env_type": "gymnasium", "env_id": "CartPole-v1"}, "max_env_step": 10,
         "policy": {"learn": {"algo": {"nstep": 2}}}}
    )  # fmt: skip
    cfg = compile_config(source, policy_type=Own).cfg
    assert cfg.policy.learn.algo.nstep == 2 and "algo" not in cfg.policy.collect


def test_sizes_are_filled_in_from_the_env() -> None:
    cfg = compiled("env.env_type=gymnasium", "env.env_id=Acrobot-v1", "policy.model={}").cfg
    assert (cfg.policy.model.obs_dim, cfg.policy.model.action_dim) == (6, 3)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["policy.model.obs_dim=5"], r"'policy\.model\.obs_dim' on the command line is 5.*4"),
        (["policy.model.hidden=5"], r"unknown key 'policy\.model\.hidden'"),
        (["max_env_step=inf", "evaluator.stop_val=inf"], "has no end"),
        (["actor.n_episode=2"], "one of the two"),
        (["replay_buffer.min_sample_ratio=900"], "meta_maxlen"),
        (["env.env_type=cartpol"], "did you mean 'cartpole'"),
        (["env.env_manager_type=subproces"], "did you mean 'subprocess'"),
        (["policy.learn.bach_size=3", "max_env_stp=1"], "did you mean 'max_env_step'"),
        (["batch_size=3"], "unknown key 'batch_size'"),
    ],
)  # fmt: skip
def test_bad_values_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compiled(*overrides)


def test_files_on_the_command_line_are_looked_for_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text("X = 1\n")
    monkeypatch.chdir(tmp_path)
    assert compiled("policy.import_names=[mine.py]").cfg.policy.import_names == [str(tmp_path / "mine.py")]


def test_a_missing_key_is_told_and_hasattr_works() -> None:
    cfg = compiled().cfg
    assert not hasattr(cfg.policy, "nonsense")
    with pytest.raises(MissingKeyError, match=r"policy\.learn\.algo\.nstpe.*did you mean 'nstep'"):
        _ = cfg.policy.learn.algo.nstpe
