"""Every example of the READMEs, docs/ and the READMEs of app_zoo/ runs; those of a translation are its original's.

The blocks of one page run in order, in one folder: Python in one namespace, lines of ``bash`` that begin with
``nervex`` through the command line's entry function, YAML through the schemas. A paragraph that ends with ``as
`name.py`:`` or ``as `name.yaml`:`` names the file that the next block is saved as, one with ``to `name.py`:`` the file
that it is added to, one with ``the class in `name.py`:`` the file whose class it is added to, one level deeper; a later
block imports that. What ``print(...)  # text`` prints must be the text of its comment. Runs are cut short: some hundred
env steps, evaluations of one episode, one pass over each rollout, and short episodes of few envs where a step is slow.
"""

import importlib
import linecache
import re
import shlex
import sys
import textwrap
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from translations import TRANSLATIONS

from nervex.agent.plugin import PLUGIN_REGISTRY
from nervex.cli import main
from nervex.config.schema import build
from nervex.config.source import ConfigSource, read_source
from nervex.entry import check_entry, serial_entry
from nervex.entry.compile_config import compile_config
from nervex.entry.sections import EnvConfig, MainConfig
from nervex.envs import Limits
from nervex.envs.registry import ENV_REGISTRY
from nervex.policy.base_policy import POLICY_REGISTRY
from nervex.utils.import_helper import import_names
from nervex.worker.learner.hooks import HOOK_REGISTRY

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "README.zh.md",
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if page not in TRANSLATIONS),
    *sorted((ROOT / "app_zoo").rglob("*.md")),
]
REGISTRIES = (ENV_REGISTRY, HOOK_REGISTRY, PLUGIN_REGISTRY, POLICY_REGISTRY)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r"(as|to|class in|为)\s+`([\w.-]+\.(?:py|yaml))`[:：]\s*\Z")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, text, line in the page, and the file that it is to be saved as, if any; or added to
    (``added`` is ``'to'``) or to whose class (``'class in'``)."""

    language: str
    text: str
    line: int
    file: str | None
    added: str = ""


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        name = FILE_NAME.search(text[: match.start()].rstrip("\n"))
        line = text.count("\n", 0, match.start()) + 2
        file, added = (name[2], name[1] if name[1] in ("to", "class in") else "") if name else (None, "")
        found.append(Block(match[1], match[2], line, file, added))
    return found


def registered() -> list[dict[str, Any]]:
    return [dict(registry._entries) for registry in REGISTRIES]


def shipped(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the entries less those of the pages: what a new process finds, or gets by imports of the zoo."""
    return [{k: v for k, v in held.items() if v.__module__.startswith(("nervex.", "app_zoo."))} for held in entries]


def restore(entries: list[dict[str, Any]]) -> None:
    """Goes back to ``entries``, keeping what the zoo registered meanwhile: its modules are imported only once."""
    for registry, held, new in zip(REGISTRIES, entries, shipped(registered()), strict=True):
        registry._entries = {**held, **new}


class Page:
    """Runs the blocks of one page; commands and YAML files meet the registries as a new process has them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.module = types.ModuleType(f"page_{path.stem}")
        self.module.__dict__["print"] = self._print
        sys.modules[self.module.__name__] = self.module

    def run(self, block: Block) -> None:
        if block.added:
            self._add(block)
            return
        if block.file is not None:
            Path(block.file).write_text(block.text, encoding="utf-8")
        if block.language == "python":
            self._python(block)
        elif block.language == "yaml":
            self._apart(lambda: check_yaml(block))
        elif block.language == "bash":
            for line in block.text.splitlines():
                self._apart(partial(self._command, line))

    def _add(self, block: Block) -> None:
        assert block.file is not None
        text = block.text if block.added == "to" else textwrap.indent(block.text, "    ")
        with Path(block.file).open("a", encoding="utf-8") as file:
            file.write(f"\n{text}")
        sys.modules.pop(Path(block.file).stem, None)  # as it was before the addition

    def _python(self, block: Block) -> None:
        if block.file is not None:
            module = importlib.import_module(Path(block.file).stem)
            self.module.__dict__.update({k: v for k, v in vars(module).items() if not k.startswith("__")})
            return
        name = f"{self.path.name}:{block.line}"
        lines = block.text.splitlines(keepends=True)
        linecache.cache[name] = (len(block.text), None, lines, name)
        exec(compile(block.text, name, "exec"), self.module.__dict__)

    def _command(self, line: str) -> None:
        words = shlex.split(line)
        assert words[0] == "nervex", f"{self.path.name}: only lines of nervex belong into a bash block: {line}"
        try:
            code = main(words[1:])
        except SystemExit as e:
            code = int(e.code or 0)
        assert code == 0, f"{self.path.name}: '{line}' exited with {code}"

    def _apart(self, action: Callable[[], None]) -> None:
        held = registered()
        restore(shipped(held))
        try:
            action()
        finally:
            restore(held)

    def _print(self, *values: Any) -> None:
        frame = sys._getframe(1)
        _, _, comment = linecache.getline(frame.f_code.co_filename, frame.f_lineno).partition(")  # ")
        if comment:
            shown = " ".join(map(str, values))
            assert shown == comment.rstrip("\n"), f"{frame.f_code.co_filename}+{frame.f_lineno}: prints {shown}"


def check_yaml(block: Block) -> None:
    data = yaml.safe_load(block.text)
    source = ConfigSource.from_dict(data) if block.file is None else read_source(block.file)
    if "env" in data and "policy" in data:
        compile_config(source)
    elif "env" in data:
        section = build(EnvConfig, data["env"], source, ("env",))
        import_names([str(Path(n).resolve()) if n.endswith(".py") else n for n in section["import_names"]], "env")
        own = {k: v for k, v in section.items() if k not in EnvConfig.__dataclass_fields__}
        config_class = ENV_REGISTRY.get(section["env_type"]).config_class
        if config_class is not None:
            build(config_class, own, source, ("env",))
    else:
        build(MainConfig, {"env": {}, "policy": {}, **data}, source)


def cut_short(as_source: Callable[[Any], ConfigSource]) -> Callable[[Any], ConfigSource]:
    def short(cfg: Any) -> ConfigSource:
        source = as_source(cfg)
        if source.data["policy"].get("policy_type") in ("bc", "cql", "iql"):
            shorten_offline(source.data)
            return source
        wanted = min(float(source.data.get("max_env_step", "inf")), 100_000)
        source.data["max_env_step"] = int(min(wanted, 100 + wanted / 400))  # a larger budget stays a larger one
        evaluator = source.data.setdefault("evaluator", {})
        evaluator["n_episode"] = evaluator["confirm_episode"] = 1
        actor = source.data.setdefault("actor", {})
        actor["random_collect_size"] = min(actor.get("random_collect_size", 0), 64)
        if source.data["policy"].get("policy_type") in ("a2c", "ppo", "impala"):
            source.data["policy"].setdefault("learn", {})["epoch_per_collect"] = 1
        shrink_slow(source.data)
        return source

    return short


def shorten_offline(data: dict[str, Any]) -> None:
    """Makes few updates, on small batches of few episodes, without compiling them."""
    data["max_train_iter"] = 20
    data["evaluator"] |= {"n_episode": 1, "confirm_episode": 1}
    data["policy"]["learn"] |= {"batch_size": 16, "train_step": 5, "compile": False}
    for part in data["dataset"].get("collect", ()):
        part["episodes"] = min(part["episodes"], 10)


def shrunk(check_config: Callable[..., Any]) -> Callable[..., Any]:
    def small(source: ConfigSource, *rest: Any) -> Any:
        shrink_slow(source.data)
        return check_config(source, *rest, limits=Limits(time_s=1.0, step=500), speed=False)

    return small


def shrink_slow(data: dict[str, Any]) -> None:
    """Makes episodes short and the network small where an env step or an update takes long."""
    env, policy = data["env"], data["policy"]
    if env.get("env_type") == "atari":
        data["max_env_step"] = 64
        env |= {"max_episode_frames": 160, "noop_max": 1, "actor_env_num": 2, "evaluator_env_num": 1}
        policy["model"] |= {"embedding_dim": 16}
        policy["collect"]["traj_len"] = 16
        policy["learn"]["batch_size"] = 32
    if env.get("env_type") == "mujoco":
        env |= {"make_kwargs": {"max_episode_steps": 50}, "evaluator_env_num": 1}
        policy["model"] |= {"hidden_dim_list": [16]}


@pytest.fixture(autouse=True)
def cheap_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(serial_entry, "as_source", cut_short(serial_entry.as_source))
    monkeypatch.setattr(check_entry, "check_config", shrunk(check_entry.check_config))
    entries, modules, threads = registered(), set(sys.modules), torch.get_num_threads()
    yield
    restore(entries)
    torch.set_num_threads(threads)
    for name in set(sys.modules) - modules:
        if name.startswith("page_") or (tmp_path / f"{name}.py").exists():
            del sys.modules[name]


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_examples_run(path: Path) -> None:
    page = Page(path)
    for block in blocks(path):
        page.run(block)


def test_pieces_make_one_file(tmp_path: Path) -> None:
    page = Page(tmp_path / "page.md")
    pieces = {
        "as `whole.py`": "class A:\n    a = 1",
        "to the class in `whole.py`": "b = a + 1",
        "to `whole.py`": "b = A.b + 1",
    }
    text = "".join(f"Add it {where}:\n\n```python\n{code}\n```\n\n" for where, code in pieces.items())
    page.path.write_text(text + "```python\nfrom whole import b\n```\n", encoding="utf-8")
    for block in blocks(page.path):
        page.run(block)
    assert page.module.b == 3


def test_a_wrong_comment_is_noticed(tmp_path: Path) -> None:
    page = Page(tmp_path / "page.md")
    page.run(Block("python", "print(1 + 1)  # 2\n", 1, None))
    with pytest.raises(AssertionError, match=r"page\.md:1\+1: prints 2"):
        page.run(Block("python", "print(1 + 1)  # 3\n", 1, None))


def test_a_wrong_key_or_command_is_noticed(tmp_path: Path) -> None:
    page = Page(tmp_path / "page.md")
    with pytest.raises(ValueError, match="did you mean 'env_id'"):
        page.run(Block("yaml", "env: {env_type: gymnasium, env_idd: CartPole-v1}\n", 1, None))
    with pytest.raises(AssertionError, match="exited with 2"):
        page.run(Block("bash", "nervex train nothing_of_the_kind\n", 1, None))
