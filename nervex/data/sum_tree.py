"""A sum tree over float64 priorities, walked for a whole batch at once."""

import numpy as np

from nervex import kernels


class SumTree:
    """Complete binary tree whose leaves are non-negative priorities and whose nodes are sums of their children.

    Args:
        capacity: number of leaves.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._size = 1 << max(capacity - 1, 1).bit_length()
        self._node = np.zeros(2 * self._size, dtype=np.float64)

    @property
    def total(self) -> float:
        """Sum of all priorities."""
        return float(self._node[1])

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        """Returns the priorities of leaves ``index`` int [M], float64 [M]."""
        return self._node[index + self._size]

    def update(self, index: np.ndarray, priority: np.ndarray) -> None:
        """Sets the priorities of leaves ``index`` int [M]; of equal indices the last one counts.

        Raises:
            IndexError: there is no such leaf.
        """
        leaf = np.array(index, dtype=np.int64)
        value = np.empty(len(leaf), dtype=np.float64)
        value[:] = priority
        if len(leaf):
            # the compiled walk does not look where it writes
            if leaf.min() < 0 or leaf.max() >= self.capacity:
                raise IndexError(
                    f"SumTree.update: got leaves {leaf.min()} to {leaf.max()}, has 0 to {self.capacity - 1}"
                )
            kernels.set_leaves(self._node, leaf, value)

    def find(self, mass: np.ndarray) -> np.ndarray:
        """Returns the leaves in whose interval of the cumulated priorities each ``mass`` float [M] falls, int64 [M].

        A leaf of priority 0 is never returned while the total is positive.
        """
        mass = np.array(mass, dtype=np.float64)
        leaf = np.empty(len(mass), dtype=np.int64)
        kernels.find_leaves(self._node, mass, leaf)
        return leaf
