"""Links, file names and names of code in the documentation lead somewhere."""

import re
from pathlib import Path

import pytest
from code_names import definitions

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "app_zoo").rglob("*.md")),
]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
NAMED = re.compile(r"`((?:nervex|app_zoo|tests|docs|benchmarks)/[\w./-]*)`")
DEFINED = re.compile(r"\[`([\w.]+)`\]\(([^)\s]+\.py)\)")
CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    return CODE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def broken(page: Path) -> list[str]:
    """Returns the relative links of a page that lead nowhere, and the files that it names and that are not there."""
    found = []
    for target in LINK.findall(prose(page)):
        file, _, anchor = target.partition("#")
        if re.match(r"\w+:", target):
            continue
        path = (page.parent / file).resolve() if file else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            found.append(target)
    found += [name for name in NAMED.findall(prose(page)) if not (ROOT / name).exists()]
    return found + [
        f"{file}: {name}" for name, file in DEFINED.findall(prose(page)) if not is_defined(page, file, name)
    ]


def is_defined(page: Path, file: str, name: str) -> bool:
    """Whether a link whose text is a name of code leads to the module that defines it."""
    path = (page.parent / file).resolve()
    return name.endswith(".py") or not path.exists() or name in definitions(path)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    assert broken(page) == []


def test_every_page_is_reached_from_the_readme() -> None:
    reached, new = set(), {ROOT / "README.md"}
    while new:
        reached |= new
        links = {
            (page.parent / target.partition("#")[0]).resolve() for page in new for target in LINK.findall(prose(page))
        }
        new = {page for page in PAGES if page in links} - reached
    assert set(PAGES) - reached == set()


def test_a_broken_link_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    (tmp_path / "code.py").write_text("class A:\n    def run(self): ...", encoding="utf-8")
    links = "[a](#head) [b](#foot) [c](other.md) `nervex/nothing.py` https://x.org [`A.run`](code.py) [`b`](code.py)"
    page.write_text(f"# Head\n{links}", encoding="utf-8")
    assert broken(page) == ["#foot", "other.md", "nervex/nothing.py", "code.py: b"]
