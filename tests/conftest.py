"""Makes the slow reference implementations importable as ``oracles.*``, undoes what a run sets process-wide, and keeps
recipes that compile their updates eager, but for the tests of just that (fixture ``compiling``)."""

import os
import shutil
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


@pytest.fixture
def compiling(monkeypatch):
    """Compilation as it is without the setting above. Only a machine without any C++ compiler is let off; there updates
    run eagerly, which has a test of its own."""
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++")):
        pytest.skip("no C++ compiler on this machine")
    monkeypatch.setenv("TORCH_COMPILE_DISABLE", "0")
    with torch._dynamo.config.patch(disable=False):
        yield
