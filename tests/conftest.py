"""Makes the slow reference implementations importable as ``oracles.*``, undoes what a run sets process-wide, and keeps
recipes that compile their updates eager, but for the tests of just that (fixture ``compiling``)."""

import os
import sys
from pathlib import Path

os.environ["TORCH_COMPILE_DISABLE"] = "1"  # read when torch is imported, here and in processes of the tests

import pytest
import torch

sys.path.append(str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def process_wide_settings():
    """One thread, and denormal numbers as they are (hypothesis needs them), whatever the test before has run."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def compiler():
    """A machine that can compile: one with a C++ compiler and Python's headers."""
    with torch._dynamo.config.patch(disable=False):
        try:
            torch.compile(lambda x: x * 2 + 1, fullgraph=True)(torch.ones(3))
        except Exception as error:  # whatever the compiler says
            pytest.skip(f"no update can be compiled on this machine: {str(error).splitlines()[0]}")


@pytest.fixture
def compiling(monkeypatch, compiler):
    """Compilation as it is without the setting above."""
    monkeypatch.setenv("TORCH_COMPILE_DISABLE", "0")
    with torch._dynamo.config.patch(disable=False):
        yield
