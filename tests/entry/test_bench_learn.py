"""A recipe over seeds: the ledger, what is not run twice, and what a kill leaves."""

import dataclasses
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.collections import PolyCollection

from nervex.cli import main
from nervex.config.source import apply_overrides, read_source
from nervex.entry import bench_learn as module
from nervex.entry import serial_pipeline
from nervex.entry.bench_learn import bench_learn, write_tables
from nervex.entry.catalog import find_config
from nervex.entry.compile_config import compile_config
from nervex.entry.ledger import Point, Record, config_hash, differences, read_ledger, read_record, recipes, write_record
from nervex.entry.ledger_table import all_table, recipe_table
from nervex.entry.plot_ledger import common_grid, draw_records, seed_curve
from nervex.torch_utils.checkpoint import CheckpointManager
from nervex.torch_utils.checkpoint_writer import CheckpointWriter
from nervex.utils.errors import ConfigError, RunFolderError
from nervex.worker.monitor.jsonl_sink import read_metrics

SMALL = ["max_env_step=700", "evaluator.n_episode=2", "evaluator.eval_freq=20", "evaluator.confirm_episode=3",
         "env.actor_env_num=4", "env.evaluator_env_num=2", "learner.save_freq=50", "evaluator.stop_val=9.5",
         "replay_buffer.meta_maxlen=2000"]  # fmt: skip


def bench(root: Path, *overrides: str, **kwargs: Any) -> list[Record]:
    said: list[str] = kwargs.pop("said", [])
    records = bench_learn(
        "cartpole_dqn", [*SMALL, *overrides], ledger=root / "ledger", work=root / "work", final_episode=5, show=False,
        say=said.append, **{"seeds": [1], **kwargs},
    )  # fmt: skip
    assert records is not None
    return records


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    found = CheckpointManager(run_dir / "checkpoints").load_latest().weights
    assert found is not None
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bench")
    bench(root)
    return root


def test_the_record_holds_the_run(whole: Path) -> None:
    path = whole / "ledger" / "cartpole_dqn" / "seed_1.json"
    data = json.loads(path.read_text())
    assert data["schema"] == 1 and data["name"] == "cartpole_dqn" and data["seed"] == 1 and data["peer"] == ""
    assert data["overrides"] == SMALL and data["config"]["seed"] == 1
    assert data["config"]["max_train_iter"] == "inf" and data["config"]["evaluator"]["stop_val"] == 9.5
    record = read_record(path)
    assert data["best"] == dataclasses.asdict(record.best) and record.bar == 9.5
    result = json.loads((whole / "work" / "seed_1" / "result.json").read_text())
    assert (record.env_step, record.train_iter) == (result["env_step"], result["train_iter"])
    assert record.env_step >= 700 and record.train_iter > 0 and record.cpu_s > 0 and record.wall_s > 0
    rows = [r for r in read_metrics(whole / "work" / "seed_1" / "metrics.jsonl") if r["kind"] == "eval"]
    assert [p.return_mean for p in record.curve] == [r["eval_return"] for r in rows]
    assert record.final.episodes == 5 and record.final.env_step == record.env_step
    assert 0 <= record.env_step - record.curve[-1].env_step < 8  # the budget may end within a collection
    (session,) = record.sessions
    assert session["versions"]["torch"] and session["machine"]["cores"] == os.cpu_count() and "commit" in session
    assert record.started <= record.finished
    assert record.config_hash == config_hash(record.config)


def test_the_bar_ends_nothing_and_its_confirmation_is_recorded(whole: Path, tmp_path: Path) -> None:
    (record,) = read_ledger(whole / "ledger", "cartpole_dqn")
    at_bar = [point for point in record.curve if point.return_mean >= 9.5]
    assert len(at_bar) > 1  # otherwise this test has nothing to tell
    assert record.solved_env_step == at_bar[0].env_step
    assert at_bar[0].episodes == 3 and {point.episodes for point in at_bar[1:]} == {2}  # confirmed once
    source = apply_overrides(read_source(find_config("cartpole_dqn")), [*SMALL, "evaluator.stop_val=inf"])
    serial_pipeline(source, seed=1, run_dir=tmp_path / "run", show=False)
    plain, benched = weights(tmp_path / "run"), weights(whole / "work" / "seed_1")
    assert all(torch.equal(plain[k], benched[k]) for k in plain)  # the bar changes nothing of what is learned


def test_a_bar_out_of_reach_is_never_solved(tmp_path: Path) -> None:
    (record,) = bench(tmp_path, "evaluator.stop_val=499", "max_env_step=200")
    assert record.solved_env_step is None and record.bar == 499
    (none,) = bench(tmp_path / "none", "evaluator.stop_val=inf", "max_env_step=200")
    assert none.solved_env_step is None and none.bar is None


def test_a_recorded_seed_is_not_run_twice(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(module, "serial_pipeline", never)
    said: list[str] = []
    assert bench(whole, said=said) == read_ledger(whole / "ledger", "cartpole_dqn")
    assert len(said) == 1 and said[0].startswith("seed 1: recorded, final return")
    bench(whole, "learner.log_freq=7", "torch_threads=1", "common.name=cartpole_dqn")  # these change no result
    with pytest.raises(AssertionError, match="trained again"):
        bench(whole, seeds=[1, 2])


def test_another_config_is_refused(whole: Path) -> None:
    with pytest.raises(
        RunFolderError,
        match=r"seed_1\.json is of another configuration: policy\.learn\.batch_size is 64 there, 32 here; "
        r"remove it \(and .*work\) to run the recipe anew, or give another --ledger and --work",
    ):
        bench(whole, "policy.learn.batch_size=32")
    with pytest.raises(RunFolderError, match=r"work/seed_1 is a run of another configuration .*--work"):
        bench_learn(
            "cartpole_dqn", [*SMALL, "policy.learn.batch_size=32"], seeds=[1], ledger=whole / "new", work=whole / "work"
        )


def test_a_foreign_run_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "work" / "seed_1").mkdir(parents=True)
    with pytest.raises(RunFolderError, match=r"seed_1 was not made by nervex bench learn: there is no sound seed_1"):
        bench(tmp_path)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["max_env_step=inf"], "no budget"),
        (["max_wall_s=60"], "max_wall_s is 60 in cartpole_dqn_default_config.yaml"),
        (["seed=3"], "--first-seed"),
        (["policy.learn.bach_size=3"], "did you mean 'batch_size'"),
    ],
)
def test_bad_input_starts_nothing(overrides: list[str], expected: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=expected):
        bench(tmp_path, *overrides)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_seed_goes_on_and_ends_the_same(whole: Path, tmp_path: Path) -> None:
    (expected,) = read_ledger(whole / "ledger", "cartpole_dqn")
    assert expected.solved_env_step is not None
    code = f"""if True:
        import os, signal, sys
        from nervex.cli import main
        from nervex.torch_utils.checkpoint_writer import CheckpointWriter
        save = CheckpointWriter.save
        def save_and_die(self, *args, **kwargs):
            save(self, *args, **{{**kwargs, "wait": True}})
            if kwargs["metadata"]["env_step"] > {expected.solved_env_step}:
                os.kill(os.getpid(), signal.SIGKILL)
        CheckpointWriter.save = save_and_die
        main(sys.argv[1:])
    """
    options = {"--first-seed": 1, "--seeds": 1, "--ledger": tmp_path / "ledger", "--work": tmp_path / "work"}
    words = [str(word) for option in options.items() for word in option]
    command = [sys.executable, "-c", code, "bench", "learn", "cartpole_dqn", *SMALL, *words]
    assert subprocess.run(command, capture_output=True, timeout=120).returncode == -signal.SIGKILL
    assert not (tmp_path / "ledger").exists()
    (record,) = bench(tmp_path)
    assert len(record.sessions) == 2 and record.started == record.sessions[0]["started"]
    for key in ("curve", "final", "solved_env_step", "env_step", "train_iter", "config_hash", "config"):
        assert getattr(record, key) == getattr(expected, key), key


def test_a_kill_within_the_confirmation_loses_nothing(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The evaluation at the bar is in metrics.jsonl, the checkpoint is from before it."""
    (expected,) = read_ledger(whole / "ledger", "cartpole_dqn")
    original = CheckpointWriter.save

    def die(self: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("pin") and kwargs["metadata"]["env_step"] == expected.solved_env_step:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    monkeypatch.setattr(CheckpointWriter, "save", die)
    with pytest.raises(KeyboardInterrupt):
        bench(tmp_path)
    monkeypatch.undo()
    (record,) = bench(tmp_path)
    assert (record.curve, record.solved_env_step) == (expected.curve, expected.solved_env_step)


def test_ctrl_c_ends_with_its_code_and_records_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def press(learner: Any) -> None:
        if learner.last_iter.val == 30:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(module, "serial_pipeline", functools.partial(serial_pipeline, hooks=[press]))
    places = ["--ledger", str(tmp_path / "ledger"), "--work", str(tmp_path / "work")]
    assert main(["bench", "learn", "cartpole_dqn", *SMALL, *places, "--seeds", "3"]) == 130
    assert capsys.readouterr().out.endswith("\ninterrupted; the same command goes on\n")
    assert not (tmp_path / "ledger").exists() and not (tmp_path / "work" / "seed_1").exists()


def test_a_run_killed_before_its_first_checkpoint_begins_anew(whole: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "work" / "seed_1"
    run_dir.mkdir(parents=True)
    (run_dir / "config.yaml").write_text("{}")
    (tmp_path / "work" / "seed_1.json").write_text((whole / "work" / "seed_1.json").read_text())
    (record,), (expected,) = bench(tmp_path), read_ledger(whole / "ledger", "cartpole_dqn")
    assert record.curve == expected.curve and len(record.sessions) == 2


def test_config_hash_changes_with_what_matters() -> None:
    config = {"seed": 1, "common": {"name": "a"}, "learner": {"log_freq": 1, "hook": {}}, "max_env_step": float("inf"),
              "policy": {"import_names": ["/home/me/mine.py", "nervex.policy.dqn"]}}  # fmt: skip
    same = {"seed": 2, "common": {"name": "b"}, "learner": {"log_freq": 9, "check_finite_freq": 5, "hook": {}},
            "max_env_step": "inf", "policy": {"import_names": ["/home/you/mine.py", "nervex.policy.dqn"]}}  # fmt: skip
    assert config_hash(config) == config_hash(same)
    for key, value in (("max_env_step", 5), ("policy", {"import_names": []}), ("new", None)):
        assert config_hash({**config, key: value}) != config_hash(config), key


def test_the_ledger_that_is_shipped_is_of_the_recipes_as_they_are() -> None:
    """A committed seed of another configuration would be refused instead of found."""
    ledger, changed = Path(__file__).parents[2] / "benchmarks" / "ledger", {}
    for name in recipes(ledger):
        now = compile_config(read_source(find_config(name)))
        for record in read_ledger(ledger, name):
            if not record.peer and (found := differences(record.config, now.cfg.to_dict())):
                changed[f"{name} {record.seed}"] = found
    assert changed == {}


def test_a_key_of_a_later_version_makes_no_other_configuration() -> None:
    old = {"seed": 1, "policy": {"learn": {"lr": 0.1, "gone": 3}}}
    new = {"seed": 2, "policy": {"learn": {"lr": 0.1, "gone": 3, "compile": False}}}
    assert differences(old, new) == []
    assert differences(old, new, ["policy/learn/compile"]) == ["policy/learn/compile"]
    assert differences(new, old) == ["policy/learn/compile"]
    assert differences(old, {"policy": {"learn": {"lr": 0.2}}}) == ["policy/learn/gone", "policy/learn/lr"]


def test_a_recorded_seed_counts_after_a_new_key_and_not_after_a_change(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "ledger", tmp_path / "ledger")
    path = tmp_path / "ledger" / "cartpole_dqn" / "seed_1.json"
    data = json.loads(path.read_text())
    del data["config"]["policy"]["learn"]["learning_rate"]  # the recipe sets it
    del data["config"]["evaluator"]["max_episode_step"]  # it does not set that
    path.write_text(json.dumps(data))
    with pytest.raises(RunFolderError, match=r"of another configuration: policy.learn.learning_rate is None there"):
        bench(tmp_path)
    data["config"]["policy"]["learn"]["learning_rate"] = read_record(
        whole / "ledger" / "cartpole_dqn" / "seed_1.json"
    ).config["policy"]["learn"]["learning_rate"]
    path.write_text(json.dumps(data))
    (record,) = bench(tmp_path)
    assert record == read_record(path)


def made(seed: int, final: float, peer: str = "", **changes: Any) -> Record:
    curve = (Point(0, 0.0, 10), Point(50, 2 * final, 10), Point(100, final + 1, 10))
    fields: dict[str, Any] = {
        "name": "task", "seed": seed, "env": "Task-v1", "curve": curve, "final": Point(100, final, 100),
        "env_step": 100, "wall_s": 10.0 + seed, "cpu_s": 5.0, "peer": peer, **changes,
    }  # fmt: skip
    return Record(**fields)


def ledger_of(root: Path) -> Path:
    for seed, final in enumerate((12.0, 3.0, 7.5, 40.0, 8.0)):
        solved = 50 * seed if seed < 3 else None
        write_record(root / "task" / f"seed_{seed}.json", made(seed, final, bar=475, solved_env_step=solved))
        peer = made(seed, 10.0, peer="sb3 2.9.2 sac", source="the zoo")
        write_record(root / "task" / f"peer_sb3_seed_{seed}.json", peer)
    return root


def test_tables_say_what_the_records_say(tmp_path: Path) -> None:
    records = read_ledger(ledger_of(tmp_path), "task")
    assert [(r.peer, r.seed) for r in records[4:7]] == [("", 4), ("sb3 2.9.2 sac", 0), ("sb3 2.9.2 sac", 1)]
    page = recipe_table(records).splitlines()
    assert page[0] == "# task" and page[2].startswith("Task-v1, bar 475. Made by `nervex bench learn task`")
    (ours,) = [line for line in page if line.startswith("| task | 5 |")]
    assert "| 9.17 [4.5, 30.7] |" in ours and "| 18.3 | 3 of 5, median at 50 | 100 | 12 | 5 | 50.00 |" in ours
    (peer,) = [line for line in page if line.startswith("| sb3 2.9.2 sac | 5 |")]
    assert "| 10.0 [10.0, 10.0] | 20.0 |  | 100 |" in peer
    (difference,) = [line for line in page if line.startswith("| sb3 2.9.2 sac | -0.833 [")]
    assert "| -8.3 % [-" in difference
    assert "| task | 3 | 40.0 over 100 | 80.0 (50) | never | 100 | 13 | 5 |" in page
    assert "- sb3 2.9.2 sac: the zoo." in page
    section = all_table([records])
    assert "| [task](ledger/task/table.md) | nerveX | 5 | 9.17" in section
    assert "| [task](ledger/task/table.md) | sb3 2.9.2 sac | 5 | 10.0" in section
    assert "| task | sb3 2.9.2 sac | -0.833 [" in section


def test_tables_warn_of_mixed_configs_and_changed_code(tmp_path: Path) -> None:
    records = [made(0, 1.0, config={"a": 1}), made(1, 1.0, config={"a": 2}, sessions=({"dirty": True},))]
    page = recipe_table(records)
    assert "**Ours: seeds of 2 different configurations.**" in page
    assert "Made with code that differs from its commit: seed 1." in page


def test_a_page_of_peers_alone_claims_no_run_of_ours() -> None:
    page = recipe_table([made(0, 5.0, peer="sb3")])
    assert "nervex bench learn" not in page and "compared with" not in page


def test_one_seed_has_no_interval() -> None:
    assert "| task | 1 | 5 | 10.0 |" in recipe_table([made(0, 5.0)])


def test_picture_shows_iqm_band_seeds_and_bar(tmp_path: Path) -> None:
    figure = draw_records(read_ledger(ledger_of(tmp_path), "task"))
    axes = figure.axes[0]
    line = {str(one.get_label()): one for one in axes.get_lines()}
    middle = line["task (IQM of 5 seeds)"].get_xydata()
    assert np.allclose(middle, [[0, 0], [50, 2 * 27.5 / 3], [100, 27.5 / 3]])  # the final one replaces the last
    assert {"sb3 2.9.2 sac (IQM of 5 seeds)", "bar 475"} <= line.keys()
    assert len([one for one in axes.collections if isinstance(one, PolyCollection)]) == 2
    assert len(axes.get_lines()) == 2 + 1 + 10
    assert axes.get_title(loc="left") == "Task-v1"
    assert figure.axes[0].get_ylim()[1] > 475


def test_curves_of_unequal_steps_share_a_grid() -> None:
    short = seed_curve(dataclasses.replace(made(1, 8.0), curve=(Point(10, 0.0, 1),), final=Point(90, 8.0, 1)))
    step, value = common_grid([seed_curve(made(0, 10.0)), short])
    assert step.tolist() == [10, 50, 90]
    assert value[1].tolist() == [0, 4, 8] and value[0].tolist() == [4, 20, 12]


def test_files_of_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = ledger_of(tmp_path / "ledger")
    (table,) = write_tables(ledger, ["task"], plot=False)
    assert not (ledger / "task" / "curve.png").exists()
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- ledger:start -->\nold\n<!-- ledger:end -->\nafter\n")
    assert main(["bench", "table", "--ledger", str(ledger), "--readme", str(readme)]) == 0
    page = readme.read_text()
    assert page.startswith("before\n<!-- ledger:start -->\n|") and "old" not in page
    assert page.endswith("<!-- ledger:end -->\nafter\n") and all_table([read_ledger(ledger, "task")]) in page
    assert (ledger / "task" / "curve.png").read_bytes()[:4] == b"\x89PNG"
    assert table.read_text() == recipe_table(read_ledger(ledger, "task"))
    assert recipes(ledger) == ["task"] and str(readme) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("readme", "expected"), [(None, "give another --readme"), ("no markers", "has no lines <!-- ledger:start -->")]
)
def test_a_page_without_a_place_is_refused(
    readme: str | None, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "page.md"
    if readme is not None:
        path.write_text(readme)
    assert main(["bench", "table", "--ledger", str(ledger_of(tmp_path / "ledger")), "--readme", str(path)]) == 2
    assert expected in capsys.readouterr().err


def test_wrong_command_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "table", "--ledger", str(tmp_path)]) == 2
    assert "no records in" in capsys.readouterr().err
    assert main(["bench", "learn", "cartpole_dqn", "--seeds", "0"]) == 2
    assert "--seeds is 0 and --first-seed 0; expected at least 1 and 0" in capsys.readouterr().err
    assert main(["bench", "learn", "cartpole_dqm"]) == 2
    assert "did you mean 'cartpole_dqn'" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"schema": 1, "curve": [], "final": {}}', '{"schema": 2}'])
def test_a_damaged_record_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "seed_0.json"
    path.write_text(text)
    with pytest.raises(RunFolderError, match=r"seed_0\.json (is no record of the ledger|has schema 2)"):
        read_record(path)


def test_an_infinite_return_survives_the_file(tmp_path: Path) -> None:
    record = made(0, float("-inf"), config={"a": [1, float("inf")]})
    write_record(tmp_path / "seed_0.json", record)
    assert read_record(tmp_path / "seed_0.json").final.return_mean == float("-inf")
