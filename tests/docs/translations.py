"""Which Chinese page is the translation of which English one, and the table of results of the Chinese README."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXECUTED = ("python", "bash", "yaml")
"""Languages of the blocks that are run."""

_TUTORIAL = ROOT / "docs" / "tutorial"
TRANSLATIONS = {
    ROOT / "docs" / "zh" / name: original
    for name, original in {
        "README.md": _TUTORIAL / "README.md",
        "serial.md": _TUTORIAL / "serial.md",
        "quickstart.md": _TUTORIAL / "quickstart.md",
        "policy.md": _TUTORIAL / "policy.md",
    }.items()
}
"""Translation -> original. Their code is the same, so that one of the two is run."""

_RESULTS = ROOT / "benchmarks" / "README.md"
_HEAD = (
    "配置",
    "实现",
    "种子数",
    "最终回报 IQM [95%]",
    "解决",
    "解决时的环境步数（中位数）",
    "总环境步数",
    "用时（秒）",
)


def chinese_results() -> list[tuple[str, ...]]:
    """Returns the rows of the results of benchmarks/README.md, of which most columns are shown."""
    section = _RESULTS.read_text(encoding="utf-8").partition("<!-- ledger:start -->\n")[2].partition("\n\n")[0]
    rows: list[tuple[str, ...]] = [_HEAD]
    for line in section.splitlines()[2:]:
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        name, who, seeds, final, _, solved, steps, wall = cells[:8]
        share, _, at = solved.partition(", median at ")
        rows.append(
            (name.replace("](", "](benchmarks/"), who, seeds, final, share.replace(" of ", "/"), at, steps, wall)
        )
    return rows
