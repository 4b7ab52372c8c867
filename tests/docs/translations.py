"""Which Chinese page is the translation of which English one."""

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
        "quickstart_api.md": _TUTORIAL / "quickstart.md",
        "policy.md": _TUTORIAL / "policy.md",
    }.items()
}
"""Translation -> original. Their code is the same, so that one of the two is run."""
