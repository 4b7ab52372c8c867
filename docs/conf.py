"""How Sphinx makes the site: ``make docs``.

The source folder is the whole repository (``sphinx-build -c docs . docs/_build/html``), so that the pages beside the
code (``app_zoo``, ``benchmarks``, CONTRIBUTING) are pages of the site as they stand, and a relative link means the same
on the site and wherever the repository is browsed.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "extensions")]

from docutils import nodes  # noqa: E402
from sphinx.application import Sphinx  # noqa: E402

import nervex  # noqa: E402  (found by the line above)

project = "nerveX"
author = "the nerveX authors"
release = nervex.__version__
root_doc = "docs/index"
include_patterns = [
    "docs/**", "app_zoo/*/README.md", "benchmarks/README.md", "benchmarks/ledger/*/table.md",
    "CONTRIBUTING.md", "CHANGELOG.md",
]  # fmt: skip
# folders that hold no page are named so that they are not walked through
exclude_patterns = [".*", "docs/_build", "nervex", "tests", "runs", "build", "dist", "*.egg-info", "**/__pycache__"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "source_pages", "api_pages"]

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 6
highlight_language = "text"
default_role = "code"

nitpicky = True
# types of other libraries have pages elsewhere, and the site needs no network to be built
nitpick_ignore_regex = [(r"py:.*", r"(?!nervex\b).*")]
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = "nerveX"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_extra_path = ["_root"]
html_copy_source = False
html_domain_indices = False
html_show_sphinx = False
html_show_copyright = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b5c99", "color-brand-content": "#0b6fb8"},
    "dark_css_variables": {"color-brand-primary": "#58b2f0", "color-brand-content": "#6cbcf5"},
}


def shorten_title(app: Sphinx, doctree: nodes.document) -> None:
    """Leaves ``(policy_type: dqn)`` out of a page's name in the menu."""
    name = app.env.current_document.docname
    title = app.env.titles[name].astext()
    if name.startswith("docs/policies/") and title.endswith(")"):
        short = title.partition(" (")[0]
        app.env.titles[name] = nodes.title("", short)
        next(app.env.tocs[name].findall(nodes.reference)).children = [nodes.Text(short)]


def setup(app: Sphinx) -> None:
    app.connect("doctree-read", shorten_title, priority=900)
