"""Activations by name, and the gate."""

import math

import pytest
import torch

from nervex.torch_utils import GLU, build_activation
from nervex.utils.errors import ConfigError, SpecError


def test_activations_by_name():
    x = torch.tensor([-2.0, 3.0])
    assert build_activation("relu")(x).tolist() == [0.0, 3.0]
    assert build_activation("prelu")(x).tolist() == [-0.5, 3.0]
    assert build_activation("glu")(x).item() == pytest.approx(-2 / (1 + math.exp(-3)))
    assert x.tolist() == [-2.0, 3.0]
    build_activation("relu", inplace=True)(x)
    assert x.tolist() == [0.0, 3.0]
    with pytest.raises(ConfigError, match="unknown activation 'rellu'; did you mean 'relu'"):
        build_activation("rellu")


def test_glu_is_the_formula():
    torch.manual_seed(0)
    glu, x, context = GLU(3, 2, 4), torch.randn(5, 6, 3), torch.randn(5, 6, 4)
    gate = 1 / (1 + torch.exp(-(context @ glu.gate.weight.T + glu.gate.bias)))
    assert torch.allclose(glu(x, context), (x * gate) @ glu.out.weight.T + glu.out.bias, atol=1e-6)


def test_glu_on_images_is_that_on_each_pixel():
    torch.manual_seed(0)
    images, vectors = GLU(3, 2, 4, "conv2d"), GLU(3, 2, 4)
    vectors.load_state_dict({k: v.flatten(1) if v.dim() > 1 else v for k, v in images.state_dict().items()})
    x, context = torch.randn(5, 3, 2, 6), torch.randn(5, 4, 2, 6)
    expected = vectors(x.movedim(1, -1), context.movedim(1, -1)).movedim(-1, 1)
    assert torch.allclose(images(x, context), expected, atol=1e-6)


def test_wrong_shapes_are_told():
    with pytest.raises(SpecError, match=r"GLU: 'x' has shape \[5, 4\], expected \[5, 3\]"):
        GLU(3, 2, 4)(torch.ones(5, 4), torch.ones(5, 4))
    with pytest.raises(SpecError, match=r"GLU: 'context' has shape \[5, 3\], expected \[5, 4\]"):
        GLU(3, 2, 4)(torch.ones(5, 3), torch.ones(5, 3))
    with pytest.raises(
        SpecError, match=r"GLU: 'context' has shape \[1, 4\] beside 'x' \[5, 3\], expected the same but"
    ):
        GLU(3, 2, 4)(torch.ones(5, 3), torch.ones(1, 4))
    with pytest.raises(SpecError, match=r"GLU: 'x' has shape \[5, 3\], expected \['any', 3, 'any', 'any'\]"):
        GLU(3, 2, 4, "conv2d")(torch.ones(5, 3), torch.ones(5, 4))
    with pytest.raises(ConfigError, match="unknown input_type 'conv'"):
        GLU(3, 2, 4, "conv")
