"""``nervex profile``: shares that sum up, a run that takes no notice, limits that count, errors in one line."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from nervex.cli import main
from nervex.config.source import ConfigSource, apply_overrides, read_source
from nervex.entry import profile as module
from nervex.entry.catalog import find_config
from nervex.entry.compile_config import compile_config
from nervex.entry.profile import PARTS, Profile, Stretch, profile_config
from nervex.entry.serial_entry import serial_pipeline
from nervex.entry.serial_parts import build_parts
from nervex.entry.serial_run import SerialRun
from nervex.utils.errors import ConfigError

SMALL = ["env.actor_env_num=4", "env.evaluator_env_num=1", "evaluator.n_episode=1", "evaluator.eval_freq=10",
         "evaluator.stop_val=1000", "replay_buffer.meta_maxlen=2000", "policy.learn.batch_size=16", "actor.n_sample=4",
         "policy.model.embedding_dim=8", "policy.model.norm_type=null"]  # fmt: skip


def source(*overrides: str) -> ConfigSource:
    return apply_overrides(read_source(find_config("cartpole_dqn")), [*SMALL, *overrides])


@pytest.fixture(scope="module")
def profile() -> Profile:
    return profile_config(source(), 200)


def test_shares_sum_up_to_the_whole(profile: Profile) -> None:
    assert tuple(profile.shares) == PARTS
    shares = profile.shares.values()
    assert sum(s.percent for s in shares) == pytest.approx(100)
    assert sum(s.wall_ms for s in shares) * profile.env_step / 1e3 == pytest.approx(profile.wall_s)
    assert sum(s.cpu_ms for s in shares) * profile.env_step / 1e3 == pytest.approx(profile.cpu_s)
    assert all(s.wall_ms >= 0 and s.cpu_ms >= 0 for s in shares)


def test_the_stretch_holds_whole_loops(profile: Profile) -> None:
    assert 200 <= profile.env_step < 210  # loops of 4 env steps, some rows are resets
    loops = profile.update / 5
    assert loops == int(loops)
    shares = profile.shares
    assert shares["update"].calls == profile.update
    assert shares["replay"].calls >= profile.update + loops  # samples and pushes
    assert shares["env"].calls == shares["act"].calls  # two functions each, once per step
    assert shares["evaluation"].calls == loops // 10


def test_rates_leave_evaluation_out(profile: Profile) -> None:
    training_s = profile.wall_s * (1 - profile.shares["evaluation"].percent / 100)
    assert profile.env_step_per_s == pytest.approx(profile.env_step / training_s)
    assert profile.update_per_s == pytest.approx(profile.update / training_s)


def test_the_limit_counts_the_products_of_the_network(profile: Profile) -> None:
    # encoder 3 layers, two heads of 2 layers: 7; an update of double DQN acts three times and goes back once, where
    # the first layer needs no gradient of its input
    limit = profile.limit
    assert limit.act_products == 7 and limit.update_products == 3 * 7 + 2 * 7
    assert set(limit.wall_ms) == {"env", "act", "update", "total"} and min(limit.wall_ms.values()) > 0
    assert limit.wall_ms["total"] == pytest.approx(sum(limit.wall_ms[k] for k in ("env", "act", "update")))
    training = sum(s.cpu_ms for name, s in profile.shares.items() if name != "evaluation")
    assert limit.cpu_ratio == pytest.approx(limit.cpu_ms["total"] / training, rel=1e-3)


def test_training_takes_no_notice(tmp_path: Path) -> None:
    compiled = compile_config(source())
    parts = build_parts(compiled)
    stretch = Stretch(parts, 60)
    assert module._train(compiled, parts, stretch, tmp_path / "run") is None
    weights = {k: v.clone() for k, v in parts.policy.model.state_dict().items()}
    update, env_step = parts.learner.last_iter.val, parts.actor.env_step
    parts.close()
    plain = serial_pipeline(source(f"max_train_iter={update}"), run_dir=tmp_path / "plain", show=False)
    assert plain.result["env_step"] == env_step and stretch.env_step >= 60
    for name, value in plain.policy.model.state_dict().items():
        assert torch.equal(value, weights[name]), name


def test_policies_that_learn_from_rollouts() -> None:
    small = ["env.actor_env_num=4", "policy.collect.traj_len=32", "policy.learn.batch_size=32",
             "policy.learn.epoch_per_collect=2", "env.evaluator_env_num=1", "evaluator.n_episode=1"]  # fmt: skip
    profile = profile_config(apply_overrides(read_source(find_config("cartpole_a2c")), small), 128)
    assert profile.env_step >= 128 and profile.shares["replay"].calls > 0
    assert profile.limit.update_products > profile.limit.act_products > 0


def test_the_folder_goes_when_nothing_is_written_to_it_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    settled: list[bool] = []
    settle = SerialRun.settle
    monkeypatch.setattr(SerialRun, "settle", lambda run: (settle(run), settled.append(run.folder.path.is_dir())))
    profile_config(source("learner.save_freq=1"), 40)
    assert settled == [True]


def test_a_native_vector_is_the_limit_of_its_run() -> None:
    profile = profile_config(source("env.env_manager_type=vector"), 40)
    assert profile.limit.wall_ms["env"] > 0


def test_without_a_length_the_budget_may_end_it() -> None:
    profile = profile_config(source("max_env_step=400"))
    assert 0 < profile.env_step < 400


@pytest.mark.parametrize(
    ("steps", "overrides", "message"),
    [
        (0, [], "--steps is 0; expected at least 1 env step"),
        (500, ["max_env_step=300"], "the run ended (max_env_step) after 300 env steps with "),
        (None, ["max_train_iter=20"], "measured, expected one loop after a warm-up of 32 updates; raise max_env_step"),
    ],
)
def test_bad_input(steps: Any, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        profile_config(source(*overrides), steps)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "cartpole_dqn", *SMALL, "--steps", "20", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["name"] == "cartpole_dqn" and set(data["shares"]) == set(PARTS) and data["versions"]["torch"]
    assert main(["profile", "cartpole_dqn", "--steps", "-1"]) == 2
    assert capsys.readouterr().err.startswith("error: --steps is -1; expected at least 1")
    assert main(["profile", "cartpole_dqn", "policy.learn.bach_size=3"]) == 2
    assert "did you mean 'batch_size'?" in capsys.readouterr().err


def test_table(profile: Profile) -> None:
    lines = profile.lines()
    assert all(len(line) < 130 for line in lines)
    rows = {line.split()[0]: line.split() for line in lines[2:9]}
    assert list(rows) == [*PARTS, "total"]
    assert float(rows["update"][1]) == pytest.approx(profile.shares["update"].wall_ms, abs=1e-3)
    assert float(rows["total"][3]) == 100
    assert f"torch threads: {torch.get_num_threads()}" in lines[-1] and "nervex " in lines[-1]
