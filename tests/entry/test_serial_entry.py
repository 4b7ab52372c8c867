"""A serial run as a whole: same seed same metrics, budgets, hooks, what leads to an error before it begins."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from entry.serial_tool import RESULT_KEYS, config, equal_weights, rows, train
from torch import nn

import nervex
from nervex.config.source import ConfigSource
from nervex.entry.compile_config import compile_config
from nervex.entry.learning import ReplayLearning
from nervex.entry.serial_parts import build_parts
from nervex.policy import DQNPolicy
from nervex.torch_utils.checkpoint import CheckpointManager
from nervex.utils.config_helper import read_config
from nervex.utils.errors import ConfigError, RunFolderError
from nervex.utils.registry import Registry
from nervex.worker.actor.serial_actor import BaseSerialActor
from nervex.worker.monitor.sink import MetricSink


def test_run_folder_and_result(tmp_path: Path) -> None:
    cfg = config()
    before = json.dumps(cfg, default=str)
    outcome = train(tmp_path / "run", cfg)
    assert json.dumps(cfg, default=str) == before  # the caller's object is left alone
    assert isinstance(outcome.policy, DQNPolicy)
    for name in (
        "config.yaml",
        "versions.json",
        "metrics.jsonl",
        "result.json",
        "curve.png",
        "tensorboard",
        "checkpoints",
    ):
        assert (tmp_path / "run" / name).exists(), name
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result.keys() >= RESULT_KEYS
    assert all(outcome.result[key] == result[key] for key in ("env_step", "train_iter", "stop_reason"))
    assert result["stop_reason"] == "max_env_step" and result["seed"] == 1 and not result["solved"]
    assert 700 <= result["env_step"] < 700 + 8
    resolved = read_config(tmp_path / "run" / "config.yaml")
    assert resolved.seed == 1 and resolved.policy.model.obs_dim == 4 and resolved.policy.learn.algo.double is True
    assert rows(tmp_path / "run")[-1]["kind"] == "eval"  # the last weights are evaluated, too
    assert result["last_eval_return"] == rows(tmp_path / "run")[-1]["eval_return"]


@pytest.mark.parametrize("manager", ["base", "sync_subprocess"])
@pytest.mark.parametrize("sampler", ["uniform", "prioritized"])
def test_same_seed_same_metrics_other_seed_others(tmp_path: Path, manager: str, sampler: str) -> None:
    cfg = config(env__env_manager_type=manager, replay_buffer__sampler=sampler)
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        train(tmp_path / name, cfg, seed=seed)
    assert rows(tmp_path / "a") == rows(tmp_path / "b")
    assert equal_weights(tmp_path / "a", tmp_path / "b")
    assert rows(tmp_path / "a") != rows(tmp_path / "c")


def test_managers_agree(tmp_path: Path) -> None:
    for manager in ("base", "sync_subprocess"):
        train(tmp_path / manager, config(env__env_manager_type=manager))
    assert rows(tmp_path / "base") == rows(tmp_path / "sync_subprocess")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy__model__embedding_dim": -3}, "cannot be built from policy.model"),
        ({"learner__hook": {"h": 3}}, "learner.hook.h"),
        ({"learner__hook": {"h": {"typ": "save_ckpt"}}}, "learner.hook.h.typ"),
        ({"policy__collect__unroll_len": 4}, "single rows"),
        ({"replay_buffer__meta_maxlen": 70, "policy__learn__batch_size": 64}, "hardly holds|make"),
    ],
)
def test_bad_values_leave_nothing_behind(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train(tmp_path / "run", config(**changes))
    assert list(tmp_path.iterdir()) == []


def test_an_existing_run_folder_is_refused(tmp_path: Path) -> None:
    train(tmp_path / "run")
    before = sorted(p.name for p in (tmp_path / "run").iterdir())
    with pytest.raises(RunFolderError, match="--resume"):
        train(tmp_path / "run")
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == before


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"max_train_iter": 40}, "max_train_iter"), ({"max_wall_s": 0.5, "max_env_step": 10**6}, "max_wall_s")],
)
def test_budgets_end_a_run(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    result = train(tmp_path / "run", config(**changes)).result
    assert result["stop_reason"] == reason
    if reason == "max_train_iter":
        assert result["train_iter"] == 40


def test_a_run_stops_only_on_a_confirmed_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nervex.worker.actor.serial_evaluator import BaseSerialEvaluator, EvalResult

    played = []

    def evaluate(self: Any, n_episode: int, stop: Any = None) -> EvalResult:
        played.append(n_episode)
        lucky = n_episode == 2 and len(played) < 5  # good in the small evaluation, bad in the confirmation
        value = 50.0 if lucky or len(played) > 4 else 1.0
        return EvalResult(np.full(n_episode, value), np.ones(n_episode, dtype=np.int64))

    monkeypatch.setattr(BaseSerialEvaluator, "evaluate", evaluate)
    result = train(tmp_path / "run", config(evaluator__stop_val=40)).result
    assert played == [2, 100, 2, 100, 2, 100]
    assert result["solved"] and result["stop_reason"] == "stop_val" and result["last_eval_episode"] == 100


def test_random_collection_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    original = BaseSerialActor.generate_data

    def spy(self: Any, *args: Any, **kwargs: Any) -> Any:
        sizes.append((kwargs.get("n_sample"), kwargs.get("random", False)))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(BaseSerialActor, "generate_data", spy)
    train(tmp_path / "run", config(actor__random_collect_size=100))
    assert sizes[0] == (100, True) and not any(random for _, random in sizes[1:])


def test_hooks_sinks_and_own_model(tmp_path: Path) -> None:
    class Memory(MetricSink):
        def __init__(self) -> None:
            self.rows: list[Any] = []

        def write(self, row: Any) -> None:
            self.rows.append(row)

    class Net(nn.Module):
        def __init__(self, obs_dim: int, action_dim: int) -> None:
            super().__init__()
            self.layer = nn.Linear(obs_dim, action_dim)

        def forward(self, x: Any) -> dict[str, Any]:
            return {"logit": self.layer(x["obs"])}

    seen: list[int] = []
    memory = Memory()
    cfg = config()
    cfg["policy"] = {**cfg["policy"], "model": {}}
    outcome = train(
        tmp_path / "a", cfg, hooks=[lambda learner: seen.append(learner.last_iter.val)], sinks=[memory], model_type=Net
    )
    assert seen == list(range(1, outcome.result["train_iter"] + 1))
    assert isinstance(outcome.policy.model, Net)
    assert [r.kind for r in memory.rows] == [r["kind"] for r in rows(tmp_path / "a")]
    network = Net(4, 2)
    assert train(tmp_path / "b", config(), model=network).policy.model is network


def test_an_own_model_with_normalized_observations(tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, x: Any) -> dict[str, Any]:
            return {"logit": self.layer(x["obs"])}

    network = Net()
    outcome = train(tmp_path / "run", config(policy__normalize={"obs": True}, policy__model={}), model=network)
    assert outcome.policy.model.model is network and outcome.policy.model.moments[0].count >= 700
    served = nervex.load(tmp_path / "run", model=Net())
    assert served.act(np.zeros((3, 4)), deterministic=False).shape == (3,)


def test_a_collection_that_was_stopped_is_no_reason_to_learn() -> None:
    compiled = compile_config(ConfigSource.from_dict(config(actor__n_sample=8, policy__learn__train_step=3)))
    parts = build_parts(compiled)
    learning = ReplayLearning(compiled.cfg, parts)
    parts.command.step()
    assert learning.loop(lambda: False) and parts.learner.last_iter.val == 3
    begin = parts.actor.sample_count
    assert not learning.loop(lambda: parts.actor.sample_count >= begin + 4)
    assert parts.actor.sample_count == begin + 4 and parts.learner.last_iter.val == 3
    assert learning.loop(lambda: False)
    assert parts.actor.sample_count == begin + 8 and parts.learner.last_iter.val == 6
    parts.close()


def test_weights_can_be_loaded(tmp_path: Path) -> None:
    train(tmp_path / "a")
    first = train(tmp_path / "b", config(max_train_iter=1, evaluator__n_episode=1), load=tmp_path / "a")
    begun = CheckpointManager(tmp_path / "a" / "checkpoints").pinned("best")
    assert begun is not None and first.result["train_iter"] == 1
    with pytest.raises(ConfigError, match="do not fit"):
        train(tmp_path / "c", config(policy__model__embedding_dim=32), load=tmp_path / "a")


def test_gymnasium_env_by_config_alone(tmp_path: Path) -> None:
    cfg = config()
    cfg["env"] = {"env_type": "gymnasium", "env_id": "Acrobot-v1", "actor_env_num": 2, "evaluator_env_num": 1}
    cfg["policy"] = {"policy_type": "dqn"}
    cfg["evaluator"]["n_episode"] = 1
    outcome = train(tmp_path / "run", cfg)
    assert outcome.result["env"] == "Acrobot-v1"
    assert -500 <= outcome.result["last_eval_return"] <= 0


def test_config_source_and_registry_names() -> None:
    source = ConfigSource.from_dict(config())
    assert source.data["max_env_step"] == 700
    with pytest.raises(ConfigError, match="did you mean 'dqn'"):
        Registry("policy", {"dqn": "nervex.policy.dqn:DQNPolicy"}).get("dqm")
