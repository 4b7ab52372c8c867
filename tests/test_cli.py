"""The command line: what it prints, its exit codes, and that it never shows a traceback."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nervex.cli import main

SMALL = ["max_env_step=300", "evaluator.n_episode=1", "evaluator.eval_freq=1000", "evaluator.stop_val=1000",
         "env.actor_env_num=2", "env.evaluator_env_num=1", "learner.log_freq=50"]  # fmt: skip


def run(*args: str, cwd: Path, timeout: float = 120) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "nervex", *args], cwd=cwd, capture_output=True, text=True, timeout=timeout
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    done = run("train", "cartpole_dqn", *SMALL, "--seed", "5", "--run-dir", "run", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "run folder: run" in done.stdout and "ended (max_env_step)" in done.stdout
    return folder / "run"


def test_train_resume_goes_on(trained: Path) -> None:
    before = json.loads((trained / "result.json").read_text())
    done = run("train", "--resume", "--run-dir", str(trained), "max_env_step=400", cwd=trained.parent)
    assert done.returncode == 0, done.stderr
    after = json.loads((trained / "result.json").read_text())
    assert before["env_step"] < 400 <= after["env_step"] and after["seed"] == 5


def test_eval_with_video(trained: Path) -> None:
    done = run("eval", str(trained), "--episodes", "3", "--video", "film.mp4", cwd=trained.parent)
    assert done.returncode == 0, done.stderr
    assert "over 3 episodes" in done.stdout and done.stderr == ""
    assert (trained.parent / "film.mp4").stat().st_size > 1000


def test_plot(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = trained.parent / "runs.png"
    assert main(["plot", str(trained), str(trained), "--out", str(out)]) == 0
    assert out.read_bytes()[:4] == b"\x89PNG"


def test_check_prints_the_plan_and_writes_nothing(tmp_path: Path) -> None:
    done = run("check", "cartpole_dqn", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (
        "34,563 parameters" in done.stdout
        and "replay 50,000 rows: 2.9 MiB" in done.stdout
        and done.stdout.endswith("ok\n")
    )
    assert list(tmp_path.iterdir()) == []


def test_check_says_what_is_wrong_with_an_env_and_exits_with_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "doctor_cases.py").write_text(
        "import gymnasium\nfrom gymnasium.envs.classic_control import CartPoleEnv\n"
        "class Noisy(CartPoleEnv):\n"
        "    def step(self, action):\n"
        "        obs, _, *rest = super().step(action)\n"
        "        return obs, gymnasium.utils.seeding.np_random()[0].random(), *rest\n"
        "gymnasium.register('Noisy-v0', Noisy, max_episode_steps=20)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    check = ["check", "cartpole_dqn", "env.env_type=gymnasium", "env.env_id=doctor_cases:Noisy-v0"]
    assert main(check) == 2
    out = capsys.readouterr().out
    assert "error   the same seed and actions give other episodes" in out and out.endswith("1 error(s) in the env\n")
    assert "threads   " in out and "manager   " in out and "replay 50,000 rows" in out


@pytest.mark.parametrize(
    ("what", "expected"),
    [("policies", "dqn"), ("envs", "gymnasium"), ("envs", "cartpole"), ("configs", "cartpole_dqn"),
     ("plugins", "eps_greedy_sample")],
)  # fmt: skip
def test_list(what: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", what]) == 0
    assert expected in [line.split()[0] for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["train"], "CONFIG"),
        (["train", "cartpole_dqm"], "did you mean 'cartpole_dqn'"),
        (["train", "missing.yaml"], "missing.yaml"),
        (["train", "cartpole_dqn", "policy.learn.bach_size=3"], "did you mean 'batch_size'"),
        (["train", "cartpole_dqn", "policy.learn.batch_size=0"], "at least 1"),
        (["train", "cartpole_dqn", "policy.policy_type=dqnn"], "did you mean 'dqn'"),
        (["train", "cartpole_dqn", "env.env_type=gymnasium", "env.env_id=Pendulum-v1"], "discrete"),
        (["train", "cartpole_dqn", "policy.model.obs_dim=5"], "5"),
        (["train", "cartpole_dqn", "policy.learn.batch_size=60000"], "meta_maxlen"),
        (["train", "cartpole_dqn", "policy.learn.algo.nstep=3", "policy.collect.algo.nstep=2"], "one value"),
        (["train", "cartpole_dqn", "--resume"], "--run-dir"),
        (["check", "cartpole_dqn", "nonsense"], "="),
        (["eval", "nowhere"], "nowhere"),
        (["plot", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_one_clear_message(
    args: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code = main(args)
    message = capsys.readouterr().err
    assert code == 2
    assert expected in message and message.startswith("error: ") and message.count("\n") <= 3
    assert "Traceback" not in message
    assert list(tmp_path.iterdir()) == []


def test_settings_may_stand_before_and_after_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for args in (["max_env_step=x", "--seed", "1"], ["--seed", "1", "max_env_step=x"]):
        assert main(["train", "cartpole_dqn", *args]) == 2
        assert "max_env_step" in capsys.readouterr().err
    assert main(["train", "cartpole_dqn", "--epochs", "10"]) == 2
    assert "no option '--epochs'" in capsys.readouterr().err


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = run("train", "missing.yaml", "--debug", cwd=tmp_path)
    assert "Traceback" in done.stderr and done.returncode == 1


def test_ctrl_c_saves_and_says_how_to_resume(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "nervex", "train", "cartpole_dqn", *SMALL, "max_env_step=1000000", "--run-dir", "run"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and (not metrics.exists() or metrics.read_text().count("\n") < 3):
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "nervex train --resume --run-dir run" in stderr and "Traceback" not in stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["stop_reason"] == "interrupted"
    more = str(result["env_step"] + 100)
    done = run("train", "--resume", "--run-dir", "run", f"max_env_step={more}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "result.json").read_text())["env_step"] >= int(more)
