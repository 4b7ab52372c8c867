"""Stacks of linear layers: ensembles that equal networks of their own, orthogonal initialization, refusals."""

import math

import pytest
import torch
from torch import nn

from nervex.model import EnsembleMLP
from nervex.model.mlp import OutputLinear, init_orthogonal, mlp, perceptron
from nervex.utils.errors import ConfigError


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def alone(num, *args):
    """Networks made one after the other from the same random numbers as an ensemble."""
    torch.manual_seed(0)
    return [perceptron(*args) for _ in range(num)]


class TestEnsemble:
    @pytest.mark.parametrize("num", [1, 2, 5])
    @pytest.mark.parametrize("hidden", [(), (8,), (8, 6)])
    @pytest.mark.parametrize("activation", ["relu", "tanh"])
    def test_is_networks_of_their_own(self, num, hidden, activation):
        x = torch.randn(7, 5)
        networks, following = alone(num, 5, hidden, 3, activation), torch.rand(1)
        torch.manual_seed(0)
        ensemble = EnsembleMLP(num, 5, hidden, 3, activation)
        assert torch.rand(1) == following  # no more random numbers were drawn
        assert torch.allclose(ensemble(x), torch.stack([n(x) for n in networks]), atol=1e-6)

    def test_gradients_are_theirs(self):
        x, target = torch.randn(7, 5, requires_grad=True), torch.randn(7, 1)
        networks = alone(2, 5, (8, 6), 1)
        torch.manual_seed(0)
        ensemble = EnsembleMLP(2, 5, (8, 6), 1)
        sum((n(x) - target).square().mean() for n in networks).backward()
        expected, x.grad = x.grad, None
        (ensemble(x) - target).square().mean(dim=(1, 2)).sum().backward()
        assert torch.allclose(x.grad, expected, atol=1e-6)
        for layer, (weight, bias) in enumerate(zip(ensemble.weight, ensemble.bias, strict=True)):
            for k, network in enumerate(networks):
                linear = network[2 * layer]
                assert torch.allclose(weight.grad[k], linear.weight.grad.T, atol=1e-6)
                assert torch.allclose(bias.grad[k, 0], linear.bias.grad, atol=1e-6)

    def test_members_do_not_touch_each_other(self):
        ensemble = EnsembleMLP(2, 5, (8,), 1)
        ensemble(torch.randn(7, 5))[0].sum().backward()
        assert all(p.grad[0].abs().sum() > 0 and p.grad[1].abs().sum() == 0 for p in ensemble.parameters())


class TestOrthogonal:
    def test_weights_and_biases(self):
        network = nn.Sequential(nn.Linear(6, 4), nn.Conv2d(2, 3, 3), nn.LayerNorm(4))
        init_orthogonal(network)
        linear, conv = network[0].weight, network[1].weight.flatten(1)
        assert torch.allclose(linear @ linear.T, 2 * torch.eye(4), atol=1e-5)
        assert torch.allclose(conv @ conv.T, 2 * torch.eye(3), atol=1e-5)
        assert network[0].bias.abs().sum() == 0 and network[1].bias.abs().sum() == 0
        assert torch.equal(network[2].weight, torch.ones(4))

    def test_gain(self):
        layer = nn.Linear(6, 4)
        init_orthogonal(layer, 0.01)
        assert torch.linalg.svdvals(layer.weight).tolist() == pytest.approx([0.01] * 4)

    @pytest.mark.parametrize("layer", [nn.LSTM(3, 5), nn.GRU(3, 5)])
    def test_recurrent_layers_have_gain_1_and_keep_their_biases(self, layer):
        bias = layer.bias_ih_l0.detach().clone()
        init_orthogonal(layer)
        for weight in (layer.weight_hh_l0, layer.weight_ih_l0):
            assert torch.linalg.svdvals(weight).tolist() == pytest.approx([1.0] * weight.shape[1])
        assert torch.equal(layer.bias_ih_l0, bias)


def test_hidden_layers():
    kinds = [type(m) for m in mlp([3, 4, 5], "LN", "tanh")]
    assert kinds == [nn.Linear, nn.LayerNorm, nn.Tanh] * 2
    assert [type(m) for m in perceptron(3, [4], 2)] == [nn.Linear, nn.ReLU, OutputLinear]
    assert [type(m) for m in perceptron(3, [], 2)] == [OutputLinear]
    x = torch.randn(2, 3)
    layers = perceptron(3, [4], 2, "tanh")
    assert torch.allclose(layers(x), torch.tanh(x @ layers[0].weight.T + layers[0].bias) @ layers[2].weight.T
                          + layers[2].bias)  # fmt: skip


def test_scale_of_hidden_layers():
    """√2 keeps the second moment of what goes through ReLUs."""
    network = mlp([256] * 6)
    init_orthogonal(network)
    x = torch.randn(64, 256)
    assert network(x).square().mean().item() == pytest.approx(1, rel=0.4)
    init_orthogonal(network, 1.0)
    assert network(x).square().mean().item() < 2 * math.sqrt(0.5) ** 10


def test_unknown_names():
    with pytest.raises(ConfigError, match=r"unknown activation 'rleu'; did you mean 'relu'\? \(known: relu, tanh\)"):
        mlp([3, 4], activation="rleu")
    with pytest.raises(ConfigError, match="unknown norm_type 'BN'; expected 'LN' or null"):
        mlp([3, 4], "BN")
