"""``nervex verify-resume``: killed runs are compared with one that was not, and what a run forgets is found."""

import tempfile
from pathlib import Path

import pytest
import yaml

from nervex import cli
from nervex.entry.catalog import shipped_configs
from nervex.entry.verify_entry import Kill, _accounts, _draw, verify_resume
from nervex.utils.config_helper import read_config
from nervex.utils.errors import ConfigError, RunFolderError

SMALL = ["max_env_step=160", "policy.learn.batch_size=16", "evaluator.n_episode=1", "env.actor_env_num=2",
         "env.evaluator_env_num=1", "learner.save_freq=10", "learner.log_freq=5"]  # fmt: skip

FORGETFUL = """
from nervex.policy.base_policy import register_policy
from nervex.policy.dqn import DQNPolicy


class Forgetful(DQNPolicy):
    count = 0  # missing in state_names

    def _forward_learn(self, data):
        self.count += 1
        data["reward"] = data["reward"] + 0.001 * self.count
        return super()._forward_learn(data)


register_policy("forgetful", Forgetful)
"""


def test_a_recipe_resumes_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert cli.main(["verify-resume", "cartpole_dqn", "--kills", "2", *SMALL]) == 0
    text = capsys.readouterr().out
    assert text.count("kill ") == 2 and "problem" not in text and text.count("too late") < 2
    for part in ("weights", "replay", "rng", "metrics", "actor", "policy/_optimizer"):
        assert any(line.startswith(part) and line.endswith("identical") for line in text.splitlines()), part
    assert list(tmp_path.iterdir()) == []


def test_what_a_run_forgets_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cfg = read_config(shipped_configs()["cartpole_dqn"])
    cfg.policy.update(policy_type="forgetful", import_names=["forgetful.py"])
    (tmp_path / "forgetful.py").write_text(FORGETFUL)
    (tmp_path / "cfg.yaml").write_text(yaml.safe_dump(_plain(cfg)))
    command = ["verify-resume", str(tmp_path / "cfg.yaml"), "--kills", "1", "--run-dir", str(tmp_path / "kept"), *SMALL]
    assert cli.main(command) == cli.FAILED
    text = capsys.readouterr().out
    assert "problem: the resumed run differs from the uninterrupted one in weights" in text
    assert "differ: weights/encoder.main.0.weight: " in text
    assert {p.name for p in (tmp_path / "kept").iterdir()} == {"uninterrupted", "killed", "output.txt"}
    with pytest.raises(RunFolderError, match="is not empty"):
        verify_resume("cartpole_dqn", run_dir=tmp_path / "kept")


def _plain(tree: object) -> object:
    return {k: _plain(v) for k, v in tree.items()} if isinstance(tree, dict) else tree


def test_kills_are_drawn_from_the_seed() -> None:
    kills = _draw(7, 3)
    assert kills == _draw(7, 3) != _draw(7, 4)
    assert {k.kind for k in kills} == {"progress", "save", "start"}
    assert [k.fraction for k in kills] == sorted(k.fraction for k in kills)
    assert all(0 <= k.fraction <= 0.9 and 0 <= k.delay < 1 for k in kills) and isinstance(kills[0], Kill)
    with pytest.raises(ConfigError, match="--kills is 0"):
        verify_resume("cartpole_dqn", kills=0)


def test_accounts_of_rows() -> None:
    def rows(*iterations: int) -> list[dict[str, object]]:
        return [{"kind": "train", "env_step": 2 * i, "train_iter": i} for i in iterations]

    assert _accounts(rows(5, 10, 15)) == []
    assert any("repeats or lacks" in p for p in _accounts(rows(5, 10, 10, 15)))
    assert any("repeats or lacks" in p for p in _accounts(rows(5, 15)))
    assert any("goes back in env_step" in p for p in _accounts(rows(5, 15, 10)))


@pytest.mark.slow
@pytest.mark.parametrize("manager", ["base", "sync_subprocess"])
@pytest.mark.parametrize("recipe", sorted(shipped_configs()))
def test_every_recipe_resumes_exactly(recipe: str, manager: str) -> None:
    words = ["policy.learn.compile=false", f"env.env_manager_type={manager}"]
    report = verify_resume(recipe, words)
    assert report.passed and report.not_exact is None, "\n".join(report.lines())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "reason"),
    [(["env.env_manager_type=subprocess"], "asynchronous"), (["env.wrappers=[NormalizeReward]"], "not fixed by seed")],
)
def test_where_envs_cannot_be_brought_back_the_accounts_are_checked(words: list[str], reason: str) -> None:
    report = verify_resume("cartpole_dqn", [*SMALL, *words])
    assert report.passed and report.not_exact is not None and reason in report.not_exact and not report.parts
