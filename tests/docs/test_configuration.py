"""The tables of docs/configuration.md are those of the dataclasses.

Run as a script with ``--write`` (python tests/docs/test_configuration.py --write) to bring the page up to date.
"""

import dataclasses
import inspect
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from nervex.config import describe
from nervex.data.replay import ReplayConfig
from nervex.entry.sections import CommonConfig, EnvConfig, MainConfig
from nervex.envs.gymnasium_env import GymnasiumEnvConfig
from nervex.model.discrete_net import DiscreteNet
from nervex.policy.config import PolicyConfig
from nervex.policy.dqn import DQNConfig
from nervex.worker.actor.env_manager.env_manager import EnvManager
from nervex.worker.actor.env_manager.subprocess_env_manager import SubprocessEnvManager
from nervex.worker.actor.serial_actor import ActorConfig
from nervex.worker.actor.serial_evaluator import EvaluatorConfig
from nervex.worker.learner.base_learner import LearnerConfig

PAGE = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"
TABLE = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end of table -->)", re.DOTALL)
_MANAGER_OPTIONS = ("step_timeout_s", "reset_timeout_s", "wait_num", "close_timeout_s")


def markdown(rows: Iterable[tuple[str, ...]]) -> str:
    """Returns a table of which the first row is the head."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * lines[0].count(" | ") + "---|", *lines[1:]]) + "\n"


def schema(cls: type, *path: str, without: Iterable[str] = (), empty: tuple[type, ...] = ()) -> str:
    """Returns the options of a schema as a table; those named ``without``, or that ``empty`` holds too, left out."""
    others = [row for other in empty for row in describe(other, path)]
    rows: list[tuple[str, ...]] = [("key", "type", "default", "unit", "meaning")]
    for row in describe(cls, path):
        if row["path"] not in without and row not in others:
            kind = f"{row['type']}, {row['constraint']}" if row["constraint"] else row["type"]
            default = {"": "`''`", "required": "required"}.get(row["default"], f"`{row['default']}`")
            rows.append((f"`{row['path']}`", kind.replace("None", "null"), default, row["unit"], _phrase(row["doc"])))
    return markdown(rows)


def _phrase(text: str) -> str:
    """Takes the full stop and the capital of a sentence away; a name such as CartPole-v1 keeps its capital."""
    lower = text[:1].lower() + text[1:] if text[1:2].islower() or text[1:2] == " " else text
    return lower.rstrip(".")


def arguments(functions: Iterable[Any], names: Iterable[str] | None = None) -> str:
    """Returns keyword arguments as a table: defaults from the signatures, meanings from the docstrings."""
    rows = [("key", "default", "meaning")]
    seen = set()
    for function in functions:
        for name, parameter in inspect.signature(function).parameters.items():
            if name in seen or (names is not None and name not in names):
                continue
            seen.add(name)
            default = parameter.default
            text = "from the env" if default is inspect.Parameter.empty else f"`{_yaml(default)}`"
            rows.append((f"`{name}`", text, _argument_doc(function, name)))
    return markdown(rows)


def _yaml(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _argument_doc(function: Any, name: str) -> str:
    match = re.search(rf"^ +{name}: (.*?)(?=\n +\w+(?:, \w+)*: |\n\n|\Z)", inspect.getdoc(function) or "", re.M | re.S)
    assert match is not None, f"{function} documents no argument {name}"
    text = " ".join(match[1].split()).rstrip(".").replace("``", "`")
    return text


def tables() -> dict[str, str]:
    """Returns the tables of the page by name."""
    sections = [f.name for f in dataclasses.fields(MainConfig) if f.name in ("env", "policy", "command")]
    nested = [row["path"] for row in describe(MainConfig) if "." in row["path"]]
    return {
        "top": schema(MainConfig, without=[*sections, *nested]),
        "common": schema(CommonConfig, "common"),
        "env": schema(EnvConfig, "env"),
        "gymnasium": schema(GymnasiumEnvConfig, "env"),
        "manager": arguments([EnvManager, SubprocessEnvManager], _MANAGER_OPTIONS),
        "policy": schema(PolicyConfig, "policy"),
        "dqn": schema(DQNConfig, "policy", empty=(PolicyConfig,)),
        "model": arguments([DiscreteNet]),
        "replay_buffer": schema(ReplayConfig, "replay_buffer"),
        "actor": schema(ActorConfig, "actor"),
        "evaluator": schema(EvaluatorConfig, "evaluator"),
        "learner": schema(LearnerConfig, "learner"),
    }


def rendered(page: str) -> str:
    """Returns the page with the tables of now."""
    now = tables()
    return TABLE.sub(lambda match: match[1] + now[match[2]] + match[3], page)


def test_the_page_has_every_table() -> None:
    assert [match[2] for match in TABLE.finditer(PAGE.read_text(encoding="utf-8"))] == list(tables())


@pytest.mark.parametrize("name", tables())
def test_table_is_up_to_date(name: str) -> None:
    shown = {match[2]: match[0] for match in TABLE.finditer(PAGE.read_text(encoding="utf-8"))}[name]
    assert rendered(shown) == shown, "run: python tests/docs/test_configuration.py --write"


def test_every_section_is_on_the_page() -> None:
    page = PAGE.read_text(encoding="utf-8")
    missing = [row["path"] for row in describe(MainConfig) if f"`{row['path']}" not in page]
    assert missing == []


if __name__ == "__main__" and "--write" in sys.argv:
    PAGE.write_text(rendered(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
