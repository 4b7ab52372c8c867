"""Replaces each public name of ``names.yaml`` by one that returns zeros, and looks whether its tests notice.

    python tests/names/replace_by_zeros.py [--only NAME ...]

Prints a line for each name or method: which test failed, or that all passed. A test that fails must pass without the
replacement. Exit code 1 if one of them survives. Takes some seconds each; not a part of the test suite.
"""

import argparse
import contextlib
import multiprocessing
import os
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

os.environ["TORCH_COMPILE_DISABLE"] = "1"  # as in tests/conftest.py, which comes after torch here

import hypothesis
import numba  # noqa: F401 (this and the next but one are loaded once, before the forks)
import pytest
import scipy.optimize  # noqa: F401
import torch
import torch._dynamo
from names_table import ROOT, Name, read_names
from zeroed import replace

_MARKS = "not slow and not gpu and not ray and not envpool"
_LIMIT_S = 600.0


class Result(NamedTuple):
    """Of one run of tests: pytest's exit code (None: it ended without one), and the first test that failed."""

    code: int | None
    failed: str


class _FirstFailure:
    """Plugin of pytest that keeps the first test that failed."""

    def __init__(self) -> None:
        self.found = ""

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and not self.found:
            self.found = report.nodeid

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed and not self.found:
            self.found = report.nodeid


def run_tests(tests: list[str], name: Name | None = None, method: str | None = None) -> Result:
    """Runs tests in a process of their own, with a name replaced there (None: with nothing replaced)."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    with tempfile.TemporaryFile("w+") as log:
        process = context.Process(target=_child, args=(tests, name, method, sender, log.fileno()))
        process.start()
        sender.close()
        code, failed = None, f"no answer within {_LIMIT_S:g} s"
        with contextlib.suppress(EOFError):
            if receiver.poll(_LIMIT_S):
                code, failed = receiver.recv()
        if process.is_alive() and code is None:
            process.terminate()
        process.join(10)
        if process.is_alive():
            process.kill()
            process.join()
    return Result(code, failed)


def _child(tests: list[str], name: Name | None, method: str | None, sender: Connection, log: int) -> None:
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout = sys.stderr = os.fdopen(1, "w")
    os.chdir(ROOT)
    torch.set_num_threads(1)
    if name is not None:
        replace(name.load(), method)
    first = _FirstFailure()
    code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-m", _MARKS, *tests], plugins=[first])
    sender.send((int(code), first.found))
    sender.close()
    os._exit(0)


def judge(name: Name, method: str | None, sound: dict[str, bool]) -> tuple[bool, str]:
    """Returns whether the tests of a name notice its replacement, and a word on it."""
    result = run_tests([name.test], name, method)
    if result.code == pytest.ExitCode.OK:
        return False, f"every test of {name.test} passes"
    if result.code is None:
        return True, result.failed
    if result.code not in (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED) or not result.failed:
        return False, f"pytest ended with {result.code} on {name.test}"
    # with all its parameters, since those that are functions have other names where one is replaced
    test = result.failed.split("[", maxsplit=1)[0]
    if test not in sound:
        sound[test] = run_tests([test]).code == pytest.ExitCode.OK
    if not sound[test]:
        return False, f"{result.failed} fails without the replacement too"
    return True, result.failed


def main(arguments: list[str] | None = None) -> int:
    """Judges all names, or those asked for."""
    parser = argparse.ArgumentParser(description="Looks whether tests notice a public name that returns zeros.")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="names, paths, or parts of paths of test files")
    options = parser.parse_args(arguments)
    names = read_names()
    if options.only:
        wanted = options.only
        names = [n for n in names if n.name in wanted or n.path in wanted or any(w in n.test for w in wanted)]
    survivors, tried, sound = [], 0, {}
    # the first failure will do: no smaller one is looked for
    hypothesis.settings.register_profile("first", phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate])
    hypothesis.settings.load_profile("first")
    start_s = time.monotonic()
    for name in names:
        for method in name.methods or (None,):
            label = name.path if method is None else f"{name.path}.{method}"
            killed, word = judge(name, method, sound)
            tried += 1
            survivors += [] if killed else [label]
            print(f"{'killed  ' if killed else 'SURVIVED'} {label}: {word}", flush=True)
    seconds = time.monotonic() - start_s
    count = len({name.path for name in names})
    print(f"{count} names, {tried} replacements, {tried - len(survivors)} noticed, {len(survivors)} not: {survivors}")
    print(f"{seconds:.0f} s")
    return 1 if survivors or not names else 0


if __name__ == "__main__":
    sys.exit(main())
