"""The run folder: who may begin, go on or look; files that are whole or not there."""

import errno
import json
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nervex.utils.errors import RunFolderError
from nervex.worker.monitor.run_folder import RunFolder, cpu_s, peak_rss_bytes


def test_create_makes_the_folder_and_tells_versions_and_seed(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "a" / "b", "cartpole_dqn", 3) as folder:
        assert folder.checkpoint_dir.is_dir()
        versions = folder.read_versions()
    assert versions["name"] == "cartpole_dqn" and versions["seed"] == 3
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert versions["numpy"] == np.__version__
    assert {"platform", "nervex", "torch", "gymnasium"} <= set(versions)


def test_every_path_lies_in_the_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    paths = [folder.config_path, folder.versions_path, folder.metrics_path, folder.tensorboard_dir]
    paths += [folder.checkpoint_dir, folder.curve_path, folder.result_path]
    expected = "config.yaml versions.json metrics.jsonl tensorboard checkpoints curve.png result.json"
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == expected.split()


def test_the_default_folder_tells_name_seed_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda form: "20250102-030405")
    names = []
    for _ in range(3):
        with RunFolder.create(None, "my/odd name", 7) as folder:
            names.append(folder.path.as_posix())
    stem = "runs/my_odd_name_seed7_20250102-030405"
    assert names == [stem, f"{stem}_2", f"{stem}_3"]


def test_the_time_in_the_default_name_has_the_documented_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with RunFolder.create(None, "x", 0) as folder:
        assert re.fullmatch(r"x_seed0_\d{8}-\d{6}", folder.path.name)


def test_a_folder_with_a_run_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path, "x", 0) as folder:
        folder.write_config("a: 1\n")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(RunFolderError) as error:
        RunFolder.create(tmp_path, "x", 1)
    assert f"`nervex train --resume --run-dir {tmp_path}` goes on with it, another --run-dir" in str(error.value)
    assert sorted(tmp_path.iterdir()) == before
    assert folder.read_versions()["seed"] == 0


def test_a_folder_with_other_things_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(RunFolderError, match="is not empty and holds no run; give another --run-dir"):
        RunFolder.create(tmp_path, "x", 0)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_run_that_failed_before_it_began_may_be_begun_again(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, "x", 0).close()
    (tmp_path / ".config.yaml.tmp-0a1b").touch()
    RunFolder.create(tmp_path, "x", 1).close()
    (tmp_path / "checkpoints" / "best").mkdir()
    with pytest.raises(RunFolderError, match="is not empty"):
        RunFolder.create(tmp_path, "x", 2)


def test_a_file_in_the_place_of_the_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match=r"cannot make run folder .*: a file of this name is there"):
        RunFolder.create(tmp_path / "file", "x", 0)
    with pytest.raises(RunFolderError, match=r"cannot make run folder .*: Not a directory"):
        RunFolder.create(tmp_path / "file" / "below", "x", 0)


def test_open_wants_a_folder_with_a_config(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"no run folder .*nowhere; give the folder that `nervex train`"):
        RunFolder.open(tmp_path / "nowhere")
    with pytest.raises(RunFolderError, match=r"is no run folder: it has no config.yaml"):
        RunFolder.open(tmp_path)


def test_a_run_in_use_can_be_read_and_not_locked(tmp_path: Path) -> None:
    owner = RunFolder.create(tmp_path, "x", 0)
    owner.write_config("a: 1\n")
    owner.lock()  # again: nothing happens
    other = RunFolder.open(tmp_path)
    with pytest.raises(RunFolderError, match=rf"is in use by process {os.getpid()} on .*; wait for its end, or give"):
        other.lock()
    owner.close()
    owner.close()
    with other:
        other.lock()
        with pytest.raises(RunFolderError, match="is in use by process"):
            RunFolder.open(tmp_path).lock()


def test_a_killed_process_lets_its_lock_go(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from nervex.worker.monitor.run_folder import RunFolder\n"
        "folder = RunFolder.create(sys.argv[1], 'x', 0)\n"
        "folder.write_config('a: 1')\n"
        "print('locked', flush=True)\n"
        "time.sleep(60)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None and child.stdout.readline() == "locked\n"
        with pytest.raises(RunFolderError, match=f"is in use by process {child.pid} on"):
            RunFolder.open(tmp_path).lock()
        child.send_signal(signal.SIGKILL)
        child.wait()
        with RunFolder.open(tmp_path) as folder:
            folder.lock()
    finally:
        child.kill()
        child.communicate()


def test_a_lock_does_not_pass_to_a_child_that_outlives_the_run(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "x", 0)
    folder.write_config("")
    with subprocess.Popen(["sleep", "60"], close_fds=False) as child:
        folder.close()
        try:
            with RunFolder.open(tmp_path) as again:
                again.lock()
        finally:
            child.kill()


def test_the_result_is_plain_json(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    best = -math.inf
    folder.write_result({"best": best, "run_dir": tmp_path, "nested": {"list": [math.nan, 1, (2.5,)]}, "policy": "dqn"})
    assert folder.read_result() == {
        "best": None,
        "run_dir": str(tmp_path),
        "nested": {"list": [None, 1, [2.5]]},
        "policy": "dqn",
    }
    with pytest.raises(TypeError, match="has no form in JSON"):
        folder.write_result({"policy": object()})
    assert folder.read_result()["policy"] == "dqn"


def test_a_result_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path)
    folder.write_result({"env_step": 1})

    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunFolderError, match=r"cannot write .*result\.json \(.* bytes.*\): No space left on device"):
        folder.write_result({"env_step": 2})
    assert folder.read_result() == {"env_step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_the_disk_has_the_result_before_it_takes_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(file: int) -> None:
        events.append("fsync")
        fsync(file)

    def noted_replace(source: Path, target: Path) -> None:
        events.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    RunFolder(tmp_path).write_result({"env_step": 1})
    assert events == ["fsync", "replace", "fsync"]


def test_a_missing_or_damaged_result_is_an_error(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with pytest.raises(RunFolderError, match=r"no result\.json in .*: the run has not ended; .* --resume --run-dir"):
        folder.read_result()
    folder.result_path.write_text('{"env_step": ')
    with pytest.raises(RunFolderError, match=r"result\.json is damaged"):
        folder.read_result()
    folder.result_path.write_text("[1]")
    with pytest.raises(RunFolderError, match="holds a list, expected an object"):
        folder.read_result()


def test_the_cost_counts_children_that_have_ended() -> None:
    before = cpu_s()
    code = "import time\nblock = bytearray(400_000_000)\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert cpu_s() - before >= 0.3
    assert 400_000_000 < peak_rss_bytes() < 1 << 40


def test_versions_are_json(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, "x", 0).close()
    assert json.loads((tmp_path / "versions.json").read_text())["seed"] == 0
