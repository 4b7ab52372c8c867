"""Rows that were chosen for batches, and how their choice is undone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nervex.data.columns import Columns
from nervex.data.window import Plan

# Of memory by itself, as NumPy and malloc give it; at other addresses kernels sum in another order.
_ALIGNMENT_BYTES = 16


@dataclass
class Before:
    """What a draw that was made ahead has changed, as it was before."""

    rng: Mapping[str, Any]
    limiter: Mapping[str, Any]
    newest_version: int
    written: int = 1
    drawn: int = 0  # numbers below ``written`` that were drawn since ``rng``, for the batches before it

    def later(self, batches: int, batch_size: int, policy_version: int | None, written: int, drawn: int) -> "Before":
        """Returns the same after ``batches`` further draws, which have taken so many numbers."""
        limiter = {**self.limiter, "sampled": self.limiter["sampled"] + batches * batch_size}
        newest = self.newest_version
        if policy_version is not None and batches:
            newest = max(newest, policy_version + batches - 1)
        return Before(self.rng, limiter, newest, written, drawn)


@dataclass(eq=False)
class Draw:
    """Rows chosen for one batch.

    Attributes:
        plan: windows of the rows.
        weight: importance weights float32 [B].
        before: of a draw that was made ahead, what it has changed.
        taken_back: the replay has changed since, and the draw is to be made again.
    """

    plan: Plan
    weight: np.ndarray
    before: Before | None = None
    taken_back: bool = False


def split_rows(tree: Columns, size: int, num: int) -> list[Columns]:
    """Returns ``num`` trees, each of so many rows, at addresses at which products of matrices round as they do for
    batches with memory of their own."""
    parts: list[Columns] = [{} for _ in range(num)]
    for key, value in tree.items():
        rows = split_rows(value, size, num) if isinstance(value, dict) else value.split(size)
        for part, own in zip(parts, rows, strict=True):
            part[key] = own if isinstance(own, dict) or own.data_ptr() % _ALIGNMENT_BYTES == 0 else own.clone()
    return parts
