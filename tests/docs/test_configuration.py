"""The tables of the documentation are those of the code.

Run as a script with ``--write`` (python tests/docs/test_configuration.py --write) to bring the pages up to date.
"""

import sys
from pathlib import Path

import page_tables as module
import pytest
from page_tables import APPS, LEDGER, POLICIES, ROOT, TABLE, Maker, page_tables, rendered

from nervex.config import describe
from nervex.entry.ledger import Point, Record, write_record
from nervex.entry.sections import MainConfig
from nervex.policy.base_policy import POLICY_REGISTRY

TABLES = page_tables()
CASES = [(page, name) for page, makers in TABLES.items() for name in makers]


@pytest.mark.parametrize("page", TABLES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_page_has_every_table(page: Path) -> None:
    assert [match[2] for match in TABLE.finditer(page.read_text(encoding="utf-8"))] == list(TABLES[page])


@pytest.mark.parametrize(("page", "name"), CASES, ids=[f"{page.parent.name}-{page.stem}-{n}" for page, n in CASES])
def test_table_is_up_to_date(page: Path, name: str) -> None:
    shown = {match[2]: match[0] for match in TABLE.finditer(page.read_text(encoding="utf-8"))}[name]
    assert rendered(shown, TABLES[page]) == shown, "run: python tests/docs/test_configuration.py --write"


def test_every_section_is_on_the_page() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    missing = [row["path"] for row in describe(MainConfig) if f"`{row['path']}" not in page]
    assert missing == []


def test_every_built_in_policy_and_every_app_has_a_page() -> None:
    assert sorted(POLICIES) == sorted(n for n in POLICY_REGISTRY.names() if n in POLICY_REGISTRY._builtin)
    apps = [path.name for path in (ROOT / "app_zoo").iterdir() if path.is_dir() and list(path.rglob("*.py"))]
    assert sorted(APPS) == sorted(apps)


def record(seed: int, mean: float, solved: int | None = None) -> Record:
    machine = {"cpu": "A processor", "cores": 2, "accelerator": None}
    return Record(
        name="task", seed=seed, env="Task-v0", curve=(), final=Point(1000, mean, 100), env_step=1000, wall_s=7.0,
        cpu_s=6.0, bar=10.0, solved_env_step=solved, sessions=({"machine": machine},),
    )  # fmt: skip


def test_results_that_came_later_do_not_count_until_the_page_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEDGER", tmp_path)
    assert tmp_path != LEDGER
    makers: dict[str, Maker] = {"measured": lambda shown: module._measured_table(["task", "other"], shown)}
    page = "<!-- table: measured -->\n<!-- end of table -->"
    empty = rendered(page, makers, fresh=True)
    assert "| task | none yet |" in empty
    for seed, mean in ((0, 12.0), (1, 8.0)):
        write_record(tmp_path / "task" / f"seed_{seed}.json", record(seed, mean, 500 if mean > 10 else None))
    assert rendered(empty, makers) == empty
    full = rendered(empty, makers, fresh=True)
    assert "](../../benchmarks/ledger/task/) | 0, 1 | 10.0 | 10.0 | 1 of 2 | 500 | 7 | 2 cores, A processor |" in full
    write_record(tmp_path / "task" / "seed_2.json", record(2, 20.0))
    assert rendered(full, makers) == full
    write_record(tmp_path / "task" / "seed_0.json", record(0, 13.0, 500))  # a figure on the page has changed
    assert rendered(full, makers) != full


if __name__ == "__main__" and "--write" in sys.argv:
    for path, makers_of_page in TABLES.items():
        path.write_text(rendered(path.read_text(encoding="utf-8"), makers_of_page, fresh=True), encoding="utf-8")
