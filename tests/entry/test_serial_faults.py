"""Serial runs in which an env, a network, the replay or the disk fails."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from entry.serial_tool import config, newest_weights, train
from torch import nn

from nervex.envs import BaseEnv, BaseEnvInfo, BaseEnvTimestep, EnvElementInfo, register_env
from nervex.policy import DQNPolicy
from nervex.torch_utils.checkpoint import CheckpointManager
from nervex.utils.errors import CheckpointError, ConfigError, EnvFault, NumericalError
from nervex.worker.monitor.jsonl_sink import read_metrics


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
