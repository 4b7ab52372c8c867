"""The architecture, read off the imports: floors, file sizes, and who may import what."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOORS = [
    {"utils"},
    {"config", "kernels"},
    {"torch_utils"},
    {"data", "rl_utils", "league"},
    {"model", "envs"},
    {"agent"},
    {"policy", "computation_graph"},
    {"worker"},
    {"system"},
    {"entry"},
]
FLOOR = {package: height for height, floor in enumerate(FLOORS) for package in floor}
MAX_LINES = 600
LAZY_IMPORTS_ALLOWED = {"nervex/cli.py"}
ONLY_IN = {  # heavy or optional packages -> the only places that may import them
    "ray": ("nervex/system/",),
    "envpool": ("nervex/worker/actor/env_manager/", "app_zoo/"),
    "imageio_ffmpeg": ("nervex/utils/video.py",),
    "matplotlib": ("nervex/entry/plot.py", "nervex/entry/plot_ledger.py"),
    "lz4": ("nervex/data/lz4_store.py", "nervex/torch_utils/compression_helper.py"),
    "fsspec": ("nervex/utils/storage.py",),
    "s3fs": (),  # by fsspec, where S3 is asked for
    "filelock": ("nervex/utils/lock_helper.py",),
    "scipy": ("nervex/torch_utils/loss/multi_logits_loss.py",),
    "h5py": ("nervex/data/offline/minari.py",),
    "numba": ("nervex/kernels/jit.py",),
    "rich": ("nervex/worker/monitor/",),
    "gymnasium": ("nervex/envs/", "app_zoo/"),
}
TORCH_FREE = ("nervex/utils", "nervex/config", "nervex/envs", "nervex/league")


def sources() -> list[Path]:
    return sorted(p for top in ("nervex", "app_zoo") for p in (ROOT / top).rglob("*.py"))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path, top_only: bool = False) -> Iterator[tuple[int, str]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.iter_child_nodes(tree) if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)}:{node.lineno} imports relatively"
            yield node.lineno, node.module or ""


def guarded(path: Path) -> Iterator[tuple[int, str]]:
    """Imports below a ``try`` or ``if`` at the top of the module (optional packages)."""
    for block in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(block, ast.If | ast.Try):
            lines = range(block.lineno, (block.end_lineno or block.lineno) + 1)
            yield from ((line, module) for line, module in imports(path) if line in lines)


def upward(path: Path) -> list[str]:
    """Returns the imports of one file that go up, or sideways between packages of one floor."""
    parts = path.relative_to(ROOT).parts
    found = []
    for line, module in imports(path):
        target = module.split(".")
        if parts[0] == "nervex" and target[0] == "app_zoo":
            found.append(f"{name(path)}:{line} imports {module}")
        if parts[0] != "nervex" or target[0] != "nervex" or len(parts) < 3 or len(target) < 2:
            continue
        own, other = parts[1], target[1]
        if own != other and FLOOR[other] >= FLOOR[own]:
            found.append(f"{name(path)}:{line} ({own}) imports {module}")
    return found


def test_no_import_goes_up() -> None:
    assert [problem for path in sources() for problem in upward(path)] == []


def test_every_package_has_a_floor() -> None:
    packages = {p.parent.name for p in (ROOT / "nervex").glob("*/__init__.py")}
    assert packages <= FLOOR.keys()


def test_an_upward_import_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = tmp_path / "nervex" / "data" / "bad.py"
    bad.parent.mkdir(parents=True)
    bad.write_text("from nervex.policy.dqn import DQNPolicy\n")
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    assert len(upward(bad)) == 1


@pytest.mark.parametrize("path", sources(), ids=name)
def test_file_is_short_and_imports_at_the_top(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MAX_LINES
    if name(path) not in LAZY_IMPORTS_ALLOWED:
        inside = set(imports(path)) - set(imports(path, top_only=True)) - set(guarded(path))
        assert not inside, f"imports inside functions: {sorted(inside)}"


@pytest.mark.parametrize("package", sorted(ONLY_IN))
def test_a_heavy_package_is_imported_in_its_place_only(package: str) -> None:
    places = ONLY_IN[package]
    users = [name(p) for p in sources() if any(m.split(".")[0] == package for _, m in imports(p))]
    assert [u for u in users if not u.startswith(places)] == []


@pytest.mark.parametrize("folder", TORCH_FREE)
def test_a_torch_free_package_imports_no_torch(folder: str) -> None:
    users = [name(p) for p in (ROOT / folder).rglob("*.py") if any(m.split(".")[0] == "torch" for _, m in imports(p))]
    assert users == []


def test_package_init_only_resolves_names() -> None:
    for path in (ROOT / "nervex").rglob("__init__.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        allowed = (ast.Expr, ast.ImportFrom, ast.Assign)
        assert all(isinstance(node, allowed) for node in tree.body), name(path)


def test_every_public_name_resolves() -> None:
    code = (
        "import importlib, pkgutil, nervex\n"
        "names = ['nervex'] + [m.name for m in pkgutil.walk_packages(nervex.__path__, 'nervex.') if m.ispkg]\n"
        "for n in names:\n"
        "    package = importlib.import_module(n)\n"
        "    for attribute in dir(package):\n"
        "        getattr(package, attribute)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_import_nervex_and_help_need_no_torch() -> None:
    code = (
        "import sys, nervex, nervex.cli\n"
        "try:\n    nervex.cli.main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'numba', 'gymnasium', 'matplotlib', 'rich', 'yaml'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, stdout=subprocess.DEVNULL)
