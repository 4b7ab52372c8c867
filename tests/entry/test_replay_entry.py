"""Numbers that go wrong at a known iteration: what is caught, and that ``nervex replay`` rebuilds that very update."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from nervex import cli
from nervex.entry.replay_entry import replay_run
from nervex.entry.state_diff import compare_states
from nervex.torch_utils import load_state
from nervex.torch_utils.checkpoint import CheckpointManager
from nervex.utils.config_helper import read_config
from nervex.utils.errors import CheckpointError, ConfigError, RunFolderError
from nervex.worker.monitor.jsonl_sink import read_metrics

POLICY = """
from nervex.policy.base_policy import register_policy
from nervex.policy.dqn import DQNPolicy


class GoesWrong(DQNPolicy):
    state_names = ("count",)
    count = 0
    kind = "KIND"

    def _forward_learn(self, data):
        self.count += 1
        if self.count != 57 or self.kind == "never":
            return self._shown(super()._forward_learn(data))
        if self.kind == "loss":
            data["reward"] = data["reward"] * float("nan")
            return super()._forward_learn(data)
        hook = next(self._model.parameters()).register_hook(lambda g: g * float("nan"))
        output = super()._forward_learn(data)
        hook.remove()
        return self._shown(output)

    def _shown(self, output):
        return {"shown": 1.0} if self.kind == "silent" else output


register_policy("goes_wrong_KIND", GoesWrong)
"""


def trained(folder: Path, kind: str, code: int) -> Path:
    """Trains on CartPole with save_freq 20 and log_freq 10 by the command line, and returns the run folder."""
    cfg = read_config(
        Path(__file__).parents[2] / "app_zoo/classic_control/cartpole/entry/cartpole_dqn_default_config.yaml"
    )
    (folder / "goes_wrong.py").write_text(POLICY.replace("KIND", kind))
    cfg.policy.update(policy_type=f"goes_wrong_{kind}", import_names=["goes_wrong.py"])
    cfg.update(max_env_step=150, learner={"save_freq": 20, "log_freq": 10})
    cfg.evaluator.update(n_episode=1, eval_freq=1000)
    cfg.env.update(actor_env_num=2, evaluator_env_num=1)
    cfg.actor.n_sample = 4
    cfg.policy.collect.pop("env_num", None)
    (folder / "cfg.yaml").write_text(yaml.safe_dump(_plain(cfg)))
    assert cli.main(["train", str(folder / "cfg.yaml"), "--run-dir", str(folder / "run")]) == code
    return folder / "run"


def _plain(tree: Any) -> Any:
    return {k: _plain(v) for k, v in tree.items()} if isinstance(tree, dict) else tree


def test_a_nan_loss_is_rebuilt_bit_for_bit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(tmp_path, "loss", cli.FAILED)
    assert "total_loss is nan at learner iteration 57" in capsys.readouterr().err
    saved, _ = load_state(run / "bad_batch_iteration_57")
    assert saved["seed"] == 0 and saved["train_iter"] == 57
    before = sorted(p.name for p in run.rglob("*"))
    assert cli.main(["replay", str(run), "--out", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    assert (
        "iteration 57, rebuilt from iteration_0000000040" in text and "1 row(s) of metrics.jsonl and the saved" in text
    )
    assert sorted(p.name for p in run.rglob("*")) == before  # the run is only read
    tree, weights = load_state(tmp_path / "out")
    assert weights is not None and all(torch.isfinite(w).all() for w in weights.values())
    assert compare_states({"b": saved["batch"]}, {"b": tree["batch"]})[0].first is None
    assert tree["train_iter"] == 57 and tree["seed"] == 0 and tree["output"]["total_loss"].isnan()
    assert "output total_loss" in tree["nonfinite"] and any(name.startswith("weight ") for name in tree["nonfinite"])
    assert tree["policy_before"]["count"] == 56
    with pytest.raises(CheckpointError, match="exists already"):
        replay_run(run, 50, out=tmp_path / "out")

    row = read_metrics(run / "metrics.jsonl")[-1]  # another history is noticed
    assert row["train_iter"] == 50
    text = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(text.replace(repr(row["q_value"]), repr(row["q_value"] + 1e-6)))
    assert cli.main(["replay", str(run)]) == cli.FAILED
    assert "NOT as in the run: metrics/0/q_value" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "iteration", "message"),
    [
        ("gradient", 58, "total_loss is nan"),
        ("silent", 60, r"weight 'encoder.main.0.weight' and \d+ more is not finite"),
    ],
)
def test_a_nan_gradient_is_caught_and_its_update_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, iteration: int, message: str
) -> None:
    run = trained(tmp_path, kind, cli.FAILED)
    assert re.search(f"{message} at learner iteration {iteration}", capsys.readouterr().err)
    newest = CheckpointManager(run / "checkpoints").load_latest()
    assert newest.weights is not None and all(torch.isfinite(w).all() for w in newest.weights.values())
    found = replay_run(run)  # the update that went wrong, not the one at which it was seen
    assert found.train_iter == 57 and not found.differences
    assert "gradient encoder.main.0.weight" in found.tree["nonfinite"]
    assert not any(name.startswith("output") for name in found.tree["nonfinite"])
    assert all(torch.isfinite(w).all() for w in found.weights.values())


def test_any_update_of_a_sound_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(tmp_path, "never", 0)
    last = read_metrics(run / "metrics.jsonl")[-1]["train_iter"]
    newest = CheckpointManager(run / "checkpoints").all()
    assert len(newest) >= 2
    wanted = last - 2
    found = replay_run(run, wanted)
    assert found.train_iter == wanted and not found.differences and not found.tree["nonfinite"]
    after, again = found.tree["weights_after"], replay_run(run, wanted + 1).weights
    assert compare_states({"w": after}, {"w": again})[0].first is None  # what one update leaves the next one finds
    assert compare_states({"w": found.weights}, {"w": again})[0].first is not None
    assert cli.main(["replay", str(run)]) == cli.BAD_INPUT
    assert "has no bad batch" in capsys.readouterr().err
    with pytest.raises(RunFolderError, match="the run ends at iteration"):
        replay_run(run, last + 1000)
    with pytest.raises(ConfigError, match="counted from 1"):
        replay_run(run, 0)
    with pytest.raises(CheckpointError, match="no checkpoint of"):
        replay_run(run, 1)
