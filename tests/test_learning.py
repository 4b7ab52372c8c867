"""The main job learns: the shipped recipe solves CartPole-v1 and the tutorial's own class does, too."""

from pathlib import Path

import pytest

from nervex.config.source import apply_overrides, read_source
from nervex.entry import serial_pipeline
from nervex.entry.catalog import find_config
from nervex.entry.eval_entry import evaluate_run
from nervex.policy.base_policy import POLICY_REGISTRY

TUTORIAL = Path(__file__).parent / "policy" / "tutorial_dqn.py"


@pytest.mark.learning
def test_the_shipped_recipe_solves_cartpole(tmp_path: Path) -> None:
    outcome = serial_pipeline("cartpole_dqn", seed=1, run_dir=tmp_path / "run", show=False)
    assert outcome.result["solved"] and outcome.result["env_step"] <= 50_000
    again = evaluate_run(tmp_path / "run", n_episode=50).result
    assert again.mean >= 465  # other episodes, same weights


@pytest.mark.learning
def test_the_tutorials_class_solves_cartpole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(POLICY_REGISTRY, "_entries", dict(POLICY_REGISTRY._entries))  # 'dqn' is the built-in one again
    source = apply_overrides(
        read_source(find_config("cartpole_dqn")),
        [f"policy.import_names=[{TUTORIAL}]", "policy.learn.algo.nstep=1", "policy.collect.algo.nstep=1",
         "policy.learn.algo.target_update_freq=100"],
    )  # fmt: skip
    outcome = serial_pipeline(source, seed=1, run_dir=tmp_path / "run", show=False)
    assert outcome.result["solved"] and outcome.result["env_step"] <= 50_000
