"""The jobs of ``jobs.json``: one set of settings for all that take part in a job."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

JOBS = Path(__file__).resolve().parent.parent / "jobs.json"
SHOWN = ("rate", "us", "s")  # units per second, microseconds per unit, seconds per unit
OURS = "nervex"


@dataclass(frozen=True)
class Peer:
    """One who takes part in a job.

    Attributes:
        name: as in tables; ``nervex`` is who the others are compared with.
        driver: stem of a script in ``peers/jobs``.
        environment: stem of a requirements file; None: nerveX's own.
        options: what only this driver reads.
        note: where its settings differ from those of the others.
    """

    name: str
    driver: str
    environment: str | None
    options: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Job:
    """What is measured.

    Attributes:
        name, title: short and long.
        unit: what is counted, such as ``env step``.
        shown: how a figure is shown, one of ``SHOWN``.
        settings: what all peers are given.
        peers: who takes part.
        limit_s: seconds after which a run is given up.
    """

    name: str
    title: str
    unit: str
    shown: str
    settings: Mapping[str, Any]
    peers: tuple[Peer, ...]
    limit_s: float


def load_jobs(path: Path = JOBS, quick: bool = False) -> dict[str, Job]:
    """Returns the jobs by name; ``quick`` ones are just long enough to see that they work.

    Raises:
        ValueError: the file names a peer or a way to show figures that there is not.
    """
    data = json.loads(path.read_text(encoding="utf-8"))
    return {name: _job(name, entry, data["environments"], quick) for name, entry in data["jobs"].items()}


def chosen(jobs: Mapping[str, Job], names: list[str], peers: list[str]) -> list[Job]:
    """Returns the jobs of these names (none: all) with the peers of these names (none: all), nerveX always among them.

    Raises:
        ValueError: no such job, or no job has such a peer.
    """
    known = sorted({peer.name for job in jobs.values() for peer in job.peers})
    for name, there in [*((name, sorted(jobs)) for name in names), *((name, known) for name in peers)]:
        if name not in there:
            raise ValueError(f"there is no '{name}' (known: {', '.join(there)})")
    wanted = []
    for job in (jobs[name] for name in names or jobs):
        kept = tuple(peer for peer in job.peers if not peers or peer.name in (OURS, *peers))
        wanted.append(Job(**{**vars(job), "peers": kept}))
    return wanted


def _job(name: str, entry: Mapping[str, Any], environments: Mapping[str, Any], quick: bool) -> Job:
    if entry["shown"] not in SHOWN:
        raise ValueError(f"job {name}: shown is '{entry['shown']}'; expected one of {', '.join(SHOWN)}")
    settings = {**entry["settings"], **(entry["quick"] if quick else {})}
    peers = []
    for peer, own in entry["peers"].items():
        kind = peer.split()[0]
        if kind not in environments:
            raise ValueError(f"job {name}: peer '{peer}' has no environment; known are {', '.join(environments)}")
        peers.append(Peer(peer, own["driver"], environments[kind], own.get("options", {}), own.get("note", "")))
    if OURS not in entry["peers"]:
        raise ValueError(f"job {name}: '{OURS}' does not take part")
    return Job(
        name, entry["title"], entry["unit"], entry["shown"], settings, tuple(peers), entry.get("limit_s", 1800.0)
    )
