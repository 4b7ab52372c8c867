"""Files of the repository as pages of the site, and the links that lead to them.

A link to a file that is no page (``../nervex/policy/dqn.py``) leads to the file with its lines numbered; one whose text
names code (`` [`DQNPolicy._update`](...) ``) leads to the line that defines it. A link to a folder leads to its page.
"""

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import JsonLexer, PythonLexer, TextLexer, TOMLLexer, YamlLexer
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

FOLDER_PAGES = ("README.md", "table.md")
FRONT_PAGES = {"README.md": "docs/index.md", "README.zh.md": "docs/zh/README.md"}  # of the repository: of the site
LANGUAGES = {".py": PythonLexer, ".yaml": YamlLexer, ".json": JsonLexer, ".toml": TOMLLexer}
PICTURES = {".png", ".svg"}
LINK = re.compile(r"\[[^\]]*\]\(([^)\s#]+)[^)]*\)")
CODE = ("nervex",)  # packages of which every file has a page
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name} - nerveX</title>
<link rel="stylesheet" href="{up}_static/pygments.css"><link rel="stylesheet" href="{up}_static/site.css">
</head>
<body class="source-page" data-theme="auto">
<p><a href="{up}docs/index.html">nerveX</a> / {name}</p>
{block}
</body>
</html>
"""


@cache
def definitions(path: Path) -> dict[str, int]:
    """Returns name -> line of the functions, classes and methods (``Class.method``) of a module."""
    found = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node.lineno
            if isinstance(node, ast.ClassDef):
                found |= {f"{node.name}.{p.name}": p.lineno for p in node.body if isinstance(p, ast.FunctionDef)}
    return found


def source_uri(app: Sphinx, docname: str, path: Path, name: str = "") -> str:
    """Returns the relative address of a file's page, at the definition of ``name`` if the file has it."""
    line = definitions(path).get(name) if path.suffix == ".py" else None
    page = app.builder.get_relative_uri(docname, _page_name(Path(app.srcdir), path))
    return f"{page}#L-{line}" if line else page


def _page_name(root: Path, path: Path) -> str:
    return f"source/{path.relative_to(root).as_posix()}"


def find_files(app: Sphinx, doctree: nodes.document) -> None:
    """Marks the links to files and folders, before the files are taken for downloads."""
    docname = app.env.current_document.docname
    for node in [*doctree.findall(addnodes.download_reference), *doctree.findall(addnodes.pending_xref)]:
        target = node.get("reftarget") or ""
        if node.get("reftype") != "myst" or not target or target.startswith("#"):
            continue
        is_page = node.get("refdomain") == "doc"  # the target is then the name of a page
        path = Path(app.srcdir, f"{target}.md") if is_page else Path(app.env.relfn2path(target, docname)[1])
        if is_page and target not in app.env.found_docs:
            node.attributes.update(refdomain="", reftype="source", reftarget=str(path))
        if isinstance(node, addnodes.download_reference) and path.is_file() and path.suffix not in PICTURES:
            mark = {"refdomain": "", "reftype": "source", "reftarget": str(path), "refdoc": docname}
            node.replace_self(addnodes.pending_xref("", *node.children, **mark))
        elif path.is_dir() and not is_page:
            node.attributes.update(refdomain="", reftype="source", reftarget=str(path))


def resolve(app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, content: nodes.Node) -> nodes.Node | None:
    """Returns the link that a mark of ``find_files`` stands for; None (a warning) where nothing is there."""
    if node.get("reftype") != "source":
        return None
    path, docname, root = Path(node["reftarget"]), node["refdoc"], Path(app.srcdir)
    inside = [path / name for name in FOLDER_PAGES] if path.is_dir() else []
    front = FRONT_PAGES.get(path.relative_to(root).as_posix())
    pages = [env.path2doc(str(page)) for page in [*inside, *([root / front] if front else [])]]
    found = next((page for page in pages if page in env.found_docs), None)
    if found:
        return make_refnode(app.builder, docname, found, None, content)
    if path.is_dir():
        return None
    link = nodes.reference("", "", internal=True, refuri=source_uri(app, docname, path, node.astext()))
    link += content
    return link


def linked_files(app: Sphinx) -> set[Path]:
    """Returns the files that pages link to and that are no pages themselves."""
    pages = {Path(app.env.doc2path(name)) for name in app.env.found_docs}
    found = {
        (page.parent / target).resolve()
        for page in pages
        if page.suffix == ".md"
        for target in LINK.findall(page.read_text(encoding="utf-8"))
        if ":" not in target
    }
    return {path for path in found - pages if path.is_file() and path.suffix not in PICTURES}


def write_pages(app: Sphinx, exception: Exception | None) -> None:
    """Writes the page of each file, by itself and not by the theme: they are many, and nothing is around the code."""
    if exception is not None or app.builder.format != "html":
        return
    root = Path(app.srcdir)
    code = {path for package in CODE for path in (root / package).rglob("*.py")}
    formatter = HtmlFormatter(linenos="inline", lineanchors="L", anchorlinenos=True, wrapcode=True)
    for path in sorted(linked_files(app) | code):
        name = path.relative_to(root).as_posix()
        block = highlight(path.read_text(encoding="utf-8"), LANGUAGES.get(path.suffix, TextLexer)(), formatter)
        page = Path(app.outdir, f"{_page_name(root, path)}.html")
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(PAGE.format(name=name, block=block, up="../" * (name.count("/") + 1)), encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("doctree-read", find_files, priority=100)
    app.connect("missing-reference", resolve)
    app.connect("build-finished", write_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
