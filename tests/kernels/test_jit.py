"""Kernels: loaded when first used, and their machine code kept where it can be."""

import os
import subprocess
import sys
from pathlib import Path

USE = """
import numpy as np
from nervex import kernels
leaf = np.empty(2, np.int64)
kernels.find_leaves(np.array([0, 6, 3, 3, 1, 2, 3, 0.0]), np.array([2.5, 9.0]), leaf)
assert leaf.tolist() == [1, 2], leaf
stats = kernels.find_leaves.stats
print("hits", sum(stats.cache_hits.values()), "misses", sum(stats.cache_misses.values()))
"""


def run(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **env}, capture_output=True, text=True, timeout=120, check=True
    )


def test_a_second_process_compiles_nothing(tmp_path: Path) -> None:
    assert run(USE, NUMBA_CACHE_DIR=str(tmp_path)).stdout == "hits 0 misses 1\n"
    second = run(USE, NUMBA_CACHE_DIR=str(tmp_path))
    assert (second.stdout, second.stderr) == ("hits 1 misses 0\n", "")
    assert [p.suffix for p in sorted(tmp_path.glob("*/*"))] == [".nbc", ".nbi"]


def test_where_no_folder_can_be_written_kernels_work_and_the_log_says_it_once() -> None:
    # of the places for a cache only one is left, and nobody names it
    done = run(USE, NUMBA_CACHE_LOCATOR_CLASSES="UserProvidedCacheLocator", NUMBA_CACHE_DIR="")
    assert done.stdout.startswith("hits 0 ")
    assert done.stderr.count("compiled kernels cannot be kept: neither ") == 1
    assert done.stderr.endswith("set NUMBA_CACHE_DIR to a folder that can be written\n")


def test_numba_is_loaded_by_the_first_kernel_only() -> None:
    code = """
import sys
import nervex.data.sum_tree, nervex.rl_utils.advantage, nervex.rl_utils.sequence_td
import torch
from nervex.rl_utils import gae, gae_data
gae(gae_data(torch.zeros(9, 8), torch.zeros(8, 8)))
assert "numba" not in sys.modules
nervex.data.sum_tree.SumTree(4).find([0.0])
assert "numba" in sys.modules
"""
    run(code)
