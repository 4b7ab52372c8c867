"""Makes the slow reference implementations importable as ``oracles.*``, and undoes what a run sets process-wide."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def process_wide_settings():
    """One thread, and denormal numbers as they are (hypothesis needs them), whatever the test before has run."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(False)
