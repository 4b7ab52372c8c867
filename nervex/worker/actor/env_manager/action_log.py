"""The actions that led every lane to where it is, as columns: what it takes to come back there by replay."""

from typing import Any

import numpy as np

from nervex.worker.actor.env_manager.blocks import map_tree, tree_leaves

_FIRST_CAPACITY = 256


class ActionLog:
    """Records, lane by lane, the actions since a seed last fixed the lane's state.

    Args:
        action: array or nested dict of arrays ``[B, ...]``, from which actions are recorded.
    """

    def __init__(self, action: Any) -> None:
        self._source = action
        num = len(tree_leaves(action)[0])
        self._count = np.zeros(num, np.int64)
        self._begins = np.zeros((num, _FIRST_CAPACITY), np.bool_)
        self._actions = map_tree(lambda a: np.zeros((num, _FIRST_CAPACITY, *a.shape[1:]), a.dtype), action)

    def restart(self, lane_id: np.ndarray) -> None:
        """Forgets what the lanes did: a seed has fixed their state."""
        self._count[lane_id] = 0

    def add(self, lane_id: np.ndarray, begins: np.ndarray | bool) -> None:
        """Records the present actions of the lanes.

        Args:
            lane_id: int64 ``[b]``.
            begins: bool ``[b]`` or one for all, where the step began an episode that goes on in the env's state.
        """
        row = self._count[lane_id]
        if len(row) and int(row.max()) == self._begins.shape[1]:
            self._begins = _doubled(self._begins)
            self._actions = map_tree(_doubled, self._actions)
        self._begins[lane_id, row] = begins
        map_tree(lambda log, source: log.__setitem__((lane_id, row), source[lane_id]), self._actions, self._source)
        self._count[lane_id] += 1

    def of(self, lane: int) -> tuple[Any, np.ndarray]:
        """Returns copies of a lane's actions ``[n, ...]`` and of the marks ``[n]`` where one began an episode."""
        n = int(self._count[lane])
        return map_tree(lambda log: log[lane, :n].copy(), self._actions), self._begins[lane, :n].copy()


def _doubled(array: np.ndarray) -> np.ndarray:
    return np.concatenate([array, np.zeros_like(array)], axis=1)
