"""Measures nerveX beside other libraries: builds their environments, runs all in turn, writes records and tables.

    python benchmarks/run_peers.py                                     # everything: make bench
    python benchmarks/run_peers.py --jobs sac_halfcheetah --peers sb3 --runs 5
    python benchmarks/run_peers.py --quick                             # does all of it work? no record is written

Settings are in ``jobs.json``, the drivers in ``peers/jobs``, the peers' packages in ``peers/requirements``. A record of
``results/peers`` is replaced as a whole: ratios hold between runs that were made in turn. ``--tables`` writes the
tables of README.md from the records that are there.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

from common import RESULTS, hardware, put
from harness.environments import Environment, prepare
from harness.runner import measure
from harness.settings import Job, chosen, load_jobs
from harness.summary import tables

HERE = Path(__file__).resolve().parent
RECORDS = RESULTS / "peers"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", nargs="*", default=[], metavar="JOB", help="which (default: all)")
    parser.add_argument("--peers", nargs="*", default=[], metavar="PEER", help="beside nervex (default: all)")
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="of each peer, in turn (default: 5)")
    parser.add_argument("--quick", action="store_true", help="runs as short as can be, once; prints the tables")
    parser.add_argument("--python", nargs="*", default=[], metavar="ENVIRONMENT=PATH",
                        help="interpreters to use in place of environments of our own")  # fmt: skip
    parser.add_argument("--records", type=Path, default=RECORDS, metavar="DIR", help="folder of the records")
    parser.add_argument("--tables", action="store_true", help="measure nothing; write the tables of the records")
    args = parser.parse_args(argv)
    try:
        jobs = load_jobs(quick=args.quick)
        wanted = chosen(jobs, args.jobs, args.peers)
        given = {name: Path(path) for name, path in (pair.split("=", 1) for pair in args.python)}
    except ValueError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    environment = cache(partial(prepare, given=given))
    for job in [] if args.tables else wanted:
        if args.quick:
            print(tables(measure_job(job, environment, 1, lambda record: None)), flush=True)
        else:
            measure_job(job, environment, args.runs, partial(write, args.records))
    if not args.quick:
        put(HERE / "README.md", "peers", page(jobs, args.records))
    return 0


def measure_job(
    job: Job, environment: Callable[[str | None], Environment], runs: int, keep: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Measures a job and returns its record with date and machine."""

    def dated(record: dict[str, Any]) -> None:
        record["date"] = datetime.now(UTC).date().isoformat()
        record["machine"] = hardware()
        keep(record)

    record = measure(job, environment, runs, dated, say=lambda line: print(line, file=sys.stderr, flush=True))
    dated(record)
    return record


def write(folder: Path, record: dict[str, Any]) -> None:
    """Writes a job's record, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record['job']}.json"
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def page(jobs: dict[str, Job], folder: Path) -> str:
    """Returns the tables of all jobs that have a record, in the order of the jobs."""
    paths = [folder / f"{name}.json" for name in jobs]
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]
    return "\n\n".join(tables(record) for record in records) or "Nothing has been measured yet."


if __name__ == "__main__":
    sys.exit(main())
