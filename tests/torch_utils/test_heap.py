"""Memory that is freed and taken again costs no page faults, unless the user wants it otherwise."""

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, torch
from nervex.torch_utils.heap import keep_freed_memory
torch.set_num_threads(1)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        kept = [torch.ones(4 << 20) for _ in range(6)]  # 16 MiB each
        del kept
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
done = keep_freed_memory()
faults()
print(done, faults())
"""


def result_of(**env):
    given = {k: v for k, v in os.environ.items() if k not in ("GLIBC_TUNABLES", "LD_PRELOAD")} | env
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=given, capture_output=True, text=True, check=True)
    took, faults = done.stdout.split()
    return took == "True", int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only the GNU C library has this setting")
def test_memory_is_kept():
    took, faults = result_of()
    assert took and faults < 1000  # 20 rounds of 96 MiB have 480,000 pages of 4 KiB, or 960 of 2 MiB


def test_settings_of_the_user_stay():
    assert result_of(MALLOC_TRIM_THRESHOLD_="131072")[0] is False
