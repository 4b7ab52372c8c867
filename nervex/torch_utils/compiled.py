"""Whole updates as one compiled function: forward, backward and optimizer step together.

A policy marks the part of its update that is a function of tensors with :func:`tensor_function`; counters, branches on
values and copies to a target network stay outside. The same code runs eagerly.
"""

import logging
import time
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch

from nervex.torch_utils.guarded_optimizer import GuardedOptimizer

_logger = logging.getLogger("nervex")
_F = TypeVar("_F", bound=Callable[..., Any])
_MARK = "_is_tensor_function"
_MAX_SIGNATURES = 8


def tensor_function(method: _F) -> _F:
    """Marks ``method(self, data)`` as a function of the tensors in ``data`` that ``policy.learn.compile`` may compile.

    It reads and changes weights and optimizer states in place (``optimizer.descend(loss)``), branches on nothing but
    the configuration and shapes, counts nothing in Python and returns a dict of tensors.
    """
    setattr(method, _MARK, True)
    return method


def tensor_functions(cls: type) -> list[str]:
    """Returns the names of the marked methods of a class."""
    return [name for name in dir(cls) if getattr(getattr(cls, name, None), _MARK, False)]


class CompiledFunction:
    """Calls a marked method compiled, once for each combination of shapes that its data come in.

    The first call of each compiles, which takes seconds (less with a warm cache). Random numbers come from torch's
    generator in the eager order. What cannot be compiled, or a machine without a C++ compiler, is said once, and the
    method runs eagerly from then on.

    Args:
        method: bound method that :func:`tensor_function` marks.
        model: what it trains; it is in train mode when the method runs.
        optimizers: all that the method may step.
        device: of the model.
    """

    def __init__(
        self,
        method: Callable[[dict[str, Any]], dict[str, Any]],
        model: torch.nn.Module,
        optimizers: Sequence[GuardedOptimizer],
        device: torch.device,
    ) -> None:
        self._method = method
        self._model = model
        self._optimizers = list(optimizers)
        self._name = f"{type(getattr(method, '__self__', None)).__name__}.{method.__name__}"
        self._compiled: dict[Any, Callable[[dict[str, Any]], dict[str, Any]]] = {}
        self._eager = any(optimizer.counts for optimizer in optimizers)
        if self._eager:
            _logger.warning(
                "policy.learn.compile: %s runs eagerly, since a momentum guard on gradients counts them", self._name
            )
        self._options: dict[str, Any] = {
            "fallback_random": True,
            "compile_threads": 1,
            "guard_filter_fn": torch.compiler.skip_all_guards_unsafe,  # the signature is what would be guarded
            **({"triton.cudagraphs": True} if device.type == "cuda" else {}),
        }

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        if self._eager:
            return self._method(data)
        if not self._model.training:
            self._model.train()
        for optimizer in self._optimizers:
            optimizer.prepare()
        key = signature(data)
        compiled = self._compiled.get(key)
        return self._first_call(key, data) if compiled is None else compiled(data)

    def _first_call(self, key: Any, data: dict[str, Any]) -> dict[str, Any]:
        if len(self._compiled) == _MAX_SIGNATURES:
            return self._give_up(data, f"its data come in more than {_MAX_SIGNATURES} combinations of shapes")
        compiled = torch.compile(_own_code(self._method), fullgraph=True, dynamic=False, options=self._options)
        started = time.perf_counter()
        try:
            with torch._dynamo.config.patch(trace_autograd_ops=True, allow_rnn=True):
                output = compiled(data)
        except (torch._dynamo.exc.TorchDynamoException, torch._inductor.exc.InductorError, RuntimeError) as error:
            reason = str(error).strip().split("\n")[0]
            return self._give_up(data, f"{type(error).__name__}: {reason}")
        self._compiled[key] = compiled
        _logger.info("policy.learn.compile: %s compiled in %.1f s", self._name, time.perf_counter() - started)
        return output

    def _give_up(self, data: dict[str, Any], reason: str) -> dict[str, Any]:
        _logger.warning("policy.learn.compile: %s runs eagerly, it cannot be compiled: %s", self._name, reason)
        self._eager = True
        return self._method(data)


def signature(data: Any) -> Any:
    """Returns what compiled code depends on in its data: names, shapes, strides, dtypes, and values of other kinds."""
    if isinstance(data, torch.Tensor):
        return data.shape, data.stride(), data.dtype
    if isinstance(data, Mapping):
        return tuple([(key, signature(value)) for key, value in data.items()])
    return data


def _own_code(method: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    """Returns a function with a code object of its own: what is compiled is kept by code object, and without guards
    one signature or policy must not meet the code of another."""

    def update(data: dict[str, Any]) -> Any:
        return method(data)

    return types.FunctionType(update.__code__.replace(), update.__globals__, None, None, update.__closure__)
