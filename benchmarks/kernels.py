"""Times the sum tree, returns over time, and the categorical projection; CPU microseconds per call, one thread.

python benchmarks/kernels.py [--calls 100] [--repeats 7]

- tree_*: a sum tree of 1e6 leaves; batches of 256, a new one at each call, spread over the whole tree.
- gae, vtrace, td_lambda, upgo, nstep_5: float32 [128, 1024], 1 % of the rows an end, each followed by a dummy row.
- *_torch: the same by torch operations, as on a GPU or under torch.compile.
- projection_*: 51 atoms, batches of 32 and 256.
- cold_*: the first call of a new process that compiles, in milliseconds, loading Numba included.

Medians over repeats of the mean over calls, with minimum and maximum, go to results/kernels.json.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import cycle
from unittest import mock

import numpy as np
import torch
from common import save, spread

from nervex.data.sum_tree import SumTree
from nervex.rl_utils import recursion
from nervex.rl_utils.advantage import gae, gae_data
from nervex.rl_utils.dist_td import categorical_projection
from nervex.rl_utils.sequence_td import nstep_sequence_target
from nervex.rl_utils.upgo import upgo_returns
from nervex.rl_utils.value_td import generalized_lambda_returns
from nervex.rl_utils.vtrace import vtrace_returns

CAPACITY, BATCH = 1_000_000, 256
TIME, LANES = 128, 1024
COLD = """
import time
import numpy as np
start = time.process_time()
from nervex import kernels
{call}
print(time.process_time() - start)
"""
COLD_CALLS = {
    "cold_tree_find": "kernels.find_leaves(np.ones(8), np.ones(2), np.zeros(2, np.int64))",
    "cold_gae": """rows, mask = np.ones((2, 3), np.float32), np.ones((1, 3), np.bool_)
kernels.gae(rows, rows[:1], mask, mask, mask, 0.9, 0.9, np.ones((1, 3), np.float32))""",
}


def tree_jobs(rng: np.random.Generator) -> dict[str, Callable[[], object]]:
    tree = SumTree(CAPACITY)
    tree.update(np.arange(CAPACITY), rng.random(CAPACITY) + 0.01)
    strata = np.arange(BATCH)
    mass = cycle([(strata + rng.random(BATCH)) * (tree.total / BATCH) for _ in range(500)])
    index = cycle([rng.integers(0, CAPACITY, BATCH) for _ in range(500)])
    priority = rng.random(BATCH) + 0.01

    def find_and_update() -> None:
        leaf = tree.find(next(mass))
        tree.update(leaf, tree[leaf])

    return {
        "tree_find_256": lambda: tree.find(next(mass)),
        "tree_update_256": lambda: tree.update(next(index), priority),
        "tree_update_8": lambda: tree.update(next(index)[:8], priority[:8]),
        "tree_find_read_update_256": find_and_update,
    }


def return_jobs(rng: np.random.Generator) -> dict[str, Callable[[], object]]:
    ends = rng.random((2, TIME, LANES)) < 0.005
    dummy = np.zeros((TIME, LANES), np.bool_)
    dummy[1:] = (ends[0] | ends[1])[:-1]
    columns = ends[0] & ~dummy, ends[1] & ~ends[0] & ~dummy, ~dummy
    terminated, truncated, valid = (torch.from_numpy(x) for x in columns)
    masks = terminated, truncated, valid
    value, reward, ratio = (
        torch.from_numpy(rng.random((rows, LANES), np.float32) * 2) for rows in (TIME + 1, TIME, TIME)
    )
    return {
        "gae": lambda: gae(gae_data(value, reward, *masks), 0.99, 0.95),
        "vtrace": lambda: vtrace_returns(ratio, value, reward, *masks),
        "td_lambda": lambda: generalized_lambda_returns(value, reward, 0.99, 0.95, *masks),
        "upgo": lambda: upgo_returns(reward, value, 0.99, *masks),
        "nstep_5": lambda: nstep_sequence_target(value[:-1], reward, *masks, 0.99, 5),
    }


def projection_jobs(rng: np.random.Generator) -> dict[str, Callable[[], object]]:
    jobs: dict[str, Callable[[], object]] = {}
    for size in (32, 256):
        prob = torch.from_numpy(rng.dirichlet(np.ones(51), size).astype(np.float32))
        support = 0.97 * torch.linspace(-10, 10, 51) + torch.from_numpy(rng.random((size, 1), np.float32))
        jobs[f"projection_{size}"] = partial(categorical_projection, prob, support, -10.0, 10.0)
    return jobs


def measure(job: Callable[[], object], calls: int, repeats: int) -> dict[str, float]:
    for _ in range(3):
        job()
    figures = []
    for _ in range(repeats):
        start = time.process_time()
        for _ in range(calls):
            job()
        figures.append((time.process_time() - start) / calls * 1e6)
    return spread(figures, 1)


def cold(call: str, repeats: int) -> dict[str, float]:
    figures = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            env = {**os.environ, "NUMBA_CACHE_DIR": folder}
            command = [sys.executable, "-c", COLD.format(call=call)]
            done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
        figures.append(float(done.stdout) * 1e3)
    return spread(figures, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=100, help="calls per repeat")
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    returns = return_jobs(rng)
    jobs = {**tree_jobs(rng), **returns, **projection_jobs(rng)}
    figures = {name: measure(job, args.calls, args.repeats) for name, job in jobs.items()}
    with mock.patch.object(recursion, "MIN_KERNEL_ROWS", sys.maxsize):
        figures |= {f"{k}_torch": measure(job, args.calls // 5 + 1, args.repeats) for k, job in returns.items()}
    figures |= {name: cold(call, 3) for name, call in COLD_CALLS.items()}
    for name, figure in figures.items():
        print(f"{name:<28} {figure['median']:>8} {'ms' if name.startswith('cold') else 'us'}")
    sizes = {"tree_leaves": CAPACITY, "tree_batch": BATCH, "returns": [TIME, LANES]}
    print(save("kernels", {"unit": "CPU us per call (cold_*: ms)", **vars(args), "sizes": sizes, "figures": figures}))


if __name__ == "__main__":
    main()
