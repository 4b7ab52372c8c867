"""The built wheel, in an empty directory, without the checkout."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.package
def test_the_wheel_trains_a_shipped_config_in_an_empty_directory(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(ROOT)]
    subprocess.run(build, check=True, timeout=300, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "nervex/py.typed" in names and "app_zoo/py.typed" in names
    assert "app_zoo/classic_control/cartpole/entry/cartpole_dqn_default_config.yaml" in names
    assert not [n for n in names if n.startswith(("tests/", "docs/", "benchmarks/"))]
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(tmp_path / "lib"),
        str(wheel),
    ]
    subprocess.run(install, check=True, timeout=300)
    empty = tmp_path / "empty"
    empty.mkdir()
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "lib")}
    where = [sys.executable, "-c", "import nervex, app_zoo; print(nervex.__file__, app_zoo.__file__)"]
    found = subprocess.run(where, env=env, cwd=empty, check=True, capture_output=True, text=True).stdout
    assert found.count(str(tmp_path / "lib")) == 2
    train = [sys.executable, "-m", "nervex", "train", "cartpole_dqn", "max_env_step=300", "evaluator.n_episode=1",
             "--run-dir", "run"]  # fmt: skip
    done = subprocess.run(train, env=env, cwd=empty, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads((empty / "run" / "result.json").read_text())["env_step"] >= 300
