"""TorchRL's returns: of its loop and its vectorized form, the quicker one."""

from collections.abc import Callable
from functools import partial

import torch
from driver import emit, per_call, settings
from returns import rows
from torchrl.objectives.value import functional

given = settings()
columns = {name: torch.from_numpy(x.T.copy())[..., None] for name, x in rows(given).items()}  # [B, T, 1]
gamma, lambda_ = given["gamma"], given["lambda"]
values = columns["value"], columns["next_value"]
ends = columns["reward"], columns["done"], columns["terminated"]
log_ratio = columns["ratio"].log()
forms: dict[str, list[Callable[[], object]]] = {
    "GAE": [
        partial(getattr(functional, name), gamma, lambda_, *values, *ends)
        for name in ("generalized_advantage_estimate", "vec_generalized_advantage_estimate")
    ],
    "V-trace": [
        partial(functional.vtrace_advantage_estimate, gamma, log_ratio, torch.zeros_like(log_ratio), *values, *ends)
    ],
    "TD(λ)": [
        partial(getattr(functional, name), gamma, lambda_, values[1], *ends)
        for name in ("td_lambda_return_estimate", "vec_td_lambda_return_estimate")
    ],
}
for name, calls in forms.items():
    figures = [per_call(call, given["least_s"]) for call in calls]
    count, cost = min(figures, key=lambda figure: figure[1][1] / figure[0])
    emit(given, name, count, cost, "torchrl", "torch")
