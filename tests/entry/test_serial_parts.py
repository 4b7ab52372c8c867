"""What ``env_manager_type: auto`` becomes in a run, and what a resumed one keeps."""

import json
from pathlib import Path
from typing import Any

import pytest

from nervex.config.source import apply_overrides, read_source
from nervex.entry import serial_pipeline
from nervex.entry.catalog import find_config
from nervex.entry.compile_config import CompiledConfig, compile_config
from nervex.entry.serial_parts import build_parts, settle_env_manager
from nervex.utils.config_helper import read_config
from nervex.worker.actor.env_manager import BaseEnvManager, SyncSubprocessEnvManager
from nervex.worker.actor.env_manager import auto as auto_module

AUTO = ["env.env_manager_type=auto", "env.actor_env_num=4", "env.evaluator_env_num=2", "env.manager.worker_num=3"]


def compiled(*overrides: str) -> CompiledConfig:
    return compile_config(apply_overrides(read_source(find_config("cartpole_dqn")), [*AUTO, *overrides]))


@pytest.fixture
def step_s(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What the measurement finds; ``{'s': seconds}``."""
    found = {"s": 1e-6}
    monkeypatch.setattr(auto_module, "usable_cores", lambda: 3)
    monkeypatch.setattr(auto_module, "measured_step", lambda env_fn, cfg: (found["s"], 9))
    return found


def test_a_choice_is_written_into_the_configuration(step_s: dict[str, float]) -> None:
    original = compiled()
    settled = settle_env_manager(original)
    assert (settled.cfg.env.env_manager_type, settled.cfg.env.manager) == ("base", {})
    assert original.cfg.env.env_manager_type == "auto" and original.cfg.env.manager.worker_num == 3
    assert settle_env_manager(settled) is settled
    step_s["s"] = 1e-2
    settled = settle_env_manager(original)
    assert (settled.cfg.env.env_manager_type, settled.cfg.env.manager) == ("sync_subprocess", {"worker_num": 3})


def test_the_choice_before_is_kept(step_s: dict[str, float]) -> None:
    step_s["s"] = 1e-2
    before = {"env": {"env_manager_type": "base", "manager": {}}}
    assert settle_env_manager(compiled(), before).cfg.env.env_manager_type == "base"


def test_parts_have_the_chosen_manager(step_s: dict[str, float]) -> None:
    step_s["s"] = 1e-2
    parts = build_parts(compiled(), launch=False)
    assert type(parts.actor.env) is type(parts.evaluator.env) is SyncSubprocessEnvManager
    assert (parts.actor.env._worker_num, parts.evaluator.env._worker_num) == (3, 2)  # no more than it has envs
    parts.close()
    step_s["s"] = 1e-6
    parts = build_parts(compiled(), launch=False)
    assert type(parts.actor.env) is BaseEnvManager
    parts.close()


def test_a_resumed_run_keeps_its_manager(tmp_path: Path, step_s: dict[str, float]) -> None:
    def train(steps: int, **options: Any) -> int:
        budget = [f"max_env_step={steps}", "evaluator.n_episode=2", "evaluator.eval_freq=1000"]
        source = apply_overrides(read_source(find_config("cartpole_dqn")), [*AUTO, *budget])
        outcome = serial_pipeline(source, run_dir=tmp_path / "run", show=False, **options)
        return int(json.loads((outcome.run_dir / "result.json").read_text())["env_step"])

    assert train(60) < 80
    step_s["s"] = 1e-2
    assert train(120, resume=True) >= 120
    env = read_config(tmp_path / "run" / "config.yaml").env
    assert (env.env_manager_type, dict(env.manager)) == ("base", {})
