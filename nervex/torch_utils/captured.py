"""Functions of tensors that are played back from a tape of their kernels: the same bits without the Python between.

An update or a forward of a small network spends most of its time in Python. On a CPU, where nothing has to be compiled
for it, it runs as it is written the first time that its data come in some combination of shapes, and is recorded while
it does the second time. The third time it runs as written and the tape is played, from the same state: only a tape
that gives the same bits, in what is returned, in every weight and in the state of the random numbers, is played from
then on.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nervex.torch_utils.guarded_optimizer import GuardedOptimizer
from nervex.torch_utils.kernel_tape import Recorder, Unrecordable, build_playback
from nervex.torch_utils.surroundings import Surroundings, Unwatchable, changed_names, modes_of, reads_of

_logger = logging.getLogger("nervex")
_MAX_SIGNATURES = 8
_VALUES = {type(None), bool, int, float, str, torch.dtype}
_MAX_RECORDINGS = 40


class CapturedFunction:
    """Calls a function of tensors, once recorded and proven, by playing its kernels.

    It is recorded for each combination of shapes that its data come in and of modes of its modules, and again when a
    weight was replaced by another tensor, or something that it has read of the modules or of ``holder`` is another one.
    What depends on values, sets attributes, or has modules that nerveX and torch do not know or that carry hooks, whose
    Python would be left out, runs as it is.

    Args:
        function: of a tree of tensors; it branches on nothing but the configuration and shapes, and changes tensors of
            ``modules``, ``optimizers`` and ``holder`` in place.
        modules: whose tensors it reads and writes.
        optimizers: what it may step.
        holder: object whose attributes it reads: plain values, tensors (which it may write to), and other objects.
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
        self._parts = [part for module in modules for part in module.modules()]
        self._optimizers = list(optimizers)
        self._holder = holder
        self._tapes: dict[Any, _Tape | None] = {}
        self._recordings = 0
        self.refusal: str | None = None  # why it always runs as it is
        if any(optimizer.counts for optimizer in optimizers):
            self.refusal = "a momentum guard on gradients counts them"

    @property
    def tapes(self) -> list["_Tape | None"]:
        """One per combination of shapes and modes that was met; None: not recorded yet."""
        return list(self._tapes.values())

    def __call__(self, data: Any) -> Any:
        if self.refusal is not None or _is_watched():
            return self._function(data)
        states = [optimizer.prepare() for optimizer in self._optimizers]
        inputs: list[Tensor] = []
        try:
            key = (_signature(data, inputs), modes_of(self._parts))
        except Unrecordable as error:
            return self._refuse(str(error), data)
        tape = self._tapes.get(key)
        if tape is not None:
            if tape.surroundings.hooked():
                return self._function(data)
            if tape.surroundings.unchanged(states):
                return tape.play(inputs) if tape.proven else self._prove(tape, data, inputs)
        if key in self._tapes:
            return self._record(key, data, inputs)
        if len(self._tapes) < _MAX_SIGNATURES:
            self._tapes[key] = None
        return self._function(data)

    def _record(self, key: Any, data: Any, inputs: list[Tensor]) -> Any:
        self._recordings += 1
        if self._recordings > _MAX_RECORDINGS:
            return self._refuse("what it reads is replaced again and again", data)
        around = Surroundings(self._modules, self._optimizers, self._holder)
        reason = around.strange()
        if reason is not None:
            return self._refuse(reason, data)
        self._parts = around.parts
        modes = modes_of(self._parts)
        had_grad = {id(p): p.grad is not None for optimizer in self._optimizers for p in optimizer.trained}
        output, ran = None, False
        try:
            with reads_of(self._holder) as read, Recorder() as recorder:
                output = self._function(data)
            ran = True
            if recorder.refusal is not None:
                raise Unrecordable(recorder.refusal)
            trained = [p for optimizer in self._optimizers for p in optimizer.trained if recorder.made(p.grad)]
            play, used = build_playback(recorder.calls, inputs, around.tensors, (output, [p.grad for p in trained]))
            around.settle(used, trained, [had_grad[id(p)] for p in trained], read)
            self._tapes.pop(key)
            turned = [
                (part, part.training) for part, mode in zip(self._parts, modes, strict=True) if part.training != mode
            ]
            self._tapes[key[0], modes] = _Tape(play, trained, around, turned)
        except (Unrecordable, Unwatchable) as error:
            self._note(str(error))
        return output if ran else self._function(data)

    def _prove(self, tape: "_Tape", data: Any, inputs: list[Tensor]) -> Any:
        """Runs the function as it is written and plays the tape, both from here; keeps the tape if both end alike, and
        do so with other learning rates too, which the function may have read in Python."""
        kept = {} if self._holder is None else vars(self._holder)
        attributes = dict(kept)
        with _other_rates(self._optimizers):
            before = _Moment(tape, inputs)
            try:
                _, _, alike_then = self._both(tape, data, inputs, before)
            finally:
                before.restore()
        output, expected, alike = self._both(tape, data, inputs, _Moment(tape, inputs))
        changed = changed_names(attributes, kept)
        if changed:
            self._note(f"it sets {changed}")
        elif not tape.surroundings.unchanged([optimizer.prepare() for optimizer in self._optimizers]):
            self._note("it changes what it reads")
        elif alike and alike_then:
            tape.proven = True
        else:
            self._note("a playback gave something else")
        expected.restore()
        return output

    def _both(self, tape: "_Tape", data: Any, inputs: list[Tensor], before: "_Moment") -> tuple[Any, "_Moment", bool]:
        """Runs the function, and plays the tape from ``before``, where it began; returns what the function returned,
        how all was then, and whether the tape gave the same."""
        output = self._function(data)
        expected = _Moment(tape, inputs)
        before.restore()
        played = tape.play(inputs)
        return output, expected, _equal(played, output) and _Moment(tape, inputs).equals(expected)

    def _refuse(self, reason: str, data: Any) -> Any:
        self._note(reason)
        return self._function(data)

    def _note(self, reason: str) -> None:
        self.refusal = reason
        self._tapes.clear()
        name = getattr(self._function, "__qualname__", type(self._function).__name__)
        _logger.debug("%s is not played from a tape: %s", name, reason)


class _Tape:
    """A playback, and what it was recorded of.

    Attributes:
        proven: it has given what the function gives.
    """

    def __init__(
        self,
        play: Callable[[Sequence[Tensor]], Any],
        trained: Sequence[Tensor],
        surroundings: Surroundings,
        turned: Sequence[tuple[nn.Module, bool]],
    ) -> None:
        self._play = play
        self._turned = turned
        self.trained = trained
        self.surroundings = surroundings
        self.proven = False

    def play(self, inputs: Sequence[Tensor]) -> Any:
        """Returns what the function would return for these inputs."""
        enabled = torch.is_grad_enabled()
        torch._C._set_grad_enabled(False)
        try:
            output, gradients = self._play(inputs)
        finally:
            torch._C._set_grad_enabled(enabled)
        for p, grad in zip(self.trained, gradients, strict=True):
            p.grad = grad
        for part, mode in self._turned:
            part.training = mode
        return output


class _Moment:
    """All that a function may have written to, as it is now."""

    def __init__(self, tape: _Tape, inputs: Sequence[Tensor]) -> None:
        self._live = [*tape.surroundings.tensors, *inputs]
        self._saved = [tensor.detach().clone() for tensor in self._live]
        self._grads = [(p, p.grad) for p in tape.trained]
        self._modes = [(part, part.training) for part in tape.surroundings.parts]
        self._random = torch.get_rng_state()

    def restore(self) -> None:
        """Puts it all back."""
        with torch.no_grad():
            for tensor, saved in zip(self._live, self._saved, strict=True):
                if not _equal(tensor, saved):
                    tensor.copy_(saved)
        for p, grad in self._grads:
            p.grad = grad
        for part, mode in self._modes:
            part.training = mode
        torch.set_rng_state(self._random)

    def equals(self, other: "_Moment") -> bool:
        """Whether both are the same, bit by bit."""
        return (
            _equal([self._saved, self._random], [other._saved, other._random])
            and _equal([grad for _, grad in self._grads], [grad for _, grad in other._grads])
            and [mode for _, mode in self._modes] == [mode for _, mode in other._modes]
        )


@contextmanager
def _other_rates(optimizers: Sequence[GuardedOptimizer]) -> Iterator[None]:
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    rates = [group["lr"] for group in groups]
    try:
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = float(rate) / 2
        for optimizer in optimizers:
            optimizer.prepare()
        yield
    finally:
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
        for optimizer in optimizers:
            optimizer.prepare()


def _is_watched() -> bool:
    """Whether something outside of the function looks at its operations or changes them."""
    return bool(
        torch._C._len_torch_dispatch_stack()
        or torch.is_anomaly_enabled()
        or torch.is_autocast_enabled("cpu")
        or torch.compiler.is_compiling()
    )


def _equal(value: Any, other: Any) -> bool:
    """Whether two trees are of the same types and bits."""
    if isinstance(value, Tensor) and isinstance(other, Tensor):
        if (value.shape, value.dtype) != (other.shape, other.dtype):
            return False
        one, two = (t.detach().contiguous().view(-1).view(torch.uint8) for t in (value, other))
        return torch.equal(one, two)
    if type(value) is not type(other):
        return False
    if isinstance(value, dict):
        return list(value) == list(other) and all(_equal(value[key], other[key]) for key in value)
    if isinstance(value, list | tuple):
        return len(value) == len(other) and all(map(_equal, value, other))
    return bool(value == other)


def _signature(data: Any, inputs: list[Tensor]) -> Any:
    """Returns what the kernels depend on: names, shapes, strides, dtypes, and values of other kinds; adds the tensors
    to ``inputs`` in their order."""
    kind = type(data)
    if kind is dict:
        return tuple([(key, _signature(value, inputs)) for key, value in data.items()])
    if kind in _VALUES:
        return kind, data
    if isinstance(data, Tensor):
        if data.layout is not torch.strided:
            raise Unrecordable("a sparse tensor among its data")
        inputs.append(data)
        return data.shape, data.stride(), data.dtype
    if isinstance(data, Mapping):
        return kind, _signature(dict(data), inputs)
    if isinstance(data, list | tuple):
        return kind, tuple([_signature(value, inputs) for value in data])
    raise Unrecordable(f"a {kind.__name__} among its data")
