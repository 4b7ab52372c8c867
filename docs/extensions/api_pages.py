"""The API reference: a page for each package with everything that it exports, written anew by every build.

A name that several packages export is documented where the path to it is shortest; the others refer to it.
"""

import importlib
import inspect
import pkgutil
import re
from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from docutils import nodes
from source_pages import source_uri
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

import nervex

FOLDER = Path("docs") / "api"
LITERAL = re.compile(r"(``.+?``|:\w+:`[^`]+`|(?<![\w*])\*(?=[^\s*])[^*]*[^\s*]\*(?![\w*]))")
LETTER = re.compile(r"^(\s+\w+: \w)\.(?=$| )")  # an argument that is a letter of an equation, and no item of a list
MANY = 12  # names of a package from which on they are told module by module


@cache
def exports(package: ModuleType) -> Mapping[str, str]:
    """Returns public name -> module of what a package resolves lazily."""
    table: Mapping[str, str] = inspect.getclosurevars(package.__getattr__).nonlocals["table"]
    return {name: _defined_in(name, origin) for name, origin in table.items()}


def _defined_in(name: str, origin: str) -> str:
    """Returns the module behind ``origin``, which may be a package that resolves the name itself."""
    module = importlib.import_module(origin)
    return exports(module).get(name, origin) if hasattr(module, "__getattr__") else origin


@cache
def packages() -> dict[str, ModuleType]:
    """Returns the packages that export something, by name."""
    names = ["nervex", *(m.name for m in pkgutil.walk_packages(nervex.__path__, "nervex.") if m.ispkg)]
    modules = {name: importlib.import_module(name) for name in names}
    return {name: module for name, module in sorted(modules.items()) if hasattr(module, "__getattr__")}


@cache
def homes() -> dict[tuple[str, str], str]:
    """Returns (module, name) -> package in which it is documented."""
    found: dict[tuple[str, str], str] = {}
    for package in sorted(packages(), key=lambda name: name.count(".")):
        for name, module in exports(packages()[package]).items():
            found.setdefault((module, name), package)
    return found


def page(package: str) -> str:
    """Returns the page of a package."""
    module = packages()[package]
    by_module: dict[str, list[str]] = defaultdict(list)
    elsewhere, below = [], []
    for name, origin in exports(module).items():
        if inspect.ismodule(getattr(module, name)):
            below.append(name)
        elif homes()[origin, name] == package:
            by_module[origin].append(name)
        else:
            elsewhere.append((name, homes()[origin, name]))
    lines = [f"``{package}``", "=" * (len(package) + 4), "", inspect.getdoc(module) or "", ""]
    lines += [f".. py:module:: {package}", ""]
    in_sections = sum(map(len, by_module.values())) >= MANY
    for origin, names in by_module.items():
        if in_sections:
            lines += _heading(origin)
        for name in names:
            lines += _entry(getattr(module, name), name)
    if elsewhere or below:
        lines += ["Also here", "---------", ""]
        lines += [f"- ``{name}``: see :py:obj:`{home}.{name}`" for name, home in elsewhere]
        lines += [f"- ``{name}``: see :py:mod:`{package}.{name}`" for name in below]
    return "\n".join(lines) + "\n"


def _heading(origin: str) -> list[str]:
    title = f"``{origin.rpartition('.')[2]}``"
    doc = inspect.getdoc(importlib.import_module(origin)) or ""
    return [title, "-" * len(title), "", doc.partition("\n\n")[0], ""]


def _entry(found: Any, name: str) -> list[str]:
    if inspect.isclass(found):
        is_record = issubclass(found, tuple)  # its fields are told by its docstring
        return [f".. autoclass:: {name}", "   :show-inheritance:", *([] if is_record else ["   :members:"]), ""]
    if inspect.isroutine(found):
        return [f".. autofunction:: {name}", ""]
    return [f".. autodata:: {name}", "   :no-value:", ""]


def write_pages(app: Sphinx) -> None:
    """Writes the pages whose text has changed, and removes those of packages that are no more."""
    folder = Path(app.srcdir) / FOLDER
    folder.mkdir(exist_ok=True)
    names = list(packages())
    texts = {f"{name}.rst": page(name) for name in names}
    entries = "\n".join(f"   {name}" for name in names)
    texts["index.rst"] = (
        "API reference\n=============\n\nWhat the packages export; ``from nervex.policy import DQNPolicy`` is how it is"
        f" imported.\n\n.. toctree::\n   :maxdepth: 1\n\n{entries}\n"
    )
    for path in folder.iterdir():
        if path.name not in texts:
            path.unlink()
    for file, text in texts.items():
        path = folder / file
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def add_source_links(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Puts a link to the defining line behind every signature."""
    for signature in doctree.findall(addnodes.desc_signature):
        origin = _origin(signature.get("module", ""), signature.get("fullname", ""))
        if origin is not None:
            uri = source_uri(app, docname, *origin)
            inner = nodes.inline("", "[source]", classes=["source-link"])
            signature.append(nodes.reference("", "", inner, internal=True, refuri=uri))


def _origin(package: str, full_name: str) -> tuple[Path, str] | None:
    """Returns the file and the name in it of what a page documents as ``package.full_name``."""
    if package not in packages():
        return None
    public, _, rest = full_name.partition(".")
    origin = exports(packages()[package]).get(public)
    if origin is None:
        return None
    found = getattr(packages()[package], public)
    own = found.__name__ if inspect.isclass(found) else public  # an alias leads to what it stands for
    file = inspect.getsourcefile(importlib.import_module(origin))
    return (Path(file), f"{own}.{rest}" if rest else own) if file else None


def resolve(app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, content: nodes.Node) -> nodes.Node | None:
    """Returns a link to the source of what no page documents, such as a type in a signature."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or not target.startswith("nervex."):
        return None
    module, _, name = target.rpartition(".")
    candidates = [Path(app.srcdir, f"{dotted.replace('.', '/')}.py") for dotted in (module, target)]
    path = next((p for p in candidates if p.is_file()), None)
    if path is None:
        return None
    link = nodes.reference("", "", internal=True, refuri=source_uri(app, node["refdoc"], path, name))
    link += content
    return link


def as_restructured_text(app: Sphinx, what: str, name: str, found: Any, options: Any, lines: list[str]) -> None:
    """Makes of a docstring what Napoleon and docutils understand as it was meant.

    Equations stand as they are, a bar or a star in a sentence is one, and what is before the first colon of an
    attribute's docstring is no type.
    """
    if what in ("attribute", "data") and lines:
        before, colon, after = lines[0].partition(": ")
        lines[:1] = [before + colon.rstrip(), after] if colon else [before]
    result: list[str] = []
    equation = False
    for i, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        before = lines[i - 1] if i else ""
        if line.strip() and not before.strip():
            last = next((x for x in reversed(lines[:i]) if x.strip()), "")
            if not equation or not indent:
                starts = bool(result) and indent > len(last) - len(last.lstrip()) and not last.endswith("::")
                equation = starts or (equation and indent > 0)
                result += ["::", ""] if starts else []
        elif line.strip() and not indent:
            equation = False
        result.append(line if equation else _escaped(line))
    lines[:] = result


def is_left_out(app: Sphinx, what: str, name: str, found: Any, skip: bool, options: Any) -> bool | None:
    """Whether a member is told elsewhere: the fields of a named tuple, in its docstring; None leaves it to autodoc."""
    return True if (getattr(found, "__doc__", None) or "").startswith("Alias for field number") else None


def _escaped(line: str) -> str:
    line = LETTER.sub(r"\1\\.", line)
    parts = LITERAL.split(line)
    return "".join(part if i % 2 else re.sub(r"[|*]", r"\\\g<0>", part) for i, part in enumerate(parts))


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-process-docstring", as_restructured_text, priority=400)  # before Napoleon
    app.connect("autodoc-skip-member", is_left_out)
    app.connect("doctree-resolved", add_source_links)
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
