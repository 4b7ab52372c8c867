"""Attention against a softmax that is written out, with masks; layers and stacks against their parts."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nervex.torch_utils import Attention, Transformer, TransformerLayer
from nervex.utils.errors import ConfigError, SpecError

B, N, IN, HEAD, HEADS, OUT = 2, 4, 5, 3, 2, 6


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def slow_attention(net, x, allowed):
    """Query by query and head by head; ``allowed(b, i, j)`` says whether query i may see key j."""
    out = torch.zeros(B, N, HEAD * HEADS)
    for b in range(B):
        query, key, value = (x[b] @ net.query_key_value.weight.T + net.query_key_value.bias).chunk(3, -1)
        for h in range(HEADS):
            part = slice(h * HEAD, (h + 1) * HEAD)
            for i in range(N):
                seen = [j for j in range(N) if allowed(b, i, j)]
                if not seen:
                    continue
                score = [math.exp(float(query[i, part] @ key[j, part]) / math.sqrt(HEAD)) for j in seen]
                out[b, i, part] = sum(s / sum(score) * value[j, part] for s, j in zip(score, seen, strict=True))
    return out @ net.project.weight.T + net.project.bias


@torch.no_grad()
def test_attention_is_the_loop():
    net, x = Attention(IN, HEAD, OUT, HEADS), torch.randn(B, N, IN)
    assert torch.allclose(net(x), slow_attention(net, x, lambda b, i, j: True), atol=1e-5)


@torch.no_grad()
def test_attention_with_masks_is_the_loop():
    net, x = Attention(IN, HEAD, OUT, HEADS), torch.randn(B, N, IN)
    there = torch.tensor([[True, False, True, True], [False, True, False, False]])
    assert torch.allclose(net(x, there), slow_attention(net, x, lambda b, i, j: there[b, j]), atol=1e-5)
    pair = torch.rand(B, N, N) > 0.5
    pair[0, 1] = False  # a query that may see nothing
    assert torch.allclose(net(x, pair), slow_attention(net, x, lambda b, i, j: pair[b, i, j]), atol=1e-5)


def test_what_is_masked_has_no_influence_and_no_gradient():
    net, x = Transformer(IN, HEAD, 7, OUT, HEADS, 2, 2), torch.randn(B, N, IN, requires_grad=True)
    mask = torch.tensor([[True, True, False, True], [True, False, False, False]])
    y = net(x, mask)
    other = torch.where(mask.unsqueeze(-1), x, torch.randn_like(x))
    assert torch.allclose(net(other, mask)[mask], y[mask], atol=1e-6)
    y[mask].sum().backward()
    assert (x.grad[~mask] == 0).all() and (x.grad[mask] != 0).any()
    empty = net(x, torch.zeros(B, N, dtype=torch.bool))
    assert torch.isfinite(empty).all()


@torch.no_grad()
def test_a_layer_is_attention_and_perceptron_with_residuals():
    net, x = TransformerLayer(IN, HEAD, 7, HEADS, 3), torch.randn(B, N, IN)
    mask = torch.tensor([[True, False, True, True]] * B)
    y = F.layer_norm(x + slow_attention(net.attention, x, lambda b, i, j: mask[b, j]), (IN,))
    first, second, third = net.mlp
    hidden = (y @ first[0].weight.T + first[0].bias).relu()
    hidden = (hidden @ second[0].weight.T + second[0].bias).relu()
    assert first[0].weight.shape == (7, IN) and second[0].weight.shape == (7, 7)
    expected = F.layer_norm(y + hidden @ third[0].weight.T + third[0].bias, (IN,))
    assert torch.allclose(net(x, mask), expected, atol=1e-5)


@torch.no_grad()
def test_a_transformer_is_embedding_and_layers():
    net, x = Transformer(IN, HEAD, 7, OUT, HEADS, 1, 2, activation=nn.Tanh()), torch.randn(B, N, IN)
    mask = torch.tensor([[True, True, True, False]] * B)
    y = (x @ net.embedding[0].weight.T + net.embedding[0].bias).tanh()
    assert len(net.layers) == 2
    for layer in net.layers:
        y = layer(y, mask)
    assert torch.allclose(net(x, mask), y, atol=1e-6) and y.shape == (B, N, OUT)


@torch.no_grad()
def test_the_order_of_the_elements_does_not_matter():
    net, x, order = Transformer(IN, HEAD, 7, OUT, HEADS), torch.randn(B, N, IN), [2, 0, 3, 1]
    assert torch.allclose(net(x[:, order]), net(x)[:, order], atol=1e-5)


@torch.no_grad()
def test_dropout_is_there_while_training_only():
    net, x = Transformer(IN, HEAD, 7, OUT, HEADS, dropout_ratio=0.5), torch.randn(B, N, IN)
    assert not torch.allclose(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))
    attention = Attention(IN, HEAD, OUT, HEADS, 0.5)
    assert not torch.allclose(attention(x), attention(x))


def test_the_default_sizes_are_those_of_the_list():
    net = Transformer(IN)
    layer = net.layers[0]
    assert len(net.layers) == 3 and layer.attention.query_key_value.out_features == 3 * 2 * 128
    assert [block[0].out_features for block in layer.mlp] == [1024, 256] and net.embedding[0].out_features == 256


def test_wrong_shapes_are_told():
    net, x = Attention(IN, HEAD, OUT, HEADS), torch.ones(B, N, IN)
    with pytest.raises(SpecError, match=r"Attention: 'x' has shape \[4, 5\], expected \['any', 'any', 5\]"):
        net(x[0])
    with pytest.raises(SpecError, match=r"Attention: 'mask' has shape \[2, 3\], expected \[2, 4\]"):
        net(x, torch.ones(B, 3, dtype=torch.bool))
    with pytest.raises(SpecError, match=r"Attention: 'mask' has shape \[2, 4, 1\], expected \[2, 4, 4\]"):
        net(x, torch.ones(B, N, 1, dtype=torch.bool))
    with pytest.raises(SpecError, match=r"Attention: 'mask' is torch.float32, expected torch.bool"):
        net(x, torch.ones(B, N))
    with pytest.raises(SpecError, match=r"Transformer: 'x' has shape \[2, 4, 5\], expected \['any', 'any', 6\]"):
        Transformer(6)(x)
    with pytest.raises(ConfigError, match="Attention: head_num is 0, expected at least 1"):
        Attention(IN, HEAD, OUT, 0)
    with pytest.raises(ConfigError, match="TransformerLayer: mlp_num is 0, expected at least 1"):
        TransformerLayer(IN, HEAD, 7, HEADS, 0)
    with pytest.raises(ConfigError, match="Transformer: layer_num is 0, expected at least 1"):
        Transformer(IN, layer_num=0)
