"""Noisy linear layers: the formula, the distribution of the noise, when it is drawn, and what carries it."""

import copy
import math

import pytest
import torch
from torch import nn

from nervex.torch_utils.noisy import NoisyLinear, reset_noise


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def composed(layer, x):
    """The layer's formula as it stands in the paper."""
    noise_in, noise_out = layer.noise[: layer.in_features], layer.noise[layer.in_features :]
    weight = layer.weight_mu + layer.weight_sigma * torch.outer(noise_out, noise_in)
    return x @ weight.T + layer.bias_mu + layer.bias_sigma * noise_out


@pytest.mark.parametrize("rows", [1, 3, 40])  # few rows and many are computed in different ways
@pytest.mark.parametrize("lead", [(), (2,)])
def test_formula(rows, lead):
    layer, x = NoisyLinear(5, 70), torch.randn(*lead, rows, 5)
    assert layer(x).shape == (*lead, rows, 70)
    assert torch.allclose(layer(x), composed(layer, x), atol=1e-5)


@pytest.mark.parametrize("rows", [2, 40])
def test_gradients_are_those_of_the_formula(rows):
    layer, x = NoisyLinear(5, 70).double(), torch.randn(rows, 5, dtype=torch.float64, requires_grad=True)
    inputs = [x, *layer.parameters()]
    expected = torch.autograd.grad(composed(layer, x).square().sum(), inputs)
    found = torch.autograd.grad(layer(x).square().sum(), inputs)
    assert all(torch.allclose(a, b) for a, b in zip(found, expected, strict=True))


def test_no_noise_in_eval_mode():
    layer, x = NoisyLinear(5, 3).eval(), torch.randn(4, 5)
    expected = x @ layer.weight_mu.T + layer.bias_mu
    assert torch.allclose(layer(x), expected, atol=1e-6)
    layer.reset_noise()
    assert torch.allclose(layer(x), expected, atol=1e-6)
    assert not torch.allclose(layer.train()(x), expected, atol=1e-3)


def test_noise_stays_until_it_is_drawn_anew():
    layer, x = NoisyLinear(5, 3), torch.randn(4, 5)
    first = layer(x)
    assert torch.equal(layer(x), first)
    layer.reset_noise()
    assert not torch.allclose(layer(x), first, atol=1e-3)


def test_noise_is_the_signed_root_of_a_normal():
    """Of f(ε) = sgn(ε)·√|ε|: mean 0, E f² = E|ε| = √(2/π), E f⁴ = E ε² = 1."""
    noise = NoisyLinear(200_000, 200_000 // 2000).noise
    assert noise.mean().item() == pytest.approx(0, abs=0.01)
    assert noise.square().mean().item() == pytest.approx(math.sqrt(2 / math.pi), abs=0.01)
    assert noise.pow(4).mean().item() == pytest.approx(1, abs=0.03)


def test_initial_values():
    layer = NoisyLinear(100, 30, sigma0=0.4)
    for sigma in (layer.weight_sigma, layer.bias_sigma):
        assert torch.allclose(sigma, torch.full_like(sigma, 0.04))
    for mu in (layer.weight_mu, layer.bias_mu):
        assert mu.abs().max() <= 0.1 and mu.abs().max() > 0.08
    assert layer.weight_mu.std().item() == pytest.approx(0.1 / math.sqrt(3), rel=0.05)


def test_noise_is_in_the_state_and_no_parameter():
    layer, other = NoisyLinear(5, 3), NoisyLinear(5, 3)
    assert {n for n, _ in layer.named_parameters()} == {"weight_mu", "weight_sigma", "bias_mu", "bias_sigma"}
    other.load_state_dict(layer.state_dict())
    x = torch.randn(4, 5)
    assert torch.equal(other(x), layer(x))


def test_all_layers_of_a_network_draw():
    network = nn.Sequential(NoisyLinear(4, 4), nn.ReLU(), nn.Sequential(NoisyLinear(4, 4)))
    before = copy.deepcopy(network)
    reset_noise(network)
    assert not torch.equal(network[0].noise, before[0].noise)
    assert not torch.equal(network[2][0].noise, before[2][0].noise)
    assert not torch.equal(network[0].noise, network[2][0].noise)


def test_noise_is_drawn_in_inference_mode_and_learned_with_afterwards():
    """An actor draws while it acts; the learner shares the layer."""
    layer, x = NoisyLinear(5, 3), torch.randn(4, 5)
    with torch.inference_mode():
        layer.reset_noise()
        layer(x)
    layer(x).sum().backward()
    assert layer.weight_sigma.grad.abs().sum() > 0


def test_repr():
    assert repr(NoisyLinear(5, 3)) == "NoisyLinear(in_features=5, out_features=3)"
