"""Whether what modules and other objects hold is still what they held before, asked before every update."""

from collections.abc import Iterable, Iterator
from operator import getitem, is_
from typing import Any

from torch import nn

Place = tuple[dict[str, Any], str, Any]
"""The attributes that something keeps, a name among them, and its value."""


class Held:
    """Values at the places where they were found.

    Args:
        places: to be watched.
        owners: keepers that get no further names and lose none.
    """

    def __init__(self, places: Iterable[Place], owners: Iterable[dict[str, Any]] = ()) -> None:
        watched = list(places)
        self._kept = [kept for kept, _, _ in watched]
        self._names = [name for _, name, _ in watched]
        self._values = [value for _, _, value in watched]
        self._owners = list(owners)
        self._sizes = list(map(len, self._owners))

    def unchanged(self) -> bool:
        """Returns whether the same objects are still there."""
        try:
            same = all(map(is_, map(getitem, self._kept, self._names), self._values))
        except KeyError:
            return False
        return same and list(map(len, self._owners)) == self._sizes


def module_keepers(module: nn.Module) -> Iterator[dict[str, Any]]:
    """Yields what keeps the parts, parameters and buffers of a module and of all its parts."""
    for part in module.modules():
        yield from (part._modules, part._parameters, part._buffers)


def places_in(keepers: Iterable[dict[str, Any]]) -> Iterator[Place]:
    """Yields all that they keep."""
    for kept in keepers:
        yield from ((kept, name, value) for name, value in kept.items())
