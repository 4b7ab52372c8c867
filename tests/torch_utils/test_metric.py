"""Distances, against a recursion and by hand."""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nervex.torch_utils import hamming_distance, levenshtein_distance
from nervex.utils.errors import SpecError

TOKENS = st.lists(st.integers(0, 2), max_size=6)


def recursive(a, b, keep):
    """Least cost by trying everything at the ends of the two; ``keep(i, j)`` is the cost of keeping equal tokens."""

    @cache
    def cost(i, j):
        if i == 0 or j == 0:
            return i + j
        diagonal = keep(i - 1, j - 1) if a[i - 1] == b[j - 1] else 1
        return min(cost(i - 1, j) + 1, cost(i, j - 1) + 1, cost(i - 1, j - 1) + diagonal)

    return cost(len(a), len(b))


def tensor(tokens):
    return torch.tensor(tokens, dtype=torch.int64)


@settings(deadline=None, max_examples=60)
@given(TOKENS, TOKENS)
def test_levenshtein_is_the_recursion(a, b):
    found = levenshtein_distance(tensor(a), tensor(b))
    assert found.shape == () and found.dtype is torch.float32
    assert found.item() == recursive(a, b, lambda i, j: 0)


@settings(deadline=None, max_examples=60)
@given(TOKENS, TOKENS, st.randoms(use_true_random=False))
def test_levenshtein_with_extras_is_the_recursion(a, b, random):
    x, y = ([(random.randint(0, 4), random.randint(0, 4)) for _ in tokens] for tokens in (a, b))

    def distance(p, q):
        return (p - q).abs().sum() / 8

    found = levenshtein_distance(
        tensor(a), tensor(b), torch.tensor(x).reshape(-1, 2).float(), torch.tensor(y).reshape(-1, 2).float(), distance
    )
    expected = recursive(a, b, lambda i, j: (abs(x[i][0] - y[j][0]) + abs(x[i][1] - y[j][1])) / 8)
    assert found.item() == pytest.approx(expected)


def test_levenshtein_by_hand():
    kitten, sitting = [[ord(c) for c in word] for word in ("kitten", "sitting")]
    assert levenshtein_distance(tensor(kitten), tensor(sitting)).item() == 3
    assert levenshtein_distance(tensor([]), tensor([1, 2])).item() == 2
    far = levenshtein_distance(
        tensor([5]), tensor([5]), torch.tensor([[0.0]]), torch.tensor([[9.0]]), lambda p, q: q - p
    )
    assert far.item() == 2  # taking one out and putting one in costs less than keeping it so far away


def test_hamming_by_hand():
    pred, target = torch.tensor([[1, 0, 1], [0, 0, 0]]), torch.tensor([[1, 1, 0], [0, 0, 0]])
    assert hamming_distance(pred, target).tolist() == [2.0, 0.0]
    assert hamming_distance(pred.bool(), target.bool(), weight=0.5).tolist() == [1.0, 0.0]
    assert hamming_distance(pred, target, torch.tensor([1.0, 2.0, 4.0])).tolist() == [6.0, 0.0]
    assert hamming_distance(pred, target, torch.full((2, 3), 3.0)).tolist() == [6.0, 0.0]
    assert hamming_distance(torch.tensor([[7]]), torch.tensor([[3]])).tolist() == [1.0]


def test_wrong_shapes_are_told():
    with pytest.raises(SpecError, match=r"levenshtein_distance: 'pred' has shape \[1, 2\], expected \['any'\]"):
        levenshtein_distance(tensor([[1, 2]]), tensor([1]))
    with pytest.raises(
        SpecError, match=r"levenshtein_distance: 'target_extra' has shape \[1\], expected \[2, \.\.\.\]"
    ):
        levenshtein_distance(tensor([1]), tensor([1, 2]), torch.ones(1), torch.ones(1), lambda p, q: 0)
    with pytest.raises(
        SpecError, match=r"got a part of pred_extra, target_extra and extra_fn, expected all three or none"
    ):
        levenshtein_distance(tensor([1]), tensor([1]), torch.ones(1))
    with pytest.raises(SpecError, match=r"hamming_distance: 'target' has shape \[1, 3\], expected \[2, 3\]"):
        hamming_distance(torch.ones(2, 3), torch.ones(1, 3))
    with pytest.raises(SpecError, match=r"hamming_distance: 'weight' has shape \[2\], expected \[3\]"):
        hamming_distance(torch.ones(2, 3), torch.ones(2, 3), torch.ones(2))
