"""The public names of the package."""

import subprocess
import sys

import pytest

from nervex import torch_utils


def test_every_public_name_resolves():
    for name in dir(torch_utils):
        if not name.startswith("_"):
            assert getattr(torch_utils, name) is not None
    assert {"Adam", "CheckpointManager", "save_state", "set_seed", "to_device"} <= set(dir(torch_utils))
    with pytest.raises(AttributeError, match=r"module 'nervex.torch_utils' has no attribute 'Adamm'"):
        torch_utils.Adamm


def test_files_and_the_package_import_no_torch():
    code = "import sys, nervex.utils.files, nervex.torch_utils; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
