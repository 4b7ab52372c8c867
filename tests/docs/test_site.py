"""The site of the documentation: it is built without a warning, everything in it is reached, and no link is dead.

The site is built once, whatever process runs this file, so that all that is looked at in it is one test.
"""

import importlib
import pkgutil
import re
import runpy
import subprocess
import sys
import tomllib
from functools import cache
from html import unescape
from pathlib import Path
from urllib.parse import unquote

import pytest

import nervex

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "docs" / "pictures" / "draw_architecture.py"
LINK = re.compile(r"<(?:a|img|script|link|source)\b[^>]*?\b(?:href|src)=\"([^\"]+)\"")
ANCHOR = re.compile(r"\b(?:id|name)=\"([^\"]+)\"")
FRONT = "docs/index.html"


def build(source: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """Runs Sphinx as ``make docs`` does; what it prints is warnings."""
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-j", "auto", "-c", str(source / "docs")]
    return subprocess.run(
        [*command, "-d", str(out / "doctrees"), str(source), str(out / "html")],
        capture_output=True, text=True, timeout=900, cwd=source,
    )  # fmt: skip


@cache
def anchors(page: Path) -> set[str]:
    return set(ANCHOR.findall(page.read_text(encoding="utf-8")))


def links(page: Path) -> set[tuple[Path, str]]:
    """Returns the files that a page leads to, with the anchors there; links out of the site are left out."""
    found = set()
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        target, _, anchor = unquote(unescape(link)).partition("#")
        if not re.match(r"\w+:|//", target):
            found.add(((page.parent / target.partition("?")[0]).resolve() if target else page, anchor))
    return found


def pages(site: Path) -> list[Path]:
    """Returns the pages of the site without those of source files, which lead nowhere."""
    return [page for page in sorted(site.resolve().rglob("*.html")) if "source" not in page.relative_to(site).parts]


def dead_links(site: Path) -> list[str]:
    return [
        f"{page.relative_to(site)} -> {target}#{anchor}"
        for page in pages(site)
        for target, anchor in sorted(links(page))
        if not target.exists() or (anchor and target.suffix == ".html" and anchor not in anchors(target))
    ]


def unreached(site: Path) -> list[str]:
    """Returns the pages to which no way leads from the front page."""
    known, reached, new = set(pages(site)), set(), {site.resolve() / FRONT}
    while new:
        reached |= new
        new = {target for page in new for target, _ in links(page) if target in known} - reached
    own = {site.resolve() / name for name in ("index.html", "search.html")}  # of Sphinx; the first leads to the front
    return [str(page.relative_to(site)) for page in sorted(known - reached - own)]


def public_names() -> list[tuple[str, str]]:
    """Returns (package, name) of everything that the packages export."""
    packages = ["nervex", *(m.name for m in pkgutil.walk_packages(nervex.__path__, "nervex.") if m.ispkg)]
    modules = [module for module in map(importlib.import_module, packages) if hasattr(module, "__getattr__")]
    return [(module.__name__, name) for module in modules for name in dir(module)]


def untold(site: Path) -> list[str]:
    """Returns the public names that are neither on the page of their package nor referred to from there."""
    found = []
    for package, name in public_names():
        page = site / "docs" / "api" / f"{package}.html"
        text = page.read_text(encoding="utf-8") if page.exists() else ""
        if f'id="{package}.{name}"' not in text and f'<span class="pre">{name}</span></code>: see' not in text:
            found.append(f"{package}.{name}")
    return found


def test_the_site_is_built_and_whole(tmp_path: Path) -> None:
    result = build(ROOT, tmp_path)
    assert (result.returncode, result.stderr + result.stdout) == (0, "")
    site = tmp_path / "html"
    assert len(pages(site)) > 50
    assert dead_links(site) == []
    assert unreached(site) == []
    assert len(public_names()) > 200
    assert untold(site) == []


def small_site(folder: Path, front: str) -> Path:
    (folder / "docs").mkdir(parents=True)
    (folder / "docs" / "other.html").write_text('<h1 id="top">Other</h1>', encoding="utf-8")
    (folder / FRONT).write_text(front, encoding="utf-8")
    return folder


def test_dead_links_and_lost_pages_are_noticed(tmp_path: Path) -> None:
    good = small_site(tmp_path / "good", '<p id="a"><a class="x" href="other.html#top">o</a> <a href="#a">a</a>')
    assert (dead_links(good), unreached(good)) == ([], [])
    bad = small_site(tmp_path / "bad", '<a href="othr.html">o</a> <a href="other.html#tip">t</a> <a href="#b">b</a>')
    assert len(dead_links(bad)) == 3
    lost = small_site(tmp_path / "lost", '<a href="https://x.org/other.html">o</a>')
    assert (dead_links(lost), unreached(lost)) == ([], ["docs/other.html"])
    assert len(untold(lost)) == len(public_names())


@pytest.mark.parametrize("name", ["floors.svg", "data_flow.svg"])
def test_pictures_show_the_floors_of_now(name: str) -> None:
    drawn = runpy.run_path(str(PICTURES))["PICTURES"][name]()
    shown = (ROOT / "docs" / "images" / name).read_text(encoding="utf-8")
    assert shown == drawn, f"run: python {PICTURES.relative_to(ROOT)}"


def test_every_extra_is_explained() -> None:
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert [name for name in project["optional-dependencies"] if f"| `{name}` |" not in page] == []
