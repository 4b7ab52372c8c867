import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nervex.data.sum_tree import SumTree

priorities = st.floats(1e-6, 1e6) | st.just(0.0)


def built(values):
    tree = SumTree(len(values))
    tree.update(np.arange(len(values)), np.array(values, np.float64))
    return tree


@settings(max_examples=100, deadline=None)
@given(st.lists(priorities, min_size=1, max_size=33), st.data())
def test_agrees_with_cumulated_sums(values, data):
    tree = built(values)
    assert tree.total == pytest.approx(sum(values), rel=1e-12)
    if tree.total == 0:
        return
    # small integers as priorities make the sums exact, so that every border can be asked for
    exact = np.array([data.draw(st.integers(0, 4)) for _ in values], np.float64)
    exact[data.draw(st.integers(0, len(values) - 1))] = 3
    tree.update(np.arange(len(values)), exact)
    bounds = np.cumsum(exact)
    mass = np.arange(0, bounds[-1], 0.5)
    np.testing.assert_array_equal(tree.find(mass), np.searchsorted(bounds, mass, side="right"))


@settings(max_examples=100, deadline=None)
@given(st.lists(priorities, min_size=1, max_size=20), st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_a_leaf_of_priority_zero_is_never_found(values, where):
    if not any(values):
        return
    tree = built(values)
    mass = np.array(where) * tree.total
    for extra in (0.0, np.inf):  # rounding may bring the mass to the total or beyond
        found = tree.find(np.append(mass, tree.total + (tree.total if extra else 0.0)))
        assert all(values[leaf] > 0 for leaf in found)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 17), st.lists(st.lists(st.tuples(st.integers(0, 16), priorities), min_size=1, max_size=6)))
def test_updates_with_duplicates_and_overwriting(capacity, updates):
    tree = SumTree(capacity)
    leaves = np.zeros(capacity)
    for update in updates:
        index = np.array([i % capacity for i, _ in update])
        for i, (_, value) in zip(index, update, strict=True):
            leaves[i] = value  # the last one counts
        tree.update(index, np.array([value for _, value in update]))
        np.testing.assert_array_equal(tree[np.arange(capacity)], leaves)
        # no drift: the sums are those of a tree that was built at once, bit for bit
        assert tree.total == built(leaves.tolist()).total
        assert tree.total == pytest.approx(leaves.sum(), rel=1e-12)


def test_sums_are_float64():
    tree = built([2.0**30, 2.0**-20])
    assert tree.total == 2.0**30 + 2.0**-20
    assert tree.find(np.array([2.0**30])).tolist() == [1]


def test_find_leaves_its_argument_as_it_was():
    tree, mass = built([1.0, 2.0, 3.0]), np.array([0.5, 5.5])
    tree.find(mass)
    assert mass.tolist() == [0.5, 5.5]


class SlowTree:
    """Every sum from its two halves, every leaf found by one walk from the root."""

    def __init__(self, capacity):
        self.size = 2
        while self.size < capacity:
            self.size *= 2
        self.leaves = [0.0] * self.size

    def update(self, index, priority):
        for i, p in zip(index, priority, strict=True):
            self.leaves[i] = float(p)

    def sum(self, first, last):
        if last - first == 1:
            return self.leaves[first]
        middle = (first + last) // 2
        return self.sum(first, middle) + self.sum(middle, last)

    def find(self, mass):
        first, last = 0, self.size
        while last - first > 1:
            middle = (first + last) // 2
            left = self.sum(first, middle)
            if mass >= left and self.sum(middle, last) > 0:
                mass, first = mass - left, middle
            else:
                last = middle
        return first


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(0, 2**31), st.integers(1, 4))
def test_bit_for_bit_as_the_slow_tree(capacity, seed, rounds):
    rng = np.random.default_rng(seed)
    tree, slow = SumTree(capacity), SlowTree(capacity)
    for _ in range(rounds):
        index = rng.integers(0, capacity, size=rng.integers(1, 30))
        priority = rng.random(len(index)) ** 9 * (rng.random(len(index)) < 0.8)
        tree.update(index, priority)
        slow.update(index, priority)
        total = tree.total
        assert total == slow.sum(0, slow.size)
        mass = np.append(rng.random(20) * total, [0.0, total])
        assert tree.find(mass).tolist() == [slow.find(m) for m in mass]


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.int64])
def test_other_integers_and_one_priority_for_all(dtype):
    tree = SumTree(5)
    index, priority = np.array([0, 2, 4], dtype), np.array([1, 2, 3], np.float32)
    index.flags.writeable = False
    tree.update(index, priority)
    assert tree[np.arange(5)].tolist() == [1, 0, 2, 0, 3]
    tree.update(index[::2], 7.0)
    assert tree[np.arange(5)].tolist() == [7, 0, 2, 0, 7] and index.tolist() == [0, 2, 4]


def test_a_batch_of_none():
    tree = built([1.0, 2.0])
    tree.update(np.zeros(0, np.int64), np.zeros(0))
    assert tree.total == 3.0 and tree.find(np.zeros(0)).shape == (0,)


@pytest.mark.parametrize("index", [[0, 3], [-1, 0], [2, 10**12]])
def test_a_leaf_that_is_not_there(index):
    tree = built([1.0, 2.0, 3.0])
    with pytest.raises(IndexError) as e:
        tree.update(np.array(index), np.ones(2))
    assert str(e.value) == f"SumTree.update: got leaves {min(index)} to {max(index)}, has 0 to 2"
    assert tree[np.arange(3)].tolist() == [1, 2, 3]
    with pytest.raises(ValueError):
        tree.update(np.array([0, 1]), np.ones(3))
