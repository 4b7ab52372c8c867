"""Walks of a sum tree for a whole batch.

A tree of ``size`` leaves, a power of 2, is ``node`` float64 [2·size]: node 1 is the root, the children of i are 2·i and
2·i + 1, leaf l is node size + l. The walks go level by level, so that the many reads of one level, each likely to miss
the processor's cache, overlap.
"""

import numpy as np

from nervex.kernels.jit import kernel


@kernel
def find_leaves(node: np.ndarray, mass: np.ndarray, leaf: np.ndarray) -> None:
    """Writes to ``leaf`` int64 [M] in whose interval of the cumulated leaves each ``mass`` falls.

    Args:
        node: the tree.
        mass: float64 [M]; used up.
        leaf: int64 [M], written.
    """
    size = len(node) // 2
    leaf[:] = 1
    first = 1  # of the level
    while first < size:
        for i in range(len(leaf)):
            left = 2 * leaf[i]
            left_sum = node[left]
            # rounding may leave mass beyond the left sum although the right half is empty
            right = (mass[i] >= left_sum) & (node[left + 1] > 0)
            mass[i] = mass[i] - left_sum if right else mass[i]  # no branch: it could not be foreseen
            leaf[i] = left + right
        first *= 2
    for i in range(len(leaf)):
        leaf[i] -= size


@kernel
def set_leaves(node: np.ndarray, leaf: np.ndarray, value: np.ndarray) -> None:
    """Sets leaves and the sums above them; of equal leaves the last one counts.

    Args:
        node: the tree, changed.
        leaf: int64 [M], from 0; used up.
        value: float64 [M].
    """
    size = len(node) // 2
    for i in range(len(leaf)):
        leaf[i] += size
        node[leaf[i]] = value[i]
    first = size
    while first > 1:
        for i in range(len(leaf)):
            parent = leaf[i] // 2
            node[parent] = node[2 * parent] + node[2 * parent + 1]
            leaf[i] = parent
        first //= 2
