"""A tape of the kernels that a function of tensors calls: recorded while it runs, and played back without its Python.

What is recorded is what reaches torch's dispatcher, forward and backward, so that a playback calls the same kernels on
tensors of the same shapes in the same order and gives the same bits. Views of weights and tensors that never change are
made once. A function whose course depends on values, or that reads tensors from elsewhere, is not recorded.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten
_DEPENDS_ON_VALUES = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
_INDEXING = (_aten.index.Tensor, _aten.index_put_.default, _aten.index_put.default)  # of fixed shape unless by a mask
_DEPENDS_ON_GRADIENTS = {_aten.mkldnn_rnn_layer.default}  # leaves out what its backward needs where none is wanted
# ways out of torch, past its dispatcher
_EXITS = {Tensor.numpy, Tensor.tolist, Tensor.item, Tensor.__array__, Tensor.__bool__, Tensor.__int__, Tensor.__float__,
          Tensor.__index__, Tensor.__dlpack__, Tensor.data_ptr, Tensor.untyped_storage, Tensor.storage}  # fmt: skip
_SET_DATA = Tensor.data.__set__  # type: ignore[attr-defined]
_SPLITS = {torch.tensor_split, Tensor.tensor_split}  # read the places from a tensor
# write to their running mean and variance, which their schemas do not say
_MOVE_STATISTICS = {_aten.native_batch_norm.default: (3, 4), _aten.batch_norm.default: (3, 4)}
# the same tensor, as far as a playback without gradients is concerned
_SAME = {_aten.detach.default, _aten.alias.default, _aten.lift_fresh.default}
# made of a shape alone
_OF_SHAPE = {_aten.ones_like.default, _aten.zeros_like.default, _aten.full_like.default, _aten.new_zeros.default,
             _aten.new_ones.default, _aten.new_full.default}  # fmt: skip
# those with a binding of their own, which is called faster than by the operator; arguments are the same
_BOUND = {
    _aten.addmm.default: torch.addmm, _aten.mm.default: torch.mm, _aten.bmm.default: torch.bmm,
    _aten.baddbmm.default: torch.baddbmm, _aten.tanh.default: torch.tanh, _aten.relu.default: torch.relu,
    _aten.t.default: torch.t, _aten.exp.default: torch.exp, _aten.mul.Tensor: torch.mul, _aten.add.Tensor: torch.add,
    _aten.sub.Tensor: torch.sub, _aten.div.Tensor: torch.div, _aten.gather.default: torch.gather,
    _aten.linear.default: torch.nn.functional.linear,
}  # fmt: skip


class Unrecordable(Exception):
    """Why a function cannot be played back."""


@dataclass
class Call:
    """One operation with the tensors that went in and came out."""

    operation: Any
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    output: Any


class Recorder(TorchDispatchMode):
    """Notes the operations that run under it, and holds their tensors, so that none takes the place of another.

    Attributes:
        calls: the operations in order.
        refusal: why they cannot be played back, or None.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.refusal: str | None = None
        self._watch = _Watch(self)

    def __enter__(self) -> "Recorder":
        self._watch.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._watch.__exit__(*error)

    def made(self, tensor: Tensor | None) -> bool:
        """Whether an operation has made the tensor."""
        return tensor is not None and any(tensor is leaf for call in self.calls for leaf in _tensors(call.output))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        with torch._C.DisableTorchFunction():  # what an operation does within is its own affair
            output = func(*args, **(kwargs or {}))
        by_mask = func in _INDEXING and any(x.dtype in (torch.bool, torch.uint8) for x in _tensors(args[1]))
        if by_mask or (func not in _INDEXING and any(tag in _DEPENDS_ON_VALUES for tag in func.tags)):
            self.refusal = f"{func} makes its course depend on values"
        if func in _DEPENDS_ON_GRADIENTS:
            self.refusal = f"{func} computes something else without gradients"
        if func.namespace != "profiler":
            self.calls.append(Call(func, args, kwargs or {}, output))
        elif args and str(args[0]).startswith("Optimizer.step"):
            self.refusal = "an optimizer's step() takes its learning rate from Python; descend() does not"
        return output


class _Watch(TorchFunctionMode):
    """Sees what leaves torch, whose further way the dispatcher does not."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _EXITS or (func in _SPLITS and any(isinstance(value, Tensor) for value in args[1:])):
            self._recorder.refusal = f"{getattr(func, '__name__', func)} takes values out of torch"
        elif func == _SET_DATA:
            self._recorder.refusal = "a tensor's data are set, which no kernel does"
        return func(*args, **(kwargs or {}))


def build_playback(
    calls: Sequence[Call], inputs: Sequence[Tensor], live: Iterable[Tensor], output: Any
) -> tuple[Callable[[Sequence[Tensor]], Any], set[int]]:
    """Returns a function of the inputs that repeats the calls, and the ids of the ``live`` tensors that it reads or
    writes.

    Args:
        calls: what a :class:`Recorder` has noted.
        inputs: tensors that the function was given.
        live: tensors that are read and written where they lie, such as weights.
        output: what the function returned: tensors and plain values in dicts, lists and tuples.

    Raises:
        Unrecordable: a tensor came from nowhere, or a value of the output is of another kind.
    """
    return _Writer(calls, inputs, live, output).build()


class _Writer:
    """Writes the source of a playback: one line per operation, on local names.

    A tensor's name is ``i`` (input), ``t`` (made in the playback) or ``c`` (constant: live, a view of a live one, or
    never changed) with a number.
    """

    def __init__(self, calls: Sequence[Call], inputs: Sequence[Tensor], live: Iterable[Tensor], output: Any) -> None:
        self._calls = calls
        self._output = output
        self._live = {id(tensor): tensor for tensor in live}
        self._names = {id(tensor): f"i{n}" for n, tensor in enumerate(inputs)}
        if len(self._names) < len(inputs) or self._names.keys() & self._live.keys():
            raise Unrecordable("a tensor is given twice")
        self._inputs = list(inputs)
        self._constants: dict[str, Any] = {}
        self._bound: dict[int, str] = {}  # id of a constant -> its name
        self._aliases: set[str] = set()  # constants whose memory is that of live tensors
        self._shared: set[str] = set()  # names that stand for more than one tensor
        self._used: set[int] = set()
        self._transposed: dict[str, Tensor] = {}  # name of a transposed matrix -> the matrix
        self._changed = self._storages_that_change()
        self._lines: list[tuple[str, str, list[str], bool]] = []  # target, expression, names read, must run

    def build(self) -> tuple[Callable[[Sequence[Tensor]], Any], set[int]]:
        for call in self._calls:
            self._add(call)
        result = self._returned(self._output)
        kept = self._needed(result.names)
        source = self._source(kept, result)
        scope: dict[str, Any] = {}
        exec(source, dict(self._constants), scope)
        return scope["play"], self._used

    def _storages_that_change(self) -> set[int]:
        """Of what is written in place, and of what is returned, which the caller may write to."""
        changed = {_storage(leaf) for leaf in _tensors(self._output)}
        for call in self._calls:
            changed.update(_storage(leaf) for leaf in _statistics(call))
            if call.operation._schema.is_mutable:
                for argument, given in _arguments(call):
                    if argument.alias_info is not None and argument.alias_info.is_write:
                        changed.update(_storage(leaf) for leaf in _tensors(given))
        return changed

    def _add(self, call: Call) -> None:
        operation, outputs = call.operation, list(_tensors(call.output))
        read = [*_tensors(call.args), *_tensors(call.kwargs)]
        if not outputs and not operation._schema.is_mutable and operation._schema.returns:
            return  # a question about shapes
        if operation in _SAME:
            self._names[id(outputs[0])] = self._name(read[0])
            self._shared.add(self._name(read[0]))
            return
        if torch.Tag.inplace_view in operation.tags and self._name(read[0]) in self._shared:
            raise Unrecordable(f"{operation} gives a tensor another shape, and not those that share its memory")
        if call.kwargs.get("generator") is not None:
            raise Unrecordable(f"{operation} draws from a generator of its own")
        constant = self._constant(call, outputs, read)
        if constant is not None:
            value = constant.detach()
            self._names[id(outputs[0])] = self._bind("c", value)
            if self._is_alias(read):
                self._aliases.add(self._names[id(outputs[0])])
            return
        if operation is _aten.t.default:
            back = self._transposed.get(self._name(read[0]))
            if back is not None:  # transposed twice: backward passes do that to the gradient of every weight
                self._names[id(outputs[0])] = self._name(back)
                return
        self._write(call, outputs)
        if operation is _aten.t.default:
            self._transposed[self._name(outputs[0])] = read[0]

    def _constant(self, call: Call, outputs: list[Tensor], read: list[Tensor]) -> Tensor | None:
        """The one output, when it is the same tensor in every playback."""
        operation = call.operation
        if operation._schema.is_mutable or not isinstance(call.output, Tensor):
            return None
        if operation.is_view and read and all(self._name(tensor)[0] == "c" for tensor in read):
            with torch.no_grad():
                remade: Tensor = operation(*call.args, **call.kwargs)
            return remade
        if torch.Tag.nondeterministic_seeded in operation.tags or _storage(outputs[0]) in self._changed:
            return None
        of_shape = operation in _OF_SHAPE or not read
        fixed = all((name := self._name(tensor))[0] == "c" and name not in self._aliases for tensor in read)
        return outputs[0] if of_shape or fixed else None

    def _is_alias(self, read: list[Tensor]) -> bool:
        return any(self._name(tensor) in self._aliases for tensor in read)

    def _write(self, call: Call, outputs: list[Tensor]) -> None:
        operation = call.operation
        function = self._bind("f", _BOUND.get(operation, operation._op))
        given = [self._literal(value) for value in call.args]
        named = {key: self._literal(value) for key, value in call.kwargs.items()}
        words = [part.text for part in given] + [f"{key}={part.text}" for key, part in named.items()]
        names = [name for part in (*given, *named.values()) for name in part.names]
        own = {id(leaf) for leaf in (*_tensors(call.args), *_tensors(call.kwargs))}
        for leaf in outputs:
            if id(leaf) not in own:  # what is written in place keeps its name
                self._names[id(leaf)] = f"t{len(self._names)}"
        target = self._target(call.output, own)
        must_run = (
            operation._schema.is_mutable
            or torch.Tag.nondeterministic_seeded in operation.tags
            or not operation._schema.returns  # a check that may raise
            or any(True for _ in _statistics(call))
        )
        self._lines.append((target, f"{function}({', '.join(words)})", names, must_run))

    def _target(self, output: Any, own: set[int]) -> str:
        if isinstance(output, Tensor):
            return "_" if id(output) in own else self._names[id(output)]
        if isinstance(output, list | tuple):
            return ", ".join(self._target(leaf, own) for leaf in output) + ("," if len(output) == 1 else "")
        return "_"

    def _needed(self, returned: list[str]) -> list[tuple[str, str, list[str], bool]]:
        """The lines that something depends on."""
        wanted, kept = set(returned), []
        for line in reversed(self._lines):
            target, _, names, must_run = line
            if must_run or wanted & set(target.replace(",", " ").split()):
                kept.append(line)
                wanted.update(names)
        return kept[::-1]

    def _source(self, lines: list[tuple[str, str, list[str], bool]], result: "_Literal") -> str:
        last = {name: i for i, (_, _, names, _) in enumerate(lines) for name in names}
        kept = {*result.names}
        body = []
        if self._inputs:
            body.append(f"{', '.join(f'i{n}' for n in range(len(self._inputs)))}, = inputs")
        for i, (target, expression, names, _) in enumerate(lines):
            body.append(f"{target} = {expression}" if target != "_" else expression)
            made = [name for name in target.replace(",", " ").split() if name != "_" and name not in last]
            over = sorted({name for name in (*names, *made) if name[0] == "t" and last.get(name, i) == i} - kept)
            if over:
                body.append(f"del {', '.join(over)}")
        body.append(f"return {result.text}")
        head = "".join(f", {name}={name}" for name in self._constants)
        return f"def play(inputs{head}):\n    " + "\n    ".join(body) + "\n"

    def _name(self, tensor: Tensor) -> str:
        name = self._names.get(id(tensor))
        if name is None:
            if id(tensor) not in self._live:
                raise Unrecordable(f"it reads a tensor of shape {tuple(tensor.shape)} from elsewhere")
            self._used.add(id(tensor))
            name = self._names[id(tensor)] = self._bind("c", tensor)
            self._aliases.add(name)
        return name

    def _bind(self, kind: str, value: Any) -> str:
        if id(value) not in self._bound:
            name = f"{kind}{len(self._constants)}"
            self._bound[id(value)], self._constants[name] = name, value
        return self._bound[id(value)]

    def _returned(self, value: Any) -> "_Literal":
        """The literal of an output, of whose weights others are to get no hold, and which others may write to."""
        if isinstance(value, Tensor):
            name = self._name(value)
            return _Literal(f"{name}.detach()" if name in self._aliases else name, [name])
        if type(value) is dict:
            parts = {key: self._returned(item) for key, item in value.items()}
            text = ", ".join(f"{key!r}: {part.text}" for key, part in parts.items())
            return _Literal(f"{{{text}}}", [name for part in parts.values() for name in part.names])
        if type(value) in (list, tuple):
            items = [self._returned(item) for item in value]
            inner = ", ".join(part.text for part in items)
            text = f"[{inner}]" if type(value) is list else f"({inner}{',' if len(items) == 1 else ''})"
            return _Literal(text, [name for part in items for name in part.names])
        if isinstance(value, float):
            raise Unrecordable("it returns a number of Python's, which may be another one next time")
        if value is None or isinstance(value, bool | int | str):
            return _Literal(repr(value), [])
        raise Unrecordable(f"it returns a {type(value).__name__}")

    def _literal(self, value: Any) -> "_Literal":
        if isinstance(value, Tensor):
            name = self._name(value)
            return _Literal(name, [name])
        if value is None or isinstance(value, bool | int | str):
            return _Literal(repr(value), [])
        if type(value) in (list, tuple):
            items = [self._literal(item) for item in value]
            names = [name for part in items for name in part.names]
            inner = ", ".join(part.text for part in items)
            if names and all(name[0] == "c" for name in names):  # a list of weights: made once
                bound = [self._constants[name] for name in names]
                if len(bound) == len(value):
                    return _Literal(self._bind("c", bound), names)
            return _Literal(
                f"[{inner}]" if type(value) is list else f"({inner}{',' if len(items) == 1 else ''})", names
            )
        if isinstance(value, float | torch.dtype | torch.device | torch.layout | torch.memory_format):
            return _Literal(self._bind("c", value), [])
        raise Unrecordable(f"a {type(value).__name__} among its values")


@dataclass
class _Literal:
    """Text of a value in the source, and the names of the tensors in it."""

    text: str
    names: list[str]


def _tensors(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _statistics(call: Call) -> Iterable[Tensor]:
    """Yields the running statistics that a normalization moves."""
    for i in _MOVE_STATISTICS.get(call.operation, ()):
        yield from _tensors(call.args[i])


def _arguments(call: Call) -> Iterable[tuple[Any, Any]]:
    """Yields the arguments of the schema with what was given for them."""
    for i, argument in enumerate(call.operation._schema.arguments):
        if i < len(call.args) and not argument.kwarg_only:
            yield argument, call.args[i]
        elif argument.name in call.kwargs:
            yield argument, call.kwargs[argument.name]


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
