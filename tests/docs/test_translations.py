"""The Chinese pages have the code of the English ones, which is run; their tables have its numbers."""

import re
from pathlib import Path

import pytest
from translations import EXECUTED, ROOT, TRANSLATIONS

FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def code(page: Path) -> list[tuple[str, str]]:
    """Returns the blocks of a page that are run, as (language, text)."""
    return [match for match in FENCE.findall(page.read_text(encoding="utf-8")) if match[0] in EXECUTED]


@pytest.mark.parametrize("page", TRANSLATIONS, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_translation_has_the_code_of_its_original(page: Path) -> None:
    assert code(page) == code(TRANSLATIONS[page])
    assert code(page) != []


@pytest.mark.parametrize("page", TRANSLATIONS, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_translation_has_the_sections_of_its_original(page: Path) -> None:
    levels = [
        [len(mark) for mark in re.findall(r"^(#+) ", FENCE.sub("", p.read_text(encoding="utf-8")), re.MULTILINE)]
        for p in (page, TRANSLATIONS[page])
    ]
    assert levels[0] == levels[1]


@pytest.mark.parametrize("page", TRANSLATIONS, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_and_its_translation_lead_to_each_other(page: Path) -> None:
    for here, there in ((page, TRANSLATIONS[page]), (TRANSLATIONS[page], page)):
        links = re.findall(r"^\[[^\]]*\]\(([^)]+)\)$", here.read_text(encoding="utf-8"), re.MULTILINE)
        assert there in [(here.parent / link).resolve() for link in links]


def test_every_chinese_page_is_run_or_a_translation() -> None:
    own = {ROOT / "docs" / "zh" / name for name in ("install.md", "five_minutes.md")}
    assert set((ROOT / "docs" / "zh").glob("*.md")) == own | {p for p in TRANSLATIONS if p.parent.name == "zh"}
