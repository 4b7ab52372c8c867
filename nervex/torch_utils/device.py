"""Where tensors live, and how many threads work on them."""

import copy
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

# A forward and a backward pass touch each weight of a dense layer 2 + 4 times per row of the batch.
_FLOPS_PER_PARAM_AND_ROW = 6
_FLOPS_PER_THREAD = 10_000_000_000


def to_device(item: Any, device: str | torch.device, ignore_keys: Sequence[str] = ()) -> Any:
    """Returns ``item`` with every tensor on ``device``: dicts (of their own type), lists, tuples and namedtuples nest.

    Copies to a GPU are asynchronous, which pays when the source is pinned. Numbers, strings and None pass unchanged;
    a module is moved in place.

    Args:
        item: tensor, module, plain value, or nested container of them.
        device: target device.
        ignore_keys: dict keys, at any depth, whose values stay where they are.

    Raises:
        TypeError: something in ``item`` cannot be moved.
    """
    target = torch.device(device)
    if isinstance(item, Tensor):
        return item.to(target, non_blocking=target.type == "cuda")
    if isinstance(item, nn.Module):
        return item.to(target)
    if isinstance(item, dict):
        moved = copy.copy(item)
        for key, value in item.items():
            if key not in ignore_keys:
                moved[key] = to_device(value, target, ignore_keys)
        return moved
    if isinstance(item, list | tuple):
        parts = [to_device(v, target, ignore_keys) for v in item]
        return type(item)(*parts) if hasattr(item, "_fields") else type(item)(parts)
    if item is None or isinstance(item, bool | int | float | str):
        return item
    raise TypeError(f"to_device cannot move a {type(item).__name__} to {target}; make it a tensor first")


def device_of(module: nn.Module) -> torch.device:
    """Returns the device of a module's first parameter; that of a module without any is the CPU."""
    parameter = next(module.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def pick_threads(param_count: int, batch_size: int) -> int:
    """Returns how many CPU threads torch should use to train a network of this size.

    One, unless a forward and backward pass, estimated as ``6 * param_count * batch_size`` floating-point operations,
    exceeds 10 GFLOP (about 50 ms on one core); then one more thread for every further 10 GFLOP, up to the CPUs that
    this process may use. Below that, splitting each operation costs more than it brings: with one other process
    busy, two threads were measured three to five times slower than one on networks of 64 to 256 units, and no faster
    on a CNN with batches of 256, because threads that wait for each other spin.

    Args:
        param_count: number of weights that a forward pass uses.
        batch_size: rows in a batch.
    """
    flops = _FLOPS_PER_PARAM_AND_ROW * param_count * batch_size
    return max(1, min(_usable_cpus(), flops // _FLOPS_PER_THREAD + 1))


def _usable_cpus() -> int:
    # a container or a batch system may grant fewer CPUs than the machine has
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
