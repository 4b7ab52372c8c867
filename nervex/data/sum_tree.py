"""A sum tree over float64 priorities, walked for a whole batch at once."""

import numpy as np


class SumTree:
    """Complete binary tree whose leaves are non-negative priorities and whose nodes are sums of their children.

    Args:
        capacity: number of leaves.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._size = 1 << max(capacity - 1, 1).bit_length()
        self._depth = self._size.bit_length() - 1
        self._node = np.zeros(2 * self._size, dtype=np.float64)

    @property
    def total(self) -> float:
        """Sum of all priorities."""
        return float(self._node[1])

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        """Returns the priorities of leaves ``index`` int [M], float64 [M]."""
        return self._node[index + self._size]

    def update(self, index: np.ndarray, priority: np.ndarray) -> None:
        """Sets the priorities of leaves ``index`` int [M]; of equal indices the last one counts."""
        node = np.asarray(index, dtype=np.int64) + self._size
        self._node[node] = priority
        for _ in range(self._depth):
            node = node >> 1
            self._node[node] = self._node[2 * node] + self._node[2 * node + 1]

    def find(self, mass: np.ndarray) -> np.ndarray:
        """Returns the leaves in whose interval of the cumulated priorities each ``mass`` float [M] falls, int64 [M].

        A leaf of priority 0 is never returned while the total is positive.
        """
        mass = np.array(mass, dtype=np.float64)
        node = np.ones(len(mass), dtype=np.int64)
        for _ in range(self._depth):
            left = 2 * node
            left_sum = self._node[left]
            # rounding may leave mass beyond the left sum although the right half is empty
            right = (mass >= left_sum) & (self._node[left + 1] > 0)
            mass = np.where(right, mass - left_sum, mass)
            node = left + right
        return node - self._size
