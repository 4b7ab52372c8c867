"""nerveX's returns."""

import numpy as np
import torch
from driver import emit, per_call, settings
from returns import rows

from nervex.rl_utils.advantage import gae, gae_data
from nervex.rl_utils.value_td import generalized_lambda_returns
from nervex.rl_utils.vtrace import vtrace_returns

given = settings()
columns = {name: torch.from_numpy(array) for name, array in rows(given).items()}
gamma, lambda_ = given["gamma"], given["lambda"]
value = torch.cat([columns["value"], torch.from_numpy(np.zeros((1, given["lanes"]), np.float32))])  # [T + 1, B]
valid = torch.ones_like(columns["done"])
valid[1:] = ~columns["done"][:-1]  # the row after an episode's end is its reset
terminated = columns["terminated"] & valid
ends = terminated, columns["done"] & valid & ~terminated, valid
calls = {
    "GAE": lambda: gae(gae_data(value, columns["reward"], *ends), gamma, lambda_),
    "V-trace": lambda: vtrace_returns(columns["ratio"], value, columns["reward"], *ends, gamma),
    "TD(λ)": lambda: generalized_lambda_returns(value, columns["reward"], gamma, lambda_, *ends),
}
for name, call in calls.items():
    count, cost = per_call(call, given["least_s"])
    emit(given, name, count, cost, "nervex", "torch", "numpy")
