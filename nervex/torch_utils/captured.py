"""Functions of tensors that are played back from a tape of their kernels: the same bits without the Python between.

An update or a forward of a small network spends most of its time in Python. On a CPU, where nothing has to be compiled
for it, it runs as it is written the first time that its data come in some combination of shapes, and is recorded while
it does the second time; from then on the tape is played.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nervex.torch_utils.guarded_optimizer import GuardedOptimizer
from nervex.torch_utils.held import Held, Place
from nervex.torch_utils.kernel_tape import Recorder, Unrecordable, build_playback

_logger = logging.getLogger("nervex")
_MAX_SIGNATURES = 8
_MAX_RECORDINGS = 40
_PLAIN = (bool, int, float, str)
_KNOWN = ("torch.nn.", "nervex.")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class CapturedFunction:
    """Calls a function of tensors, once recorded, by playing its kernels.

    It is recorded for each combination of shapes that its data come in, and again when a weight was replaced by another
    tensor, or an attribute of ``holder`` that it has read is another one. What depends on values, or has modules that
    nerveX and torch do not know or that carry hooks, whose Python would be left out, runs as it is.

    Args:
        function: of a tree of tensors; it branches on nothing but the configuration and shapes, and changes tensors of
            ``modules``, ``optimizers`` and ``holder`` in place.
        modules: whose tensors it reads and writes.
        optimizers: what it may step.
        holder: object whose attributes it reads: plain values, tensors (which it may write to), and other objects that
            do not change.
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        modules: Sequence[nn.Module],
        optimizers: Sequence[GuardedOptimizer] = (),
        holder: Any = None,
    ) -> None:
        self._function = function
        self._modules = list(modules)
        self._optimizers = list(optimizers)
        self._holder = holder
        self._tapes: dict[Any, _Tape | None] = {}
        self._recordings = 0
        self.refusal: str | None = None  # why it always runs as it is
        if any(optimizer.counts for optimizer in optimizers):
            self.refusal = "a momentum guard on gradients counts them"

    @property
    def tapes(self) -> list["_Tape | None"]:
        """One per combination of shapes that was met; None: not recorded yet."""
        return list(self._tapes.values())

    def __call__(self, data: Any) -> Any:
        if self.refusal is not None or torch._C._len_torch_dispatch_stack() or torch.compiler.is_compiling():
            return self._function(data)
        states = [optimizer.prepare() for optimizer in self._optimizers]
        inputs: list[Tensor] = []
        try:
            key = _signature(data, inputs)
        except Unrecordable as error:
            return self._refuse(str(error), data)
        tape = self._tapes.get(key)
        if tape is not None:
            if tape.is_hooked():
                return self._function(data)
            if tape.is_sound(states):
                return tape.play(inputs)
        if key in self._tapes:
            return self._record(key, data, inputs)
        if len(self._tapes) < _MAX_SIGNATURES:
            self._tapes[key] = None
        return self._function(data)

    def _record(self, key: Any, data: Any, inputs: list[Tensor]) -> Any:
        reason = "an optimizer has hooks" if any(o.hooked for o in self._optimizers) else _strange(self._modules)
        if reason is not None:
            return self._refuse(reason, data)
        self._recordings += 1
        if self._recordings > _MAX_RECORDINGS:
            return self._refuse("what it reads is replaced again and again", data)
        live = _Live(self._modules, self._optimizers, self._holder)
        output, ran = None, False
        try:
            with _reads(self._holder) as read, Recorder() as recorder:
                output = self._function(data)
            ran = True
            if recorder.refusal is not None:
                raise Unrecordable(recorder.refusal)
            trained = [p for optimizer in self._optimizers for p in optimizer.trained if recorder.made(p.grad)]
            play, used = build_playback(recorder.calls, inputs, live.tensors, (output, [p.grad for p in trained]))
            kept = {} if self._holder is None else vars(self._holder)
            self._tapes[key] = _Tape(
                play, live, used, trained, kept, [(name, kept[name]) for name in read & kept.keys()]
            )
        except Unrecordable as error:
            self._note(str(error))
        return output if ran else self._function(data)

    def _refuse(self, reason: str, data: Any) -> Any:
        self._note(reason)
        return self._function(data)

    def _note(self, reason: str) -> None:
        self.refusal = reason
        name = getattr(self._function, "__qualname__", type(self._function).__name__)
        _logger.debug("%s is not played from a tape: %s", name, reason)


class _Live:
    """The tensors that are read and written where they lie, with the places where they are kept."""

    def __init__(self, modules: Sequence[nn.Module], optimizers: Sequence[GuardedOptimizer], holder: Any) -> None:
        self.places: list[Place] = []
        self.optimizers = [(optimizer, optimizer.prepare()) for optimizer in optimizers]
        parts = [part for module in modules for part in module.modules()]
        for part in parts:
            for kept in (part._parameters, part._buffers, vars(part)):
                self._add(kept)
        self.parts = [(part._modules, name, child) for part in parts for name, child in part._modules.items()]
        self.hooks = [getattr(part, name) for part in parts for name in _HOOKS]
        if holder is not None:
            self._add(vars(holder))

    def _add(self, kept: dict[str, Any]) -> None:
        self.places += [(kept, name, value) for name, value in kept.items() if isinstance(value, Tensor)]

    @property
    def tensors(self) -> Iterable[Tensor]:
        """All of them."""
        yield from (tensor for _, _, tensor in self.places)
        for _, state in self.optimizers:
            yield from state


class _Tape:
    """A playback, and what it was recorded of."""

    def __init__(
        self,
        play: Callable[[Sequence[Tensor]], Any],
        live: _Live,
        used: set[int],
        trained: Sequence[Tensor],
        attributes: dict[str, Any],
        read: list[tuple[str, Any]],
    ) -> None:
        self._play = play
        self._trained = trained
        self._attributes = attributes
        self._read = read
        self._module_hooks = live.hooks
        places = [place for place in live.places if id(place[2]) in used]
        self._tensors = [tensor for _, _, tensor in places]
        self._addresses = [tensor.data_ptr() for tensor in self._tensors]
        self._held = Held([*places, *live.parts])
        self._optimizers = live.optimizers

    def is_hooked(self) -> bool:
        """Whether functions of others are to run in between, which were not there when it was recorded."""
        return (
            any(self._module_hooks)
            or any(t._backward_hooks for t in self._trained)
            or any(optimizer.hooked for optimizer, _ in self._optimizers)
        )

    def is_sound(self, states: Sequence[list[Tensor]]) -> bool:
        """Whether all tensors and attributes are what they were; ``states`` are those of the optimizers now."""
        return (
            self._held.unchanged()
            and list(map(Tensor.data_ptr, self._tensors)) == self._addresses
            and all(_is_same(self._attributes.get(name), value) for name, value in self._read)
            and all(now is then for now, (_, then) in zip(states, self._optimizers, strict=True))
        )

    def play(self, inputs: Sequence[Tensor]) -> Any:
        """Returns what the function would return for these inputs."""
        enabled = torch.is_grad_enabled()
        torch._C._set_grad_enabled(False)
        try:
            output, gradients = self._play(inputs)
        finally:
            torch._C._set_grad_enabled(enabled)
        for p, grad in zip(self._trained, gradients, strict=True):
            p.grad = grad
        return output


def _is_same(value: Any, before: Any) -> bool:
    return value is before or (type(before) in _PLAIN and type(value) is type(before) and value == before)


@contextmanager
def _reads(holder: Any) -> Iterator[set[str]]:
    """Yields the names of the attributes of ``holder`` that are read meanwhile.

    Raises:
        Unrecordable: its class cannot be derived from.
    """
    read: set[str] = set()
    if holder is None:
        yield read
        return
    own: Any = type(holder)

    def look(self: Any, name: str) -> Any:
        read.add(name)
        return own.__getattribute__(self, name)

    try:
        watched = type(own.__name__, (own,), {"__getattribute__": look, "__module__": own.__module__})
        holder.__class__ = watched
    except Exception as error:
        raise Unrecordable(f"what is read of a {own.__name__} cannot be seen: {error}") from error
    try:
        yield read
    finally:
        holder.__class__ = own


def _strange(modules: Iterable[nn.Module]) -> str | None:
    """Returns why the Python of the modules cannot be left out, or None."""
    for module in modules:
        for part in module.modules():
            if not type(part).__module__.startswith(_KNOWN):
                return f"{type(part).__name__} is a module of its own"
            if any(getattr(part, name) for name in _HOOKS):
                return f"{type(part).__name__} has hooks"
    return None


def _signature(data: Any, inputs: list[Tensor]) -> Any:
    """Returns what the kernels depend on: names, shapes, strides, dtypes, and values of other kinds; adds the tensors
    to ``inputs`` in their order."""
    if isinstance(data, Tensor):
        inputs.append(data)
        return data.shape, data.stride(), data.dtype
    if isinstance(data, Mapping):
        return tuple([(key, _signature(value, inputs)) for key, value in data.items()])
    if isinstance(data, list | tuple):
        return type(data), tuple([_signature(value, inputs) for value in data])
    if data is None or isinstance(data, bool | int | float | str | torch.dtype):
        return type(data), data
    raise Unrecordable(f"a {type(data).__name__} among its data")
