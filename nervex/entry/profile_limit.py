"""How fast a run could be: its envs in a bare loop, and the matrix products and convolutions of its network alone.

The products are recorded from the policy as it acts and learns, whatever network it has: a dispatch mode sees every
product that reaches torch's kernels, forward and backward, with shapes, strides and precision. They are then repeated
on tensors of the same kind with nothing between them.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from nervex.data.lanes import LaneBlock
from nervex.entry.compile_config import CompiledConfig
from nervex.entry.serial_parts import SerialParts
from nervex.envs.base_env import spec_tree
from nervex.envs.vector_env import ACT
from nervex.utils.tree import tree_map
from nervex.worker.actor.env_manager.blocks import map_tree
from nervex.worker.actor.env_manager.vector_env_manager import VectorEnvManager
from nervex.worker.actor.samples import random_action

_aten = torch.ops.aten
# operation -> what of it is the bare product: another operation, and the arguments that it takes
_PRODUCTS: dict[Any, tuple[Any, slice]] = {
    _aten.mm: (_aten.mm, slice(0, 2)),
    _aten.addmm: (_aten.mm, slice(1, 3)),
    _aten.bmm: (_aten.bmm, slice(0, 2)),
    _aten.baddbmm: (_aten.bmm, slice(1, 3)),
    _aten.mv: (_aten.mv, slice(0, 2)),
    _aten.addmv: (_aten.mv, slice(1, 3)),
    _aten.convolution: (_aten.convolution, slice(None)),
    _aten.convolution_backward: (_aten.convolution_backward, slice(None)),
    _aten.mkldnn_rnn_layer: (_aten.mkldnn_rnn_layer, slice(None)),
    _aten.mkldnn_rnn_layer_backward: (_aten.mkldnn_rnn_layer_backward, slice(None)),
}
UPDATES = 4  # recorded, since not all updates of an algorithm are alike
_BLOCKS, _BLOCK_S = 3, 0.15
_ENV_S, _ACTIONS = 0.5, 64


class Cost(NamedTuple):
    """Seconds of something, on the clock and of the CPU."""

    wall_s: float
    cpu_s: float

    def times(self, factor: float) -> "Cost":
        """Returns the cost of ``factor`` of it."""
        return Cost(self.wall_s * factor, self.cpu_s * factor)


class Product(NamedTuple):
    """One matrix product or convolution: the operation, and its arguments with ``Blank`` in place of tensors."""

    operation: Any
    arguments: tuple[Any, ...]

    def prepared(self) -> Callable[[], Any]:
        """Returns a function that computes it on tensors of random numbers."""
        arguments = pytree.tree_map(_filled, self.arguments)
        return lambda: self.operation(*arguments)


@dataclass(frozen=True)
class Blank:
    """A tensor without its numbers."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


class Recorder(TorchDispatchMode):
    """Records, while it is active, the products that torch computes: ``products``, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.products: list[Product] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = _PRODUCTS.get(func.overloadpacket)
        if found is not None:
            operation, part = found
            self.products.append(Product(operation, pytree.tree_map(_blank, tuple(args[part]))))
        else:
            with self:  # in inference mode compound operations arrive whole
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        return func(*args, **kwargs)


def acting_products(parts: SerialParts) -> list[Product]:
    """Returns the products of one call of collect mode for all lanes that are ready."""
    ready, mode = parts.actor.env.ready_block(), parts.policy.collect_mode
    with torch.compiler.set_stance("force_eager"), torch.inference_mode(), Recorder() as recorder:
        lane_id, data = mode.data_preprocess(LaneBlock(ready.lane_id, tree_map(torch.from_numpy, ready.obs)))
        mode.forward(lane_id, data)
    return recorder.products


def learning_products(parts: SerialParts) -> list[Product]:
    """Returns the products of ``UPDATES`` updates from the learner's last batch; the policy learns from them."""
    mode, batch = parts.policy.learn_mode, parts.learner.last_batch
    with torch.compiler.set_stance("force_eager"), Recorder() as recorder:
        for _ in range(UPDATES):
            mode.forward(mode.data_preprocess(dict(batch)))
    return recorder.products


def products_cost(products: list[Product]) -> Cost:
    """Returns what computing the products once costs, one after the other: the best of a few blocks."""
    if not products:
        return Cost(0.0, 0.0)
    kinds = {repr(product): product for product in products}
    prepared = {name: product.prepared() for name, product in kinds.items()}
    calls = [prepared[repr(product)] for product in products]

    def once() -> None:
        for call in calls:
            call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    with torch.no_grad():
        once()
        costs = [_timed(once, _BLOCK_S) for _ in range(_BLOCKS)]
    return Cost(*(min(values) for values in zip(*costs, strict=True)))


def update_cost(products: list[Product]) -> Cost:
    """Returns the cost of one update, of :func:`learning_products`."""
    return products_cost(products).times(1 / UPDATES)


def env_cost(compiled: CompiledConfig, parts: SerialParts) -> Cost:
    """Returns the cost of one env step of random actions: the engine of all lanes alone where the run has one, else one
    env in a plain loop."""
    native = isinstance(parts.actor.env, VectorEnvManager)
    num = len(compiled.actor_env_cfg) if native else 1
    spec = spec_tree(compiled.info.act_space, is_action=True)
    actions = [tree_map(lambda x: x.numpy(), random_action(spec, num)) for _ in range(_ACTIONS)]
    step, close = _vector_loop(compiled, actions) if native else _env_loop(compiled, actions)
    try:
        return _timed(step, _ENV_S).times(1 / (num * _ACTIONS))
    finally:
        close()


def _env_loop(compiled: CompiledConfig, actions: list[Any]) -> tuple[Callable[[], None], Callable[[], None]]:
    env = compiled.env_fn(dict(compiled.actor_env_cfg[0]))
    rows = [tree_map(lambda a: a[0].item() if a.ndim == 1 else a[0], action) for action in actions]
    env.seed(0)
    env.reset()

    def steps() -> None:
        for action in rows:
            if env.step(action).done:
                env.reset()

    return steps, env.close


def _vector_loop(compiled: CompiledConfig, actions: list[Any]) -> tuple[Callable[[], None], Callable[[], None]]:
    create: Any = compiled.env_fn.create_vector  # type: ignore[attr-defined]
    configs = [dict(cfg) for cfg in compiled.actor_env_cfg]
    engine, num = create(configs), len(configs)
    out = map_tree(lambda leaf: np.zeros((num, *leaf.shape), leaf.dtype), spec_tree(compiled.info.obs_space))
    lanes = np.arange(num, dtype=np.int64)
    seeds = np.full(num, ACT, np.int64)
    engine.reset(lanes, out)

    def steps() -> None:
        for action in actions:
            step = engine.step(action, lanes, seeds, out)
            seeds[:] = np.where(step.terminated | step.truncated, lanes, ACT)  # those that ended begin again

    return steps, engine.close


def _timed(function: Callable[[], None], least_s: float) -> Cost:
    """Returns the mean cost of a call over as many as take ``least_s``."""
    count, wall, cpu = 0, time.perf_counter(), time.process_time()
    while count == 0 or time.perf_counter() - wall < least_s:
        function()
        count += 1
    return Cost((time.perf_counter() - wall) / count, (time.process_time() - cpu) / count)


def _blank(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    return Blank(tuple(value.shape), tuple(value.stride()), value.dtype, value.device)


def _filled(value: Any) -> Any:
    if not isinstance(value, Blank):
        return value
    span = 1 + sum((size - 1) * stride for size, stride in zip(value.shape, value.stride, strict=True))
    memory = torch.randn(max(span, 0), dtype=value.dtype, device=value.device)
    return memory.as_strided(value.shape, value.stride)  # also where rows share memory, as those of an expanded bias
