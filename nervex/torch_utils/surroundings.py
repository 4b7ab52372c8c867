"""What a recorded function of tensors has read beside its data, and whether it is still the same."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import attrgetter
from threading import RLock
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks
from torch.optim import Optimizer

from nervex.torch_utils.guarded_optimizer import GuardedOptimizer
from nervex.torch_utils.held import Held, Place, module_keepers, places_in

_PLAIN = (bool, int, float, str)
_KNOWN = ("torch.nn.", "nervex.")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_HOOKS = [getattr(module_hooks, f"_global{name}") for name in _HOOKS]
_OF_EVERY_MODULE = set(vars(nn.Module()))  # the mode among them, which is part of what a tape is found by
_DEPTH = 4  # an agent, its sub-agents, one of them, its plugins
_MANY = 1000
_modes = attrgetter("training")
_class_of_holder = RLock()  # held while the class of a holder is another one


class Unwatchable(Exception):
    """Why what is read cannot be seen."""


class Surroundings:
    """The modules, optimizers and attributes that a function reads and writes, with the places where they are kept.

    Args:
        modules: whose tensors it reads and writes.
        optimizers: what it may step.
        holder: object whose attributes it reads, or None.
    """

    def __init__(self, modules: Sequence[nn.Module], optimizers: Sequence[GuardedOptimizer], holder: Any) -> None:
        self.attributes: dict[str, Any] = {} if holder is None else vars(holder)
        self.optimizers = [(optimizer, optimizer.prepare()) for optimizer in optimizers]
        self.parts = [part for module in modules for part in module.modules()]
        self._keepers = [kept for module in modules for kept in module_keepers(module)]
        self._hooks = [*_GLOBAL_HOOKS, *(getattr(part, name) for part in self.parts for name in _HOOKS)]
        kept = [
            *(vars(part) for part in self.parts),
            *self._keepers,
            *([self.attributes] if holder is not None else []),
        ]
        self._tensors: list[Place] = [place for place in places_in(kept) if isinstance(place[2], Tensor)]
        self._before = dict(self.attributes)
        self._read: list[tuple[str, Any]] = []
        self._absent: set[str] = set()

    @property
    def tensors(self) -> list[Tensor]:
        """All that may be read and written where they lie; a weight only where a known module keeps it."""
        weights = {
            id(p) for optimizer, _ in self.optimizers for group in optimizer.param_groups for p in group["params"]
        }
        states = [t for _, state in self.optimizers for t in state if id(t) not in weights]
        return [*(tensor for _, _, tensor in self._tensors), *states]

    def strange(self) -> str | None:
        """Returns why the Python of the modules and optimizers cannot be left out, or None."""
        for part in self.parts:
            if not type(part).__module__.startswith(_KNOWN):
                return f"{type(part).__name__} is a module of its own"
            if "forward" in vars(part):
                return f"{type(part).__name__} has a forward of its own"
            if any(
                p is not None and (p._backward_hooks or p._post_accumulate_grad_hooks)
                for p in part._parameters.values()
            ):
                return f"a parameter of {type(part).__name__} has hooks"
        if any(self._hooks):
            return "a module has hooks"
        if any(optimizer.hooked for optimizer, _ in self.optimizers):
            return "an optimizer has hooks"
        return None

    def settle(self, used: set[int], trained: Sequence[Tensor], had_grad: Sequence[bool], read: set[str]) -> None:
        """Keeps what :meth:`unchanged` is to look at.

        Args:
            used: ids of the tensors that were read or written.
            trained: parameters that were given gradients.
            had_grad: which of them had one before.
            read: names of the holder's attributes that were read.

        Raises:
            Unwatchable: the function has set an attribute, which a tape would not.
        """
        changed = changed_names(self._before, self.attributes)
        if changed:
            raise Unwatchable(f"it sets {changed}")
        places = [place for place in self._tensors if id(place[2]) in used]
        own = [(kept, name, v) for part in self.parts for kept, name, v in places_in([vars(part)])
               if name not in _OF_EVERY_MODULE]  # fmt: skip
        owners = [kept for part in self.parts for kept in (vars(part), part._modules)]
        self._trained = list(trained)
        self._had_grad = list(had_grad)
        self._watched = [tensor for _, _, tensor in places]
        self._lie = self._where()
        self._read = [(name, self.attributes[name]) for name in sorted(read & self.attributes.keys())]
        self._absent = read - self.attributes.keys()
        arrays = [name for name, value in self._read if isinstance(value, np.ndarray)]
        if arrays:
            raise Unwatchable(f"it reads {arrays}, whose numbers may change")
        inner: list[dict[str, Any]] = []
        for _, value in self._read:
            inner += _inside(value, _DEPTH, {id(self.attributes), *map(id, owners)})
        if sum(map(len, inner)) > _MANY:
            raise Unwatchable("it reads objects of too many parts to look at them before every call")
        self._held = Held([*places, *places_in(self._keepers), *own, *places_in(inner)], [*owners, *inner])

    def hooked(self) -> bool:
        """Whether functions of others are to run in between, which were not there when it was recorded."""
        return (
            any(self._hooks)
            or any(t._backward_hooks for t in self._trained)
            or any(optimizer.hooked for optimizer, _ in self.optimizers)
        )

    def unchanged(self, states: Sequence[list[Tensor]]) -> bool:
        """Whether all is what it was; ``states`` are those of the optimizers now."""
        return (
            self._held.unchanged()
            and self._where() == self._lie
            and all(_is_same(self.attributes.get(name), value) for name, value in self._read)
            and self._absent.isdisjoint(self.attributes)
            and all(now is then for now, (_, then) in zip(states, self.optimizers, strict=True))
            and [p.grad is not None for p in self._trained] == self._had_grad
        )

    def _where(self) -> list[Any]:
        return [*map(Tensor.data_ptr, self._watched), *map(Tensor.stride, self._watched)]


def modes_of(parts: Iterable[nn.Module]) -> tuple[bool, ...]:
    """Returns whether each of the modules is in training mode."""
    return tuple(map(_modes, parts))


def changed_names(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Returns the names whose value is another one, or which are only in one of them."""
    return sorted(
        name for name in before.keys() | after.keys()
        if name not in before or name not in after or not _is_same(after[name], before[name])
    )  # fmt: skip


@contextmanager
def reads_of(holder: Any) -> Iterator[set[str]]:
    """Yields the names of the attributes of ``holder`` that are read meanwhile.

    Raises:
        Unwatchable: its class cannot be derived from.
    """
    read: set[str] = set()
    if holder is None:
        yield read
        return
    with _class_of_holder:
        own: Any = type(holder)

        def look(self: Any, name: str) -> Any:
            read.add(name)
            return own.__getattribute__(self, name)

        told = getattr(own.__init_subclass__, "__func__", None)
        if told is not None and told.__module__ != "typing":
            raise Unwatchable(f"{own.__name__} wants to know its subclasses")
        try:
            holder.__class__ = type(own.__name__, (own,), {"__getattribute__": look, "__module__": own.__module__})
        except Exception as error:
            raise Unwatchable(f"what is read of a {own.__name__} cannot be seen: {error}") from error
        try:
            yield read
        finally:
            holder.__class__ = own


def _inside(value: Any, depth: int, seen: set[int]) -> list[dict[str, Any]]:
    """Returns what keeps the parts of a value, of these, and so on; modules, optimizers and tensors have their own."""
    kept: Any = value if isinstance(value, dict) else getattr(value, "__dict__", None)
    stranger = kept is not value and not type(value).__module__.startswith("nervex.")
    if depth == 0 or not isinstance(kept, dict) or not kept or id(kept) in seen:
        return []
    if isinstance(value, Tensor | nn.Module | Optimizer | type) or (stranger and callable(value)):
        return []
    seen.add(id(kept))
    depth = 1 if stranger else depth
    return [kept, *(part for item in list(kept.values()) for part in _inside(item, depth - 1, seen))]


def _is_same(value: Any, before: Any) -> bool:
    return value is before or (type(before) in _PLAIN and type(value) is type(before) and value == before)
