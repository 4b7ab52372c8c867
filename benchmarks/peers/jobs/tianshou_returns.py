"""Tianshou's advantages, through its public function."""

import numpy as np
from driver import emit, per_call, settings
from returns import rows
from tianshou.algorithm.algorithm_base import Algorithm
from tianshou.data import Batch, ReplayBuffer

given = settings()
flat = {name: array.T.ravel() for name, array in rows(given).items()}  # lane after lane
batch = Batch(rew=flat["reward"].astype(np.float64), terminated=flat["terminated"],
              truncated=flat["done"] & ~flat["terminated"])  # fmt: skip
buffer = ReplayBuffer(len(batch.rew))
buffer.set_batch(Batch(obs=flat["value"], act=flat["value"], rew=batch.rew, terminated=batch.terminated,
                       truncated=batch.truncated, done=flat["done"], obs_next=flat["value"], info=Batch()))  # fmt: skip
buffer._size = len(batch.rew)
index = np.arange(len(batch.rew))


def advantages() -> None:
    Algorithm.compute_episodic_return(batch, buffer, index, flat["next_value"], flat["value"], given["gamma"],
                                      given["lambda"])  # fmt: skip


count, cost = per_call(advantages, given["least_s"])
emit(given, "GAE", count, cost, "tianshou", "torch", "numpy")
