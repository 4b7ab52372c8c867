"""The pages of the policies say what their code does: functions, quoted lines, metrics."""

import copy
import re
from typing import Any

import pytest
from code_names import definitions
from page_tables import POLICIES, ROOT
from policy.policy_cases import CASES, collected, recorded

from nervex.config.source import ConfigSource
from nervex.entry.compile_config import compile_config

FOLDER = ROOT / "docs" / "policies"
EQUATION = re.compile(
    r"^\| (?P<equation>.+?) \| \[`(?P<name>[\w.]+)`\]\((?P<file>\S+\.py)\) \| (?P<lines>.+) \|$", re.M
)
METRIC = re.compile(r"^\| `(\w+)` \| ", re.M)
HEADS = ["Papers", "Equations", "Run it", "Configuration", "Metrics", "Recipes and results"]
SWITCHES = {"impala": {"upgo": True}, "ppo": {"target_kl": 1e-9}}  # that report metrics of their own


def text_of(name: str) -> str:
    return (FOLDER / f"{name}.md").read_text(encoding="utf-8")


def section(page: str, head: str) -> str:
    return page.partition(f"\n## {head}\n")[2].partition("\n## ")[0]


def squeezed(code: str) -> str:
    """Code without what a formatter may change."""
    return re.sub(r"\s", "", code).replace(",)", ")")


def wrong_quotes(page: str) -> list[str]:
    """Returns what the equations' tables quote and the code does not hold."""
    wrong = []
    for row in EQUATION.finditer(page):
        path = (FOLDER / row["file"]).resolve()
        source = definitions(path).get(row["name"]) if path.exists() else None
        if source is None:
            wrong.append(f"{row['file']}: {row['name']}")
            continue
        wrong += [line for line in re.findall(r"`([^`]+)`", row["lines"]) if squeezed(line) not in squeezed(source)]
    return wrong


@pytest.mark.parametrize("name", POLICIES)
def test_equations_stand_beside_the_lines_that_compute_them(name: str) -> None:
    equations = section(text_of(name), "Equations")
    rows = [line for line in equations.splitlines() if line.startswith("| ")][1:]
    assert len(list(EQUATION.finditer(equations))) == len(rows) >= 5
    assert wrong_quotes(equations) == []


@pytest.mark.parametrize("name", POLICIES)
def test_pages_have_one_layout(name: str) -> None:
    page = text_of(name)
    assert re.findall(r"^## (.+)$", page, re.M) == HEADS
    assert f"(`policy_type: {name}`)" in page.splitlines()[0]
    assert re.search(r"^nervex train \w+", section(page, "Run it"), re.M)
    assert "https://" in section(page, "Papers")


def reported(case: str) -> set[str]:
    """Returns the metrics that a learner has of a few updates of a case."""
    config: dict[str, Any] = copy.deepcopy(CASES[case])
    name = config["policy"]["policy_type"]
    config["policy"]["learn"]["algo"] = {**config["policy"]["learn"].get("algo", {}), **SWITCHES.get(name, {})}
    config["max_train_iter"] = 1000
    if "dataset" in config:
        config["dataset"]["path"] = recorded(config["env"]["env_id"])
    parts, batches = collected(compile_config(ConfigSource.from_dict(config)), 2)
    for batch in batches * 2:
        parts.learner.train(batch)
    return set(parts.learner.take_averages())


@pytest.mark.parametrize("name", POLICIES)
def test_the_glossary_holds_the_metrics_that_a_run_reports(name: str) -> None:
    rows = METRIC.findall(section(text_of(name), "Metrics"))
    assert len(rows) == len(set(rows))
    assert set(rows) == reported(name)


def test_wrong_names_and_lines_are_noticed() -> None:
    good = "| `x` | [`gae`](../../nervex/rl_utils/advantage.py) | `error = ends.td_error(value, reward,  gamma)` |"
    assert wrong_quotes(good) == []
    assert wrong_quotes(good.replace("`gae`", "`gea`")) == ["../../nervex/rl_utils/advantage.py: gea"]
    assert wrong_quotes(good.replace("error = ", "fault = ")) == ["fault = ends.td_error(value, reward,  gamma)"]
