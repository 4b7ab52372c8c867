"""Residual blocks, written out."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nervex.torch_utils import ResBlock, ResFCBlock
from nervex.utils.errors import ConfigError, SpecError


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def convolved(layer, x, padding):
    return F.conv2d(x, layer[0].weight, layer[0].bias, padding=padding)


def batch_norm(x, dims):
    return (x - x.mean(dims, keepdim=True)) / (x.var(dims, keepdim=True, unbiased=False) + 1e-5).sqrt()


@pytest.mark.parametrize("norm_type", [None, "BN"])
def test_basic_block(norm_type):
    block, x = ResBlock(3, norm_type=norm_type), torch.randn(4, 3, 5, 6)
    first, second = block.main
    norm = (lambda y: batch_norm(y, (0, 2, 3))) if norm_type else (lambda y: y)
    expected = (x + norm(convolved(second, norm(convolved(first, x, 1)).relu(), 1))).relu()
    assert torch.allclose(block(x), expected, atol=1e-4)


@pytest.mark.parametrize("mid, kept", [(None, 3), (2, 2)])
def test_bottleneck(mid, kept):
    block, x = ResBlock(3, nn.Tanh(), None, "bottleneck", mid), torch.randn(4, 3, 5, 6)
    first, second, third = block.main
    assert first[0].weight.shape == (kept, 3, 1, 1) and second[0].weight.shape == (kept, kept, 3, 3)
    y = convolved(second, convolved(first, x, 0).tanh(), 1).tanh()
    assert torch.allclose(block(x), (x + convolved(third, y, 0)).tanh(), atol=1e-5)


@pytest.mark.parametrize("norm_type", [None, "BN"])
def test_fully_connected(norm_type):
    block, x = ResFCBlock(5, nn.Tanh(), norm_type), torch.randn(4, 5)
    norm = (lambda y: batch_norm(y, (0,))) if norm_type else (lambda y: y)
    y = norm(x @ block.fc1[0].weight.T + block.fc1[0].bias).tanh()
    assert torch.allclose(block(x), (x + norm(y @ block.fc2[0].weight.T + block.fc2[0].bias)).tanh(), atol=1e-4)


def test_activations_are_relu_by_default():
    assert (ResBlock(3)(torch.randn(4, 3, 5, 5)) >= 0).all() and (ResFCBlock(3)(torch.randn(8, 3)) >= 0).all()


def test_wrong_arguments_are_told():
    with pytest.raises(ConfigError, match="unknown res_type 'bottle'"):
        ResBlock(3, res_type="bottle")
    with pytest.raises(SpecError, match=r"ResBlock: 'x' has shape \[4, 2, 5, 5\], expected \['any', 3, 'any', 'any'\]"):
        ResBlock(3)(torch.ones(4, 2, 5, 5))
    with pytest.raises(SpecError, match=r"ResFCBlock: 'x' has shape \[4, 2\], expected \[..., 3\]"):
        ResFCBlock(3)(torch.ones(4, 2))
