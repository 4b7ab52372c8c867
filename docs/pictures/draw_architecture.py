"""Draws the floors and the way of the data: ``python docs/pictures/draw_architecture.py`` writes images/floors.svg and
images/data_flow.svg.

The floors are those of ``tests/test_layers.py``, the words in them the first lines of the packages;
``tests/docs/test_site.py`` compares the pictures on the pages with what is drawn now. Boxes carry their own color and
lines a gray that shows on white and on black, so that one picture serves both.
"""

import ast
import runpy
import textwrap
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs" / "images"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
GRAY, INK = "#77818b", "#ffffff"
BLUE, GREEN, VIOLET, BROWN = "#2a6592", "#2c6e49", "#6a4c93", "#8a4b2a"
COLORS = (BLUE, "#33618a", "#3b5d83", VIOLET)
WIDTH, ROW, GAP = 860, 64, 10

Point = tuple[float, float]


def text(
    x: float, y: float, words: str, size: float = 13, fill: str = INK, anchor: str = "middle", bold: bool = False
) -> str:
    weight = ' font-weight="600"' if bold else ""
    place = f'x="{x:g}" y="{y:g}" font-size="{size:g}" text-anchor="{anchor}"'
    return f'<text {place} fill="{fill}"{weight}>{escape(words)}</text>'


def box(x: float, y: float, width: float, height: float, title: str, words: str, fill: str, there: bool = True) -> str:
    """Returns a box with a title over at most two lines of words; dashed and empty for what is not there yet."""
    lines = textwrap.wrap(words, max(int((width - 12) / 5.9), 8))[:3]
    style = f'fill="{fill}"' if there else f'fill="none" stroke="{GRAY}" stroke-dasharray="5 4"'
    ink = INK if there else GRAY
    top = y + height / 2 - 7.5 * len(lines) + 4
    parts = [f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" {style}/>']
    parts.append(text(x + width / 2, top, title, 14, ink, bold=True))
    parts += [text(x + width / 2, top + 16 + 14 * i, line, 11.5, ink) for i, line in enumerate(lines)]
    return "\n".join(parts)


def arrow(
    *points: Point, label: str = "", at: Point | None = None, anchor: str = "middle", dashed: bool = False
) -> str:
    """Returns a line through points with a head at its end, and words at a place."""
    path = " ".join(f"{x:g},{y:g}" for x, y in points)
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    line = f'<polyline points="{path}" fill="none" stroke="{GRAY}" stroke-width="1.8"{dash} marker-end="url(#head)"/>'
    return line + ("\n" + text(*at, label, 12, GRAY, anchor) if at else "")


def svg(width: float, height: float, title: str, parts: list[str]) -> str:
    head = (
        '<marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0L10 5L0 10z" fill="{GRAY}"/></marker>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img" font-family="{FONT}">\n<title>{escape(title)}</title>\n'
        f"<defs>{head}</defs>\n" + "\n".join(parts) + "\n</svg>\n"
    )


def first_line(package: str) -> str:
    """Returns what a package says of itself; nothing where there is none yet."""
    path = ROOT / "nervex" / package / "__init__.py"
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) if path.exists() else None
    return (doc or "not there yet").partition("\n\n")[0].partition("; ")[0].replace("\n", " ").rstrip(".")


def floors() -> str:
    """Returns the picture of who may import whom: highest floor first."""
    rows = [sorted(floor) for floor in runpy.run_path(str(ROOT / "tests" / "test_layers.py"))["FLOORS"]][::-1]
    half = (WIDTH - 50 - GAP) / 2
    parts = [
        box(50, 0, half, ROW, "cli", "the command line", BROWN),
        box(50 + half + GAP, 0, half, ROW, "app_zoo", "envs and recipes of applications; imports anything", BROWN),
    ]
    for i, row in enumerate(rows, start=1):
        width = (WIDTH - 50 - GAP * (len(row) - 1)) / len(row)
        for k, package in enumerate(row):
            there = (ROOT / "nervex" / package / "__init__.py").exists()
            x = 50 + k * (width + GAP)
            parts.append(box(x, i * (ROW + GAP), width, ROW, package, first_line(package), COLORS[i % 2], there))
    bottom = (len(rows) + 1) * (ROW + GAP) - GAP
    parts.append(arrow((18, 4), (18, bottom - 4)))
    parts.append(
        f'<g transform="rotate(-90 36 {bottom / 2:g})">{text(36, bottom / 2, "imports only from below", 12, GRAY)}</g>'
    )
    return svg(
        WIDTH,
        bottom,
        "The floors of nerveX, the highest first: a package imports only from floors below its own",
        parts,
    )


def data_flow() -> str:
    """Returns the picture of a serial run: from envs to weights and back."""
    high = 62
    parts = [
        box(10, 60, 170, high, "env manager", "1 or many processes: a block [B, ...]", GREEN),
        box(280, 60, 170, high, "actor", "one forward for all lanes that are ready", BLUE),
        box(560, 60, 170, high, "rollout", "rows [T, B, ...], written once", BROWN),
        box(560, 200, 170, high, "replay", "rows of each lane; samplers and windows", BROWN),
        box(560, 340, 170, high, "learner", "loss, gradients, hooks", BLUE),
        box(280, 340, 170, high, "policy", "learn, collect, eval and command modes", VIOLET),
        box(10, 340, 170, high, "evaluator", "fixed episodes, all of them counted", BLUE),
        box(330, 200, 120, high, "command", "settings such as eps", BLUE),
        box(280, 470, 450, 50, "run folder", "metrics, TensorBoard, checkpoints, curve, result", GREEN),
        arrow((180, 78), (280, 78), label="observations", at=(230, 70)),
        arrow((280, 106), (180, 106), label="actions", at=(230, 122)),
        arrow((450, 91), (560, 91), label="rows", at=(505, 83)),
        arrow((645, 122), (645, 200), label="off-policy: one slice a column", at=(653, 165), anchor="start"),
        arrow((645, 262), (645, 340), label="batch [B, ...]", at=(653, 305), anchor="start"),
        arrow((590, 340), (590, 262), label="priorities", at=(582, 305), anchor="end", dashed=True),
        arrow((730, 91), (846, 91), (846, 371), (730, 371), label="on-policy", at=(738, 83), anchor="start"),
        text(838, 235, "minibatches", 12, GRAY, "end"),
        arrow((560, 371), (450, 371), label="weights", at=(505, 363)),
        arrow((390, 340), (390, 262)),
        arrow((390, 200), (390, 122)),
        arrow((305, 340), (305, 122), label="acts", at=(297, 235), anchor="end"),
        arrow((280, 385), (180, 385), label="weights", at=(230, 401)),
        arrow((95, 402), (95, 495), (280, 495), label="solved?", at=(103, 450), anchor="start"),
        arrow((645, 402), (645, 470)),
        arrow((95, 340), (95, 122), label="envs of its own", at=(103, 235), anchor="start", dashed=True),
    ]  # fmt: skip
    return svg(
        WIDTH,
        530,
        "The way of the data in a serial run",
        [f'<g transform="translate(0 -50)">{chr(10).join(parts)}</g>'],
    )


PICTURES = {"floors.svg": floors, "data_flow.svg": data_flow}

if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    for name, draw in PICTURES.items():
        (IMAGES / name).write_text(draw(), encoding="utf-8")
