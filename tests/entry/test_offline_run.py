"""Runs that learn from a data set: nothing is collected, they resume exactly, what does not fit is refused first."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from policy.policy_cases import recorded

from nervex.cli import main
from nervex.config.source import ConfigSource
from nervex.data.offline import FolderWriter, OfflineData, dataset_writer, open_dataset
from nervex.entry import serial_pipeline
from nervex.entry.bench_learn import bench_learn
from nervex.entry.check_entry import check_config
from nervex.entry.collect_entry import collect_run, make_dataset
from nervex.entry.compile_config import compile_config
from nervex.entry.ledger_table import recipe_table
from nervex.entry.plot import read_run
from nervex.entry.serial_parts import build_parts
from nervex.torch_utils.checkpoint import CheckpointManager
from nervex.utils.errors import ConfigError, DatasetError, RunFolderError
from nervex.worker.monitor.jsonl_sink import read_metrics


def config(
    policy_type: str = "bc", env_id: str = "CartPole-v1", path: str | Path | None = None, **top: Any
) -> dict[str, Any]:
    return {
        "env": {"env_type": "gymnasium", "env_id": env_id, "evaluator_env_num": 2},
        "policy": {"policy_type": policy_type, "model": {"hidden_dim_list": [8]},
                   "learn": {"batch_size": 6, "train_step": 2}},
        "dataset": {"path": str(path or recorded(env_id))},
        "evaluator": {"n_episode": 2, "eval_freq": 2, "confirm_episode": 2},
        "max_train_iter": 8,
        **top,
    }  # fmt: skip


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    found = CheckpointManager(run_dir / "checkpoints").load_latest().weights
    assert found is not None
    return found


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def with_normalization(policy_type: str) -> dict[str, Any]:
    cfg = config(policy_type, "CartPole-v1" if policy_type == "bc" else "Pendulum-v1")
    cfg["policy"]["normalize"] = {"obs": True, "reward": True}
    return cfg


@pytest.mark.parametrize("policy_type", ["bc", "cql", "iql"])
def test_a_resumed_run_is_the_run(policy_type: str, tmp_path: Path) -> None:
    cfg = with_normalization(policy_type)
    outcome = serial_pipeline(cfg, seed=1, run_dir=tmp_path / "whole", show=False)
    assert outcome.result["env_step"] == 0 and outcome.result["train_iter"] == 8
    assert outcome.result["stop_reason"] == "max_train_iter"
    serial_pipeline({**cfg, "max_train_iter": 4}, seed=1, run_dir=tmp_path / "half", show=False)
    assert not same(weights(tmp_path / "half"), weights(tmp_path / "whole"))
    serial_pipeline({**cfg, "max_train_iter": 8}, seed=1, run_dir=tmp_path / "half", resume=True, show=False)
    assert same(weights(tmp_path / "half"), weights(tmp_path / "whole"))
    serial_pipeline(cfg, seed=2, run_dir=tmp_path / "other", show=False)
    assert not same(weights(tmp_path / "other"), weights(tmp_path / "whole"))


def test_metrics_and_curve_go_over_iterations(tmp_path: Path) -> None:
    serial_pipeline(config(), seed=0, run_dir=tmp_path / "run", show=False)
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [row["train_iter"] for row in rows if row["kind"] == "eval"] == [0, 4, 8]
    assert "episode_return" not in rows[-1] and "buffer_count" not in rows[-1]
    curves = read_run(tmp_path / "run")
    assert curves.evaluation.env_step.tolist() == [0, 4, 8] and curves.unit == "learner iterations"
    assert (tmp_path / "run" / "curve.png").exists()


def test_no_env_collects() -> None:
    parts = build_parts(compile_config(ConfigSource.from_dict(config())))
    try:
        assert parts.actor.env is None and parts.offline is not None and parts.rollout is None
    finally:
        parts.close()


def test_the_best_fraction_and_the_normalization_are_of_one_kind_of_episode(tmp_path: Path) -> None:
    data = open_dataset(recorded("Pendulum-v1"))
    best = int(data.episode_return.argmax())
    cfg = with_normalization("bc")
    cfg["env"]["env_id"], cfg["dataset"] = "Pendulum-v1", {"path": str(data.path), "best_fraction": 0.1}
    outcome = serial_pipeline(cfg, seed=0, run_dir=tmp_path / "run", show=False)
    model: Any = outcome.policy.model
    mean = data.episode(best)["obs"][:-1].double().mean(0)
    assert torch.allclose(model.moments[0].mean.double(), mean, atol=1e-5)


def test_other_data_are_refused_at_a_resume(tmp_path: Path) -> None:
    path = tmp_path / "set"
    source = open_dataset(recorded("CartPole-v1"))
    with FolderWriter(path) as writer:
        add(writer, source)
    cfg = config(path=path, max_train_iter=4)
    serial_pipeline(cfg, seed=0, run_dir=tmp_path / "run", show=False)
    with FolderWriter(path, append=True) as writer:
        add(writer, source)
    with pytest.raises(RuntimeError, match="was begun with other data than"):
        serial_pipeline({**cfg, "max_train_iter": 8}, seed=0, run_dir=tmp_path / "run", resume=True, show=False)


def add(writer: Any, data: OfflineData) -> None:
    for number in range(data.episode_num):
        columns = data.episode(number)
        writer.add({k: columns[k] for k in ("obs", "action", "reward")}, bool(data.terminated[number]))


def made(path: Path, **changed: Any) -> Path:
    with dataset_writer(path) as writer:
        columns = {"obs": np.zeros((9, 4), np.float32), "action": np.zeros(8, np.int64), "reward": np.zeros(8)}
        writer.add({**columns, **changed}, True)
    return path


class TestWhatDoesNotFit:
    """One sentence, before any run folder is made."""

    def refused(self, cfg: dict[str, Any], tmp_path: Path, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            serial_pipeline(cfg, run_dir=tmp_path / "run", show=False)
        assert not (tmp_path / "run").exists()

    def test_shapes(self, tmp_path: Path) -> None:
        path = made(tmp_path / "set", obs=np.zeros((9, 3), np.float32))
        self.refused(
            config(path=path), tmp_path, r"observations 'obs' float32 \[3\], env 'CartPole-v1' takes float32 \[4\]"
        )
        parts = {"a": np.zeros((9, 4), np.float32)}
        self.refused(config(path=made(tmp_path / "b", obs=parts)), tmp_path, r"has the columns \['action', 'obs/a'\]")

    def test_kinds_of_action(self, tmp_path: Path) -> None:
        path = made(tmp_path / "set", action=np.zeros((8, 1), np.float32))
        self.refused(config(path=path), tmp_path, r"actions float32 \[1\], env 'CartPole-v1' takes 2 discrete ones")
        discrete = made(tmp_path / "b", obs=np.zeros((9, 3), np.float32))
        cfg = config("cql", "Pendulum-v1", discrete)
        self.refused(cfg, tmp_path, r"actions int64 \[\], env 'Pendulum-v1' takes float32 \[1\]")
        self.refused(config("iql", "CartPole-v1"), tmp_path, "is 'iql', which serves box actions")

    def test_values_of_actions(self, tmp_path: Path) -> None:
        path = made(tmp_path / "set", action=np.arange(8))
        self.refused(config(path=path), tmp_path, "actions from 0 to 7, env 'CartPole-v1' takes 0 to 1")
        scaled = {"obs": np.zeros((9, 3), np.float32), "action": np.full((8, 1), 2.0, np.float32)}
        cfg = config("bc", "Pendulum-v1", made(tmp_path / "b", **scaled))
        cfg["env"]["scale_action"] = True
        self.refused(cfg, tmp_path, "set the env's action scaling")

    def test_missing_and_small_sets(self, tmp_path: Path) -> None:
        self.refused(config(path=tmp_path / "none"), tmp_path, "there is no data set .* does not say how to make it")
        cfg = config(path=made(tmp_path / "set"))
        cfg["policy"]["learn"]["batch_size"] = 9
        self.refused(cfg, tmp_path, "batch_size is 9, and there are 8 transitions")

    def test_foreign_files(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", np.zeros(3))
        self.refused(config(path=tmp_path / "a.npy"), tmp_path, "is a NumPy file; expected a folder")

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            (
                {"replay_buffer": {"meta_maxlen": 100}},
                "'replay_buffer' .* is given, but 'bc' learns from section dataset",
            ),
            ({"actor": {"n_sample": 8}}, "'actor' .* is given, but 'bc' learns from section dataset"),
            ({"max_env_step": 100}, "makes no env steps; give max_train_iter"),
            ({"dataset": {}}, "missing key 'dataset.path'"),
            ({"dataset": {"pth": "x"}}, "unknown key 'dataset.pth'.*did you mean 'path'"),
            ({"dataset": {"path": "x", "collect": [{"episodes": 3}]}}, r"missing key 'dataset.collect.0..recipe'"),
        ],
    )
    def test_sections(self, changed: dict[str, Any], message: str, tmp_path: Path) -> None:
        self.refused({**config(), **changed}, tmp_path, message)

    def test_a_data_set_for_a_policy_that_collects(self, tmp_path: Path) -> None:
        cfg = config(max_env_step=10)
        cfg["policy"] = {"policy_type": "dqn"}
        self.refused(cfg, tmp_path, "'dataset' .* is given, but 'dqn' learns from what it collects")


SMALL = ["max_env_step=200", "evaluator.n_episode=1", "evaluator.confirm_episode=1", "policy.model.norm_type=null"]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("collect") / "run"
    assert main(["train", "cartpole_dqn", *SMALL, "--run-dir", str(path)]) == 0
    return path


class TestCollect:
    def test_the_command(self, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = str(tmp_path / "set")
        assert main(["collect", str(run_dir), "--episodes", "7", "--out", out, "--seed", "3"]) == 0
        data = open_dataset(out)
        said = capsys.readouterr().out
        assert f"return {data.episode_return.mean():.2f} ± {data.episode_return.std():.2f} over 7 episodes" in said
        assert data.info == {"run": "cartpole_dqn", "env": "CartPole-v1", "act": "greedy", "seed": 3}
        assert main(["collect", str(run_dir), "--out", out]) == 2
        assert "exists already; give another --out" in capsys.readouterr().err
        assert main(["collect", str(run_dir), "--out", f"{out}.hdf5", "--episodes", "7", "--seed", "3"]) == 0
        assert (open_dataset(f"{out}.hdf5").length == data.length).all()

    def test_a_seed_gives_the_same_episodes(self, run_dir: Path, tmp_path: Path) -> None:
        def digest(name: str, **kwargs: Any) -> str:
            collect_run(run_dir, tmp_path / name, 4, **kwargs)
            return open_dataset(tmp_path / name).digest

        for way in ({}, {"act": "random"}, {"eps": 0.5}, {"act": "stochastic"}):
            name = "_".join(map(str, way.values()))
            first = digest(f"{name}1", seed=1, **way)
            assert digest(f"{name}2", seed=1, **way) == first != digest(f"{name}3", seed=2, **way)

    def test_random_actions_are_uniform(self, run_dir: Path, tmp_path: Path) -> None:
        collect_run(run_dir, tmp_path / "set", 60, seed=1, act="random")
        action = np.concatenate([open_dataset(tmp_path / "set").episode(k)["action"] for k in range(60)])
        assert abs(action.mean() - 0.5) < 0.05
        greedy = collect_run(run_dir, tmp_path / "greedy", 2, seed=1).episode_return
        assert not np.array_equal(greedy, collect_run(run_dir, tmp_path / "eps", 2, seed=1, eps=1.0).episode_return)

    @pytest.mark.parametrize(
        ("kwargs", "message"),
        [({"n_episode": 0}, "episodes is 0"), ({"seed": -1}, "seed -1"), ({"eps": 2.0}, "policy.eval.eps")],
    )
    def test_refusals(self, run_dir: Path, tmp_path: Path, kwargs: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            collect_run(run_dir, tmp_path / "set", **kwargs)
        assert not list(tmp_path.iterdir())

    def test_no_run(self, tmp_path: Path) -> None:
        with pytest.raises(RunFolderError):
            collect_run(tmp_path / "none", tmp_path / "set")


def self_made(tmp_path: Path, name: str) -> dict[str, Any]:
    parts = [{"recipe": "cartpole_dqn", "overrides": SMALL, "seed": seed, "episodes": 3, "act": act}
             for seed, act in ((0, "greedy"), (1, "random"))]  # fmt: skip
    return config(path=tmp_path / name, dataset={"path": str(tmp_path / name), "collect": parts})


def test_a_run_makes_its_data_first_and_only_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    cfg = self_made(tmp_path, "set")
    serial_pipeline(cfg, seed=0, run_dir=tmp_path / "run", show=False)
    data = open_dataset(tmp_path / "set")
    assert data.episode_num == 6 and data.info["collect"][1]["act"] == "random"
    lines = [record.message for record in caplog.records if record.message.startswith("data set")]
    assert "part 1 of 2: nervex train cartpole_dqn max_env_step=200" in lines[0] and "random actions" in lines[2]
    monkeypatch.setattr("nervex.entry.collect_entry.play", None)
    outcome = serial_pipeline(cfg, seed=0, run_dir=tmp_path / "again", show=False)
    assert same(weights(tmp_path / "run"), weights(tmp_path / "again"))  # making data changes nothing else
    assert outcome.result["train_iter"] == 8


def test_a_training_that_is_interrupted_makes_no_data(tmp_path: Path) -> None:
    class Outcome:
        result = {"stop_reason": "interrupted"}

    with pytest.raises(KeyboardInterrupt):
        make_dataset(compile_config(ConfigSource.from_dict(self_made(tmp_path, "set"))), lambda *a, **k: Outcome())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"recipe": "nope"}, "'nope' is no file and no shipped config"),
        ({"recipe": "cartpole_dqn", "overrides": ["policy.learn.batch=3"]}, "did you mean 'batch_size'"),
        ({"recipe": "cartpole_bc", "overrides": ["dataset.path=SET"]}, "which learns from that very data set"),
    ],
)
def test_a_part_that_cannot_be_made_is_told_before_any_training(
    tmp_path: Path, part: dict[str, Any], message: str
) -> None:
    path = tmp_path / "set"
    overrides = [text.replace("SET", str(path)) for text in part.get("overrides", [])]
    cfg = config(path=path)
    cfg["dataset"]["collect"] = [{"recipe": "cartpole_dqn"}, {**part, "overrides": overrides}]

    def train(*_: Any, **__: Any) -> Any:
        pytest.fail("it was trained")

    with pytest.raises(ConfigError, match=message):
        make_dataset(compile_config(ConfigSource.from_dict(cfg)), train)
    assert list(tmp_path.iterdir()) == []


def test_check(tmp_path: Path) -> None:
    report = check_config(ConfigSource.from_dict(self_made(tmp_path, "none")), speed=False)
    assert report.plan == [f"data set  {tmp_path / 'none'} is made first; nothing else was tried"]
    cfg = config()
    cfg["evaluator"]["stop_val"] = 475
    text = "\n".join(check_config(ConfigSource.from_dict(cfg), speed=False).lines())
    assert "transitions in 3 episodes" in text and "learn     2 updates" in text and "collect" not in text


def test_over_seeds(tmp_path: Path) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump({**config(), "evaluator": {**config()["evaluator"], "stop_val": 1.0}}))
    records = bench_learn(
        file, seeds=[0, 1], ledger=tmp_path / "ledger", work=tmp_path / "work", final_episode=3, show=False
    )
    assert records is not None and [r.seed for r in records] == [0, 1] and all(r.offline for r in records)
    assert [p.env_step for p in records[0].curve] == [0, 4, 8] and records[0].final.env_step == 8
    assert records[0].solved_env_step == 0
    table = recipe_table(records)
    assert "2 of 2, median at 0 iterations | 0 (8 iterations)" in table
    with pytest.raises(ConfigError, match="max_train_iter=N of a run that makes no env steps"):
        bench_learn(file, ["max_wall_s=3"], ledger=tmp_path / "ledger", work=tmp_path / "work")


def test_what_needs_env_steps_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(config()))
    assert main(["profile", str(tmp_path / "tiny.yaml")]) == 2
    assert "nervex profile measures runs that make env steps; tiny learns from a data set" in capsys.readouterr().err


def test_a_damaged_set_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = made(tmp_path / "set")
    part = path / "part_00000.safetensors"
    content = bytearray(part.read_bytes())
    content[-1] ^= 1
    part.write_bytes(bytes(content))
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(config(path=path)))
    assert main(["train", str(tmp_path / "tiny.yaml"), "--run-dir", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err.strip()
    assert error.count("\n") == 0 and "is damaged: its digest does not match" in error
    with pytest.raises(DatasetError):
        open_dataset(path)
