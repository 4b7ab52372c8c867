"""Entities on a map against a loop, and the soft place by hand."""

import math

import pytest
import torch

from nervex.torch_utils import ScatterConnection, SoftArgmax
from nervex.utils.errors import ConfigError, SpecError


@pytest.mark.parametrize("scatter_type", ["add", "cover"])
@pytest.mark.parametrize("entities", [0, 1, 12])
def test_scatter_is_the_loop(scatter_type, entities):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, entities, 4, generator=generator)
    location = torch.stack(
        [torch.randint(n, (3, entities), generator=generator) for n in (2, 3)], dim=-1
    )  # 12 entities on 6 places: several meet
    expected = torch.zeros(3, 4, 2, 3)
    for b in range(3):
        for m in range(entities):
            row, column = location[b, m].tolist()
            if scatter_type == "add":
                expected[b, :, row, column] += x[b, m]
            else:
                expected[b, :, row, column] = x[b, m]
    assert torch.allclose(ScatterConnection(scatter_type)(x, (2, 3), location), expected, atol=1e-6)


def test_gradients_reach_what_is_seen():
    x = torch.ones(1, 3, 1, requires_grad=True)
    location = torch.tensor([[[0, 0], [0, 0], [1, 1]]])
    ScatterConnection("cover")(x, (2, 2), location).sum().backward()
    assert x.grad.flatten().tolist() == [0, 1, 1]
    x.grad = None
    ScatterConnection("add")(x, (2, 2), location).sum().backward()
    assert x.grad.flatten().tolist() == [1, 1, 1]


def test_soft_argmax_by_hand():
    x = torch.full((2, 1, 2, 3), -1e9)
    x[0, 0, 1, 2] = 0.0
    x[1, 0, 0, 0], x[1, 0, 1, 2] = math.log(3.0), 0.0  # three quarters and one quarter
    assert torch.allclose(SoftArgmax()(x), torch.tensor([[1.0, 2.0], [0.25, 0.5]]), atol=1e-6)
    assert torch.allclose(SoftArgmax()(torch.zeros(1, 1, 5, 3)), torch.tensor([[2.0, 1.0]]), atol=1e-6)


def test_soft_argmax_has_a_gradient():
    x = torch.zeros(1, 1, 1, 3, dtype=torch.float64, requires_grad=True)
    SoftArgmax()(x)[0, 1].backward()
    assert torch.allclose(x.grad.flatten(), torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64) / 3)


def test_wrong_shapes_are_told():
    scatter, x = ScatterConnection(), torch.ones(2, 3, 4)
    with pytest.raises(SpecError, match=r"ScatterConnection: 'x' has shape \[3, 4\], expected \['any', 'any', 'any'\]"):
        scatter(x[0], (5, 5), torch.zeros(2, 3, 2, dtype=torch.int64))
    with pytest.raises(SpecError, match=r"ScatterConnection: 'location' has shape \[2, 2, 2\], expected \[2, 3, 2\]"):
        scatter(x, (5, 5), torch.zeros(2, 2, 2, dtype=torch.int64))
    with pytest.raises(SpecError, match=r"ScatterConnection: 'location' is torch.float32, expected an integer tensor"):
        scatter(x, (5, 5), torch.zeros(2, 3, 2))
    outside = torch.zeros(2, 3, 2, dtype=torch.int64)
    outside[1, 1, 1] = 6
    with pytest.raises(SpecError, match=r"'location columns' has values from 0 to 6, expected 0 to 5"):
        scatter(x, (7, 6), outside)
    with pytest.raises(SpecError, match=r"'location rows' has values from 0 to 6, expected 0 to 5"):
        scatter(x, (6, 7), outside.flip(-1))
    with pytest.raises(
        SpecError, match=r"SoftArgmax: 'x' has shape \[2, 3, 5, 5\], expected \['any', 1, 'any', 'any'\]"
    ):
        SoftArgmax()(torch.ones(2, 3, 5, 5))
    with pytest.raises(ConfigError, match="unknown scatter_type 'cove'; did you mean 'cover'"):
        ScatterConnection("cove")
