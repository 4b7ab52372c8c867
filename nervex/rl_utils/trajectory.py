"""What an actor hands to ``_get_train_sample``: a block of consecutive rows of some lanes."""

from collections.abc import Iterator, Sequence
from typing import Any, overload

import torch
from torch import Tensor

from nervex.utils.tree import tree_map

Columns = dict[str, Any]


class Trajectory(Sequence):
    """Rows of ``b`` lanes over ``T`` steps, as columns ``[T, b, ...]``; also a sequence of ``T`` row dicts.

    Besides what the policy's ``_process_transition`` returned, the columns hold the reserved ones that the actor
    writes: ``valid`` (the row is a transition; dummy rows after an episode's end and padding are not),
    ``terminated``, ``truncated``, all bool [T, b], and the ids.

    Attributes:
        columns: nested dict of tensors [T, b, ...].
        last_obs: observation after the last row of each lane, nested tensors [b, ...] (row T of ``obs``), or None.
        return_num: how many of the last rows the actor must put before the lanes' next block.
        unroll_len: rows of one training item; above 1, the columns are [unroll_len, items, ...].
        length: rows of each lane, int64 [b], when they differ (padded whole episodes); else None.
        dropped: windows left out because a time limit cut them short and the loss cannot bootstrap them.
    """

    def __init__(
        self,
        columns: Columns,
        last_obs: Any = None,
        return_num: int = 0,
        unroll_len: int = 1,
        dropped: int = 0,
        length: Tensor | None = None,
    ) -> None:
        self.columns = columns
        self.last_obs = last_obs
        self.return_num = return_num
        self.unroll_len = unroll_len
        self.dropped = dropped
        self.length = length

    def __len__(self) -> int:
        return int(self.columns["valid"].shape[0])

    @property
    def lane_num(self) -> int:
        """Number of lanes b."""
        return int(self.columns["valid"].shape[1])

    @overload
    def __getitem__(self, key: str) -> Any: ...
    @overload
    def __getitem__(self, key: int) -> Columns: ...
    @overload
    def __getitem__(self, key: slice) -> "Trajectory": ...
    def __getitem__(self, key: str | int | slice) -> Any:
        if isinstance(key, str):
            return self.columns[key]
        picked: Any = tree_map(lambda x: x[key], self.columns)
        return Trajectory(picked) if isinstance(key, slice) else picked

    def __contains__(self, key: object) -> bool:
        return key in self.columns

    def __iter__(self) -> Iterator[Columns]:
        return (self[t] for t in range(len(self)))

    @classmethod
    def from_rows(cls, rows: Sequence[Columns]) -> "Trajectory":
        """Stacks transitions of one lane into a trajectory [T, 1, ...]; ``done`` stands for ``terminated`` when the
        rows do not tell the two apart."""
        plain = [{k: row[k] for k in row} for row in rows]
        columns: Columns = {k: _stack([row[k] for row in plain]) for k in plain[0]}
        for key in {"reward", "done"} & columns.keys():
            if columns[key].shape[2:] == (1,):  # the tutorial's envs give a reward of shape (1,)
                columns[key] = columns[key].squeeze(2)
        done = columns["done"].bool()
        columns.setdefault("truncated", torch.zeros_like(done))
        columns.setdefault("terminated", done & ~columns["truncated"])
        columns.setdefault("valid", torch.ones_like(done))
        return cls(columns)

    def to_rows(self) -> list[Columns]:
        """Valid rows as a list of transitions, time first, lane after lane."""
        valid: Tensor = self.columns["valid"]
        return [
            tree_map(lambda x, t=t, b=b: x[t, b], self.columns)
            for b in range(self.lane_num)
            for t in range(len(self))
            if valid[t, b]
        ]


def _stack(values: list[Any]) -> Any:
    if isinstance(values[0], dict):
        return {k: _stack([v[k] for v in values]) for k in values[0]}
    return torch.stack([torch.as_tensor(v) for v in values]).unsqueeze(1)
