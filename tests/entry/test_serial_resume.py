"""Serial runs that are stopped and resumed: equal to those that were not, or refused."""

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

import pytest
from entry.serial_tool import config, equal_weights, rows, train

from nervex.entry import serial_pipeline
from nervex.entry.serial_run import SerialRun
from nervex.torch_utils.checkpoint_writer import CheckpointWriter
from nervex.utils.errors import CheckpointError, RunFolderError


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
