"""A block of lanes as a policy receives it."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from nervex.utils.tree import tree_map


class LaneBlock(Mapping):
    """Observations of the lanes that can act: columns, and at the same time the mapping ``{lane id: observation}``.

    Attributes:
        lane_id: int64 [b].
        obs: nested tensors [b, ...].
    """

    def __init__(self, lane_id: np.ndarray, obs: Any) -> None:
        self.lane_id = lane_id
        self.obs = obs

    def __getitem__(self, lane: int) -> Any:
        row = np.flatnonzero(self.lane_id == lane)
        if len(row) == 0:
            raise KeyError(lane)
        return tree_map(lambda x: x[int(row[0])], self.obs)

    def __iter__(self) -> Iterator[int]:
        return iter(self.lane_id.tolist())

    def __len__(self) -> int:
        return len(self.lane_id)
