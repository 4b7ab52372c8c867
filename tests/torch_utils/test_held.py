"""What was found in modules is noticed when it is something else."""

import pytest
import torch
from torch import nn

from nervex.torch_utils.held import Held, module_keepers, places_in


def watched(module):
    return Held(places_in(module_keepers(module)), module_keepers(module))


def network():
    return nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.BatchNorm1d(3), nn.ReLU()))


@pytest.mark.parametrize(
    "change",
    [
        lambda m: setattr(m[0], "weight", nn.Parameter(torch.ones(3, 2))),
        lambda m: setattr(m[0], "bias", None),
        lambda m: m[1].__setitem__(0, nn.BatchNorm1d(3)),
        lambda m: m.__setitem__(1, nn.ReLU()),
        lambda m: m[1][0].register_buffer("running_mean", torch.zeros(3)),
        lambda m: m[0].__delattr__("bias"),
        lambda m: m[1].append(nn.ReLU()),
        lambda m: m[1][1].register_buffer("extra", torch.zeros(1)),
    ],
)
def test_what_is_replaced_or_gone_is_noticed(change):
    model = network()
    held = watched(model)
    model(torch.randn(4, 2)).sum().backward()
    with torch.no_grad():
        model[0].weight.add_(1)
    assert held.unchanged(), "numbers may change"
    change(model)
    assert not held.unchanged()


def test_nothing_to_watch():
    assert Held([]).unchanged() and watched(nn.ReLU()).unchanged()


def test_a_tensor_equal_to_the_one_before_is_another():
    kept = {"a": torch.ones(2)}
    held = Held([(kept, "a", kept["a"])])
    kept["a"] = torch.ones(2)
    assert not held.unchanged()
