"""Integers as vectors, by hand."""

import pytest
import torch

from nervex.torch_utils import binary_encode, one_hot, sequence_mask
from nervex.utils.errors import SpecError


def test_one_hot():
    hot = one_hot(torch.tensor([[0, 2], [1, 1]]), 3)
    assert hot.tolist() == [[[1, 0, 0], [0, 0, 1]], [[0, 1, 0], [0, 1, 0]]] and hot.dtype is torch.float32
    first = one_hot(torch.tensor([0, 2]), 3, num_first=True)
    assert first.tolist() == [[1, 0], [0, 0], [0, 1]]
    assert one_hot(torch.tensor(1, dtype=torch.uint8), 2).tolist() == [0, 1]
    assert one_hot(torch.empty(0, dtype=torch.int64), 4).shape == (0, 4)


def test_binary_encode_is_what_python_prints():
    for max_val in (0, 1, 2, 7, 8, 100):
        bits = len(f"{max_val:b}")
        found = binary_encode(torch.arange(max_val + 1), max_val)
        assert found.dtype is torch.float32
        assert found.tolist() == [[float(d) for d in f"{i:0{bits}b}"] for i in range(max_val + 1)]
    assert binary_encode(torch.tensor([[5], [2]]), 7).tolist() == [[[1, 0, 1]], [[0, 1, 0]]]


def test_sequence_mask():
    mask = sequence_mask(torch.tensor([0, 2, 3]))
    assert mask.tolist() == [[False] * 3, [True, True, False], [True] * 3] and mask.dtype is torch.bool
    assert sequence_mask(torch.tensor([1, 5]), 2).tolist() == [[True, False], [True, True]]
    assert sequence_mask(torch.empty(0, dtype=torch.int64)).shape == (0, 0)


def test_what_does_not_fit_is_told():
    with pytest.raises(SpecError, match=r"one_hot: 'val' has values from -1 to 2, expected 0 to 2"):
        one_hot(torch.tensor([-1, 2]), 3)
    with pytest.raises(SpecError, match=r"one_hot: 'val' is torch.float32, expected an integer tensor"):
        one_hot(torch.ones(2), 3)
    with pytest.raises(SpecError, match=r"binary_encode: 'val' has values from 0 to 8, expected 0 to 7"):
        binary_encode(torch.tensor([0, 8]), 7)
    with pytest.raises(SpecError, match=r"binary_encode: 'val' is torch.bool"):
        binary_encode(torch.tensor([True]), 7)
    with pytest.raises(SpecError, match=r"sequence_mask: 'lengths' has shape \[1, 2\], expected \['any'\]"):
        sequence_mask(torch.tensor([[1, 2]]))
    with pytest.raises(SpecError, match=r"sequence_mask: 'lengths' is torch.float32"):
        sequence_mask(torch.ones(2))
