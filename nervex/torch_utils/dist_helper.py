"""Several processes that train one model together, on ``torch.distributed``.

A process alone is rank 0 of 1: without ``dist_init`` every function here answers, and changes nothing.
"""

import functools
import os
import re
from collections.abc import Callable
from datetime import timedelta
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nervex.utils.errors import ConfigError, DistributedError, did_you_mean

TIMEOUT_S = 300.0
DEFAULT_PORT = "29500"
_OPS = {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX}
# method -> (variable of the rank, of the number of processes)
_VARIABLES = {"single_node": ("RANK", "WORLD_SIZE"), "slurm": ("SLURM_PROCID", "SLURM_NTASKS")}


def get_rank() -> int:
    """Returns the number of this process, from 0."""
    return dist.get_rank() if _is_on() else 0


def get_world_size() -> int:
    """Returns how many processes there are."""
    return dist.get_world_size() if _is_on() else 1


def broadcast(value: Tensor, rank: int = 0) -> Tensor:
    """Makes ``value`` in every process what it is in process ``rank``, in place, and returns it.

    Args:
        value: of the same shape and dtype everywhere, ``[...]``.
        rank: whose values all get.

    Raises:
        ConfigError: there is no such process.
        DistributedError: a process did not take part in time.
    """
    if not 0 <= rank < get_world_size():
        raise ConfigError(f"broadcast got rank={rank}; there are {get_world_size()} processes, from 0")
    if _is_on():
        _collective("broadcast", lambda: dist.broadcast(value, rank))
    return value


def allreduce(data: Tensor, op: str = "sum") -> Tensor:
    """Replaces ``data`` in every process by its sum or maximum over all processes, in place, and returns it.

    Args:
        data: of the same shape and dtype everywhere, ``[...]``.
        op: ``'sum'`` or ``'max'``, element by element.

    Raises:
        ConfigError: another operation.
        DistributedError: a process did not take part in time.
    """
    if op not in _OPS:
        raise ConfigError(f"unknown operation '{op}' of allreduce{did_you_mean(str(op), _OPS)} (known: sum, max)")
    if _is_on():
        _collective("allreduce", lambda: dist.all_reduce(data, _OPS[op]))
    return data


def get_group(group_size: int) -> Any:
    """Returns the group of this process when all are cut, in order, into groups of ``group_size``.

    Every process must call it. None stands for the one group of a process alone.

    Raises:
        ConfigError: the number of processes is no multiple of ``group_size``.
    """
    world_size = get_world_size()
    if group_size < 1 or world_size % group_size:
        raise ConfigError(f"get_group got group_size={group_size}; expected a divisor of the {world_size} processes")
    return simple_group_split(world_size, get_rank(), world_size // group_size)


def simple_group_split(world_size: int, rank: int, num_groups: int) -> Any:
    """Returns the group of process ``rank`` when ``world_size`` processes are cut, in order, into equal groups.

    Every process must call it. None stands for the one group of a process alone.

    Raises:
        ConfigError: ``world_size`` is no multiple of ``num_groups``, or there is no process ``rank``.
    """
    if num_groups < 1 or world_size % num_groups or not 0 <= rank < world_size:
        raise ConfigError(
            f"simple_group_split got world_size={world_size}, rank={rank}, num_groups={num_groups}; expected equal "
            "groups and a rank below the world size"
        )
    if not _is_on():
        return None
    size = world_size // num_groups
    groups = [dist.new_group(list(range(first, first + size))) for first in range(0, world_size, size)]
    return groups[rank // size]


def dist_init(
    method: str = "single_node", *, backend: str | None = None, timeout_s: float = TIMEOUT_S
) -> tuple[int, int]:
    """Joins the processes that train together.

    Args:
        method: ``'single_node'``: ``RANK``, ``WORLD_SIZE``, ``MASTER_ADDR`` and ``MASTER_PORT`` of the environment, as
            ``torchrun`` sets them. ``'slurm'``: ``SLURM_PROCID``, ``SLURM_NTASKS``, and the first host of
            ``SLURM_NODELIST`` with ``MASTER_PORT``.
        backend: of ``torch.distributed``; None: NCCL where there is a GPU, else Gloo.
        timeout_s: longest wait for the others, here and in every later exchange, in seconds.

    Returns:
        Rank of this process, and the number of processes.

    Raises:
        ConfigError: a variable is missing or no number, the method is unknown, or the process has joined already.
        DistributedError: the others did not come in time.
    """
    if _is_on():
        raise ConfigError("dist_init was called twice in one process; call dist_finalize in between")
    if method not in _VARIABLES:
        known = ", ".join(_VARIABLES)
        raise ConfigError(
            f"unknown method '{method}' of dist_init{did_you_mean(str(method), _VARIABLES)} (known: {known})"
        )
    rank, world_size = (_number(name, method) for name in _VARIABLES[method])
    if not 0 <= rank < world_size:
        raise ConfigError(f"dist_init('{method}') got rank {rank} of {world_size}; ranks count from 0")
    host = os.environ.get("MASTER_ADDR") or ("127.0.0.1" if method == "single_node" else _first_host())
    address = f"{host}:{os.environ.get('MASTER_PORT', DEFAULT_PORT)}"
    backend = backend or ("nccl" if torch.cuda.is_available() else "gloo")
    try:
        dist.init_process_group(
            backend, f"tcp://{address}", timedelta(seconds=timeout_s), rank=rank, world_size=world_size
        )
    except (dist.DistError, RuntimeError, ValueError) as e:
        raise DistributedError(
            f"process {rank} of {world_size} did not meet the others at {address} within {timeout_s:g} s; start all of "
            f"them, with one MASTER_ADDR and MASTER_PORT: {_first_line(e)}"
        ) from e
    return rank, world_size


def dist_finalize() -> None:
    """Leaves the others; a process alone has nothing to leave."""
    if _is_on():
        dist.destroy_process_group()


def distributed_mode(func: Callable[..., Any]) -> Callable[..., Any]:
    """Returns ``func`` that runs between ``dist_init`` and ``dist_finalize``, the latter in any case.

    Where the environment names no number of processes (``WORLD_SIZE``) it runs alone.
    """

    @functools.wraps(func)
    def run(*args: Any, **kwargs: Any) -> Any:
        if "WORLD_SIZE" in os.environ:
            dist_init()
        try:
            return func(*args, **kwargs)
        finally:
            dist_finalize()

    return run


class DistModule(nn.Module):
    """A module that starts with the weights of process 0 and whose gradients can be averaged over the processes.

    After ``backward`` comes ``sync_gradients``, then the optimizer's step.

    Args:
        module: the module; its parameters and buffers are overwritten by those of process 0.
        sync: average in ``sync_gradients``; False: begin with each gradient as soon as ``backward`` has it, so that the
            exchange overlaps the rest of it. There must then be one ``backward`` for each ``sync_gradients``, and the
            same parameters must take part everywhere.
    """

    def __init__(self, module: nn.Module, sync: bool = True) -> None:
        super().__init__()
        self.module = module
        self._sync = sync
        self._pending: dict[nn.Parameter, Any] = {}
        for tensor in (*module.parameters(), *module.buffers()):
            broadcast(tensor.data)
        if not sync and get_world_size() > 1:
            for parameter in module.parameters():
                parameter.register_post_accumulate_grad_hook(self._begin)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the module."""
        return self.module(*args, **kwargs)

    def sync_gradients(self) -> None:
        """Replaces every gradient by its mean over the processes. A parameter without a gradient counts as one of zeros
        (with ``sync=False`` it stays without).

        Raises:
            DistributedError: a process did not take part in time.
        """
        world_size = get_world_size()
        if world_size == 1:
            return
        if self._sync:
            for parameter in self.module.parameters():
                if parameter.requires_grad:
                    parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                    allreduce(parameter.grad).div_(world_size)
            return
        pending, self._pending = self._pending, {}
        for parameter, work in pending.items():
            _collective("sync_gradients", work.wait)
            assert parameter.grad is not None
            parameter.grad.div_(world_size)

    def _begin(self, parameter: nn.Parameter) -> None:
        if parameter in self._pending:
            raise DistributedError("a second backward came before sync_gradients; call it after each, or use sync=True")
        self._pending[parameter] = dist.all_reduce(parameter.grad, async_op=True)


def try_import_link() -> ModuleType | None:
    """Returns what carries data between processes here, ``torch.distributed``; None where torch was built without."""
    return dist if dist.is_available() else None


def _is_on() -> bool:
    return dist.is_available() and dist.is_initialized()


def _collective(what: str, call: Callable[[], Any]) -> None:
    try:
        call()
    except (dist.DistError, RuntimeError) as e:
        raise DistributedError(
            f"{what} of process {get_rank()} of {get_world_size()} failed: {_first_line(e)}; is a process gone, or are "
            "shapes or dtypes not the same everywhere?"
        ) from e


def _number(name: str, method: str) -> int:
    text = os.environ.get(name)
    if text is None or not text.isdecimal():
        raise ConfigError(
            f"dist_init('{method}') found {name}={text!r} in the environment; expected a number, start the processes "
            f"with {'torchrun' if method == 'single_node' else 'srun'}"
        )
    return int(text)


def _first_host() -> str:
    """Returns the first host of a list as Slurm writes it: ``gpu[03-05,09],login1`` is ``gpu03``."""
    nodes = os.environ.get("SLURM_NODELIST", "")
    match = re.match(r"([^\[,]+)(?:\[(\w+)[^\]]*\])?", nodes)
    if match is None:
        raise ConfigError(
            f"dist_init('slurm') found SLURM_NODELIST={nodes!r}; expected a list of hosts, or set MASTER_ADDR"
        )
    return match[1] + (match[2] or "")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300]
