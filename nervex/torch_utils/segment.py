"""Parts of a state that are large and rarely change as a whole."""

from collections.abc import Callable
from typing import Any


class Segment:
    """A leaf of a state tree that stands for a subtree, which a checkpoint keeps in a file of its own and does not
    write again as long as its stamp is the same.

    Args:
        name: unique in its tree; lower-case letters, digits, '_' and '-'.
        stamp: equal for equal contents, within this process; a string that no other process makes.
        read: returns the subtree; its arrays are copies.
    """

    __slots__ = ("name", "read", "stamp")

    def __init__(self, name: str, stamp: str, read: Callable[[], Any]) -> None:
        self.name = name
        self.stamp = stamp
        self.read = read


def part_contents(part: Any) -> Any:
    """Returns the subtree that a segment stands for, and anything else as it is."""
    return part.read() if isinstance(part, Segment) else part
