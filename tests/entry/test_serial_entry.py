"""A serial run as a whole: same seed same metrics, exact resume, budgets, faults."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import nervex
from nervex.config.source import ConfigSource
from nervex.entry import serial_pipeline
from nervex.entry.catalog import find_config
from nervex.entry.compile_config import compile_config
from nervex.entry.learning import ReplayLearning
from nervex.entry.serial_parts import build_parts
from nervex.entry.serial_run import SerialRun
from nervex.envs import BaseEnv, BaseEnvInfo, BaseEnvTimestep, EnvElementInfo, register_env
from nervex.policy import DQNPolicy
from nervex.torch_utils.checkpoint import CheckpointManager
from nervex.torch_utils.checkpoint_writer import CheckpointWriter
from nervex.utils.config_helper import read_config
from nervex.utils.errors import CheckpointError, ConfigError, EnvFault, NumericalError, RunFolderError
from nervex.utils.registry import Registry
from nervex.worker.actor.serial_actor import BaseSerialActor
from nervex.worker.monitor.jsonl_sink import read_metrics
from nervex.worker.monitor.sink import MetricSink, without_time

RESULT_KEYS = {"policy", "env", "seed", "stop_reason", "best_eval_return", "last_eval_return", "env_step", "train_iter",
               "wall_s", "cpu_s", "peak_rss_bytes", "run_dir"}  # fmt: skip


def config(**changes: Any) -> dict[str, Any]:
    """A small CartPole run; ``changes`` are dotted keys with '__' for the dots."""
    cfg = read_config(find_config("cartpole_dqn"))
    base = {"max_env_step": 700, "evaluator__n_episode": 2, "evaluator__eval_freq": 30, "evaluator__stop_val": 1000,
            "learner__log_freq": 50, "env__actor_env_num": 4, "env__evaluator_env_num": 2}  # fmt: skip
    for key, value in {**base, **changes}.items():
        *path, last = key.split("__")
        node = cfg
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return dict(cfg)


def train(run_dir: Path, cfg: dict[str, Any] | None = None, **kwargs: Any) -> Any:
    return serial_pipeline(cfg or config(), seed=kwargs.pop("seed", 1), run_dir=run_dir, show=False, **kwargs)


def rows(run_dir: Path) -> list[dict[str, Any]]:
    return without_time(read_metrics(run_dir / "metrics.jsonl"))


def newest_weights(run_dir: Path) -> dict[str, torch.Tensor]:
    weights = CheckpointManager(run_dir / "checkpoints").load_latest().weights
    assert weights is not None
    return weights


def equal_weights(a: Path, b: Path) -> bool:
    one, two = newest_weights(a), newest_weights(b)
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


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


@pytest.mark.parametrize("nstep", [1, 3])
@pytest.mark.parametrize("sampler", ["uniform", "prioritized"])
def test_resume_equals_an_uninterrupted_run(tmp_path: Path, sampler: str, nstep: int) -> None:
    cfg = config(replay_buffer__sampler=sampler, policy__learn__algo__nstep=nstep, max_env_step=900)
    train(tmp_path / "whole", cfg)

    def interrupt(learner: Any) -> None:
        if learner.last_iter.val == 203:
            os.kill(os.getpid(), signal.SIGINT)

    part = train(tmp_path / "part", cfg, hooks=[interrupt])
    assert part.result["stop_reason"] == "interrupted"
    assert part.result["env_step"] < 900
    whole = train(tmp_path / "part", cfg, resume=True)
    assert whole.result["stop_reason"] == "max_env_step"
    assert rows(tmp_path / "whole") == rows(tmp_path / "part")
    assert equal_weights(tmp_path / "whole", tmp_path / "part")


def test_a_killed_run_resumes_exactly(tmp_path: Path) -> None:
    cfg = config(max_env_step=4000, learner__save_freq=60)
    train(tmp_path / "whole", cfg)
    (tmp_path / "cfg.json").write_text(json.dumps(cfg))
    code = (
        "import json, sys\nfrom nervex.entry import serial_pipeline\n"
        f"cfg = json.load(open({str(tmp_path / 'cfg.json')!r}))\n"
        f"serial_pipeline(cfg, seed=1, run_dir={str(tmp_path / 'killed')!r}, show=False)"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    metrics = tmp_path / "killed" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and (not metrics.exists() or metrics.read_text().count("\n") < 12):
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not (tmp_path / "killed" / "result.json").exists()
    train(tmp_path / "killed", cfg, resume=True)
    assert rows(tmp_path / "whole") == rows(tmp_path / "killed")
    assert equal_weights(tmp_path / "whole", tmp_path / "killed")


def test_a_run_killed_before_its_first_checkpoint_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    train(tmp_path / "before", config(max_env_step=100))
    weights = tmp_path / "before"
    train(tmp_path / "whole", load=weights)

    class Killed(BaseException):
        """Stands for a SIGKILL: nothing is saved after it."""

    def die(*args: Any, **kwargs: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(SerialRun, "save", die)
        with pytest.raises(Killed):
            train(tmp_path / "part", load=weights)
        with pytest.raises(Killed):
            train(tmp_path / "part", resume=True)  # twice in a row
    with pytest.raises(RunFolderError, match=r"learning_rate is 0\.001 there, 0\.1 here"):
        train(tmp_path / "part", config(policy__learn__learning_rate=0.1), resume=True)
    train(tmp_path / "part", resume=True)
    assert "begins anew" in caplog.text
    assert rows(tmp_path / "whole") == rows(tmp_path / "part")  # also the weights that it began with are the same
    assert equal_weights(tmp_path / "whole", tmp_path / "part")
    shutil.rmtree(tmp_path / "part" / "checkpoints")  # but no run that has got somewhere is begun anew
    with pytest.raises(CheckpointError, match="no checkpoint"):
        train(tmp_path / "part", resume=True)


def test_an_evaluation_is_not_repeated_after_a_kill_within_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = config(evaluator__eval_freq=20)
    train(tmp_path / "whole", cfg)
    original = CheckpointWriter.save

    def die(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **{**kwargs, "wait": True})
        if kwargs.get("pin") and args[0] > 50:
            raise KeyboardInterrupt  # the run ends between the save of a new best and what follows it

    monkeypatch.setattr(CheckpointWriter, "save", die)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "part", cfg)
    monkeypatch.undo()
    train(tmp_path / "part", cfg, resume=True)
    assert rows(tmp_path / "whole") == rows(tmp_path / "part")
    assert equal_weights(tmp_path / "whole", tmp_path / "part")


def test_resume_of_another_config_is_refused(tmp_path: Path) -> None:
    train(tmp_path / "run")
    with pytest.raises(RunFolderError, match=r"policy\.learn\.batch_size is 64 there, 32 here"):
        train(tmp_path / "run", config(policy__learn__batch_size=32), resume=True)
    longer = train(tmp_path / "run", config(max_env_step=800), resume=True)  # a budget may grow
    assert longer.result["env_step"] >= 800


def test_a_config_edited_by_hand_is_refused_at_resume(tmp_path: Path) -> None:
    train(tmp_path / "run")
    file = tmp_path / "run" / "config.yaml"
    file.write_text(file.read_text().replace("learning_rate: 0.001", "learning_rate: 0.1"))
    with pytest.raises(RunFolderError, match=r"learning_rate is 0\.001 there, 0\.1 here"):
        serial_pipeline(file, run_dir=tmp_path / "run", resume=True, show=False)


def test_an_env_that_cannot_be_brought_back_begins_new_episodes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = config(env__wrappers=["NormalizeReward"])
    train(tmp_path / "run", cfg)
    cfg["max_env_step"] = 900
    with caplog.at_level(logging.WARNING, logger="nervex"):
        result = train(tmp_path / "run", cfg, resume=True).result
    assert result["env_step"] >= 900 and caplog.text.count("not exactly") == 1


def test_a_removed_run_folder_ends_the_run(tmp_path: Path) -> None:
    def remove(learner: Any) -> None:
        if learner.last_iter.val == 30:
            shutil.rmtree(tmp_path / "run")

    with pytest.raises(RunFolderError, match="removed"):
        train(tmp_path / "run", config(learner__save_freq=10), hooks=[remove])


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


class FaultyEnv(BaseEnv):
    """A corridor that goes wrong in its 30th step, as the file ``cfg['fault_file']`` tells."""

    def __init__(self, cfg: dict[str, Any]) -> None:
        self._count = 0
        self.fault = Path(cfg["fault_file"]).read_text()

    def reset(self) -> Any:
        if self.fault == "reset_tuple":
            return np.zeros(4, np.float32), {}
        return np.zeros(4, np.float32)

    def step(self, action: Any) -> BaseEnvTimestep:
        self._count += 1
        obs: Any = np.full(4, 0.1, np.float32)
        if self._count == 30:
            if self.fault == "raise":
                raise ZeroDivisionError("the simulator broke")
            obs = {"shape": np.zeros(3, np.float32), "dtype": np.zeros(4, np.float64),
                   "nan": np.full(4, np.nan, np.float32)}.get(self.fault, obs)  # fmt: skip
        return BaseEnvTimestep(obs, 1.0, self._count % 10 == 0, {"truncated": False})

    def seed(self, seed: int) -> None: ...

    def close(self) -> None: ...

    def info(self) -> BaseEnvInfo:
        box = EnvElementInfo(4, {"min": -1.0, "max": 1.0, "dtype": np.float32})
        return BaseEnvInfo(1, box, EnvElementInfo(2, {"min": 0, "max": 1, "dtype": np.int64}),
                           EnvElementInfo(1, {"min": 0, "max": 1, "dtype": np.float32}))  # fmt: skip

    def __repr__(self) -> str:
        return "FaultyEnv"


register_env("faulty", FaultyEnv)


@pytest.mark.parametrize("manager", ["base", "sync_subprocess"])
@pytest.mark.parametrize(
    ("fault", "message"),
    [("raise", "the simulator broke"), ("shape", r"\[3\]"), ("dtype", "float64"), ("nan", "NaN|not finite|nan"),
     ("reset_tuple", "reset")],
)  # fmt: skip
def test_a_faulty_env_ends_the_run_with_what_was_learned(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, manager: str, fault: str, message: str
) -> None:
    (tmp_path / "fault").write_text(fault)
    cfg = config(policy__learn__batch_size=8, env__env_manager_type=manager)
    cfg["env"] = {"env_type": "faulty", "actor_env_num": 2, "evaluator_env_num": 1, "env_manager_type": manager,
                  "fault_file": str(tmp_path / "fault"), "manager": {"fault_budget": 0}}  # fmt: skip
    cfg["evaluator"]["eval_freq"] = 1000
    cfg["evaluator"]["n_episode"] = 1
    with caplog.at_level(logging.ERROR, logger="nervex"), pytest.raises(EnvFault, match=message) as caught:
        train(tmp_path / "run", cfg)
    assert "env 0" in str(caught.value) or "env 1" in str(caught.value)
    if fault == "reset_tuple":
        return
    assert "step" in str(caught.value)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["stop_reason"] == "error" and result["train_iter"] > 0
    saved = CheckpointManager(tmp_path / "run" / "checkpoints").load_latest()
    assert saved.tree["learner"]["last_iter"] == result["train_iter"]
    assert "--resume" in caplog.text
    if fault != "raise":  # what a resumed run begins with does not depend on the fault
        return
    (tmp_path / "fault").write_text("")
    assert train(tmp_path / "run", cfg, resume=True).result["stop_reason"] == "max_env_step"


@pytest.mark.parametrize("manager", ["base", "sync_subprocess"])
def test_a_faulty_env_is_replaced_and_the_run_goes_on(tmp_path: Path, manager: str) -> None:
    (tmp_path / "fault").write_text("raise")
    cfg = config(policy__learn__batch_size=8, env__env_manager_type=manager, max_env_step=300)
    cfg["env"] = {"env_type": "faulty", "actor_env_num": 2, "evaluator_env_num": 1, "env_manager_type": manager,
                  "fault_file": str(tmp_path / "fault"), "manager": {"fault_budget": 1000}}  # fmt: skip
    cfg["evaluator"]["n_episode"] = 1
    assert train(tmp_path / "run", cfg).result["stop_reason"] == "max_env_step"
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    last = [row for row in rows if row["kind"] == "train"][-1]
    assert last["env_fault"] == last["broken_episode"] > 4  # each env breaks in its every 30th step
    evals = [row for row in rows if row["kind"] == "eval"]
    assert evals[-1]["env_fault"] > 0  # one env has played 30 steps and more by then
    assert all(row["eval_return"] == 10 for row in evals)  # every episode that counts is whole


def test_a_model_that_returns_nan_stops_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Poisoned(nn.Module):
        def __init__(self, obs_dim: int, action_dim: int) -> None:
            super().__init__()
            self.layer = nn.Linear(obs_dim, action_dim)
            self.calls = 0

        def forward(self, x: Any) -> dict[str, Any]:
            self.calls += 1
            out = self.layer(x["obs"])
            return {"logit": out * float("nan") if self.calls > 400 else out}

    cfg = config()
    cfg["policy"] = {**cfg["policy"], "model": {}}
    with caplog.at_level(logging.ERROR, logger="nervex"), pytest.raises(NumericalError, match="iteration"):
        train(tmp_path / "run", cfg, model_type=Poisoned)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["stop_reason"] == "error"
    assert (tmp_path / "run" / f"bad_batch_iteration_{result['train_iter']}" / "manifest.json").exists()
    assert all(torch.isfinite(w).all() for w in newest_weights(tmp_path / "run").values())


def test_a_prioritized_replay_needs_priorities(tmp_path: Path) -> None:
    class NoPriority(DQNPolicy):
        def _forward_learn(self, data: dict[str, Any]) -> dict[str, Any]:
            output = super()._forward_learn(data)
            del output["priority"]
            return output

    with pytest.raises(ConfigError, match="priority"):
        train(tmp_path / "run", config(replay_buffer__sampler="prioritized"), policy_type=NoPriority)


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = CheckpointManager.write
    calls = []

    def full(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(args[0])
        if len(calls) == 4:
            raise CheckpointError("cannot write checkpoint: no space left on device")
        return original(self, *args, **kwargs)

    monkeypatch.setattr(CheckpointManager, "write", full)
    with pytest.raises(CheckpointError, match="no space"):
        train(tmp_path / "run", config(learner__save_freq=20))
    monkeypatch.undo()
    assert len(calls) == 4  # a second try would only hide the first error
    assert train(tmp_path / "run", config(learner__save_freq=20), resume=True).result["stop_reason"] == "max_env_step"


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
