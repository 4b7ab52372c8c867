"""What the doctor of envs says: findings, one line each, and the list that keeps one of a kind."""

from dataclasses import dataclass

ERROR, WARNING, NOTE = "error", "warning", "note"
_ORDER = {ERROR: 0, WARNING: 1, NOTE: 2}


@dataclass(frozen=True)
class Finding:
    """One thing that the doctor saw.

    Attributes:
        level: ``'error'`` (learning will be wrong or fail), ``'warning'`` (probably wrong) or ``'note'``.
        kind: what sort of finding it is, such as ``'obs-bounds'``; the same for every env.
        what: what was seen, with numbers.
        fix: what to do about it.
    """

    level: str
    kind: str
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.level:<7} {self.what}; {self.fix} [{self.kind}]"


class Findings:
    """The findings of one examination: the first of each kind, since the later ones say the same of other steps."""

    def __init__(self) -> None:
        self._found: dict[str, Finding] = {}

    def add(self, level: str, kind: str, what: str, fix: str) -> None:
        """Adds a finding, unless there is one of this kind."""
        self._found.setdefault(kind, Finding(level, kind, " ".join(what.split()), " ".join(fix.split())))

    def __contains__(self, kind: str) -> bool:
        return kind in self._found

    def sorted(self) -> list[Finding]:
        """Returns errors, then warnings, then notes, each in the order in which they were found."""
        return sorted(self._found.values(), key=lambda finding: _ORDER[finding.level])


class Broken(Exception):
    """The env cannot be played any further; the finding that says why has been added."""
