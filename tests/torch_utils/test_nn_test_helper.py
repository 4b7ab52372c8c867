"""Whether a gradient reaches every parameter."""

import pytest
import torch
from torch import nn

from nervex.torch_utils import is_differentiable


def test_a_network_that_is_used_whole():
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    assert is_differentiable(model(torch.ones(1, 2)).sum(), model) is True
    assert all(p.grad is not None for p in model.parameters())


def test_the_parameter_that_is_not_reached_is_named():
    model = nn.ModuleDict({"used": nn.Linear(2, 1), "idle": nn.Linear(2, 1)})
    with pytest.raises(AssertionError, match=r"no gradient reaches idle.weight, idle.bias"):
        is_differentiable(model["used"](torch.ones(1, 2)).sum(), model)


def test_gradients_from_before_are_refused():
    model = nn.Linear(2, 1)
    model(torch.ones(1, 2)).sum().backward()
    with pytest.raises(AssertionError, match=r"weight, bias had a gradient before the backward pass"):
        is_differentiable(model(torch.ones(1, 2)).sum(), model)


def test_frozen_parameters_need_none():
    model = nn.Linear(2, 1)
    model.bias.requires_grad_(False)
    assert is_differentiable(model(torch.ones(1, 2)).sum(), model)


def test_several_models_with_one_loss_or_one_each():
    first, second, scale = nn.Linear(2, 2), nn.Linear(2, 1), nn.Parameter(torch.ones(1))
    assert is_differentiable((scale * second(first(torch.ones(1, 2)))).sum(), [first, second, scale])
    first, second = nn.Linear(2, 1), nn.Linear(2, 1)
    losses = [m(torch.ones(1, 2)).sum() for m in (first, second)]
    assert is_differentiable(losses, [first, second])
    with pytest.raises(AssertionError, match="2 losses for 3 models"):
        is_differentiable(losses, [first, second, scale])
