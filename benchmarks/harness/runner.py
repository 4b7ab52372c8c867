"""Runs the peers of a job in turn, each as a process of its own that prints one line of JSON per figure."""

import json
import os
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.environments import PEERS, Environment
from harness.settings import Job, Peer

DRIVERS = PEERS / "jobs"
THREADS = 1
# what a machine may set for other programs, and would slow down some of the peers
_FORGOTTEN = ("PYTHONPATH", "OPENBLAS_CORETYPE", "MKL_DEBUG_CPU_TYPE")
_NEEDED = {"metric", "amount", "wall_s", "cpu_s", "versions", "threads"}


def turns(peers: Iterable[Peer], runs: int) -> Iterator[tuple[int, Peer]]:
    """Yields run and peer in the order of measurement: A B C A B C, so that what else the machine does hits all."""
    peers = list(peers)
    for run in range(runs):
        for peer in peers:
            yield run, peer


def environ(given: Mapping[str, str] | None = None) -> dict[str, str]:
    """Returns the variables that drivers see: one thread for whoever asks for a number, nothing of this program's."""
    kept = {key: value for key, value in (given or os.environ).items() if key not in _FORGOTTEN}
    return {**kept, "OMP_NUM_THREADS": str(THREADS), "MKL_NUM_THREADS": str(THREADS), "PYTHONWARNINGS": "ignore"}


def parse(text: str) -> list[dict[str, Any]]:
    """Returns the figures among the lines that a driver has printed.

    Raises:
        ValueError: a figure lacks something, or there is none.
    """
    figures = []
    for line in text.splitlines():
        if line.startswith("{"):
            figure = json.loads(line)
            missing = _NEEDED - figure.keys()
            if missing:
                raise ValueError(f"the figure {line} lacks {', '.join(sorted(missing))}")
            figures.append(figure)
    if not figures:
        raise ValueError("it printed no figure")
    return figures


def run_driver(python: Path, job: Job, peer: Peer, seed: int) -> list[dict[str, Any]]:
    """Runs one peer once and returns its figures.

    Raises:
        ValueError: it failed; why, in one line.
    """
    spec = {"job": job.name, "peer": peer.name, "seed": seed, "threads": THREADS, **job.settings, **peer.options}
    command = [str(python), str(DRIVERS / f"{peer.driver}.py"), json.dumps(spec)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=job.limit_s, env=environ(), check=False
        )  # fmt: skip
    except subprocess.TimeoutExpired as e:
        raise ValueError(f"it had not ended after {job.limit_s:g} s") from e
    if done.returncode != 0:
        raise ValueError(last_line(done.stderr) or f"exit code {done.returncode}")
    return parse(done.stdout)


def last_line(text: str, longest: int = 200) -> str:
    """Returns the last line that says something, where Python names the error, without this machine's folders."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].replace(f"{PEERS.parent}/", "")[:longest] if lines else ""


def measure(
    job: Job,
    environment: Callable[[str | None], Environment],
    runs: int,
    keep: Callable[[dict[str, Any]], None],
    say: Callable[[str], None],
    run_once: Callable[[Path, Job, Peer, int], list[dict[str, Any]]] = run_driver,
) -> dict[str, Any]:
    """Measures a job and returns its record; a peer that fails once is left out from then on, and why is in it.

    Args:
        job: the job.
        environment: leads from a name to an environment.
        runs: of each peer, with the seeds 0, 1, ...
        keep: takes the record after each run, so that what was measured outlives an interruption.
        say: takes lines about the progress.
        run_once: runs a peer.
    """
    record: dict[str, Any] = {
        "job": job.name, "title": job.title, "unit": job.unit, "shown": job.shown, "runs": runs,
        "settings": dict(job.settings), "peers": [peer.name for peer in job.peers],
        "note": {peer.name: peer.note for peer in job.peers if peer.note}, "missing": {}, "figures": [],
    }  # fmt: skip
    pythons: dict[str, Path] = {}
    for peer in job.peers:
        found = environment(peer.environment)
        if found.python is None:
            record["missing"][peer.name] = found.problem
        else:
            pythons[peer.name] = found.python
    for run, peer in turns([peer for peer in job.peers if peer.name in pythons], runs):
        if peer.name in record["missing"]:
            continue
        say(f"{job.name}: run {run + 1} of {runs}, {peer.name}")
        try:
            figures = run_once(pythons[peer.name], job, peer, run)
        except ValueError as e:
            record["missing"][peer.name] = str(e)
            say(f"  {peer.name} failed: {e}")
        else:
            record["figures"] += [{"peer": peer.name, "run": run, **figure} for figure in figures]
        keep(record)
    return record
