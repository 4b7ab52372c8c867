"""Images as floats: the same bits and memory layout by array operations and by the compiled loop."""

import sys

import pytest
import torch

from nervex.torch_utils import images
from nervex.torch_utils.captured import CapturedFunction
from nervex.torch_utils.images import unit_images

SHAPES = [(3, 4, 8, 6), (1, 1, 5, 5), (2, 3, 1, 7), (0, 4, 8, 8), (5, 2, 1, 1)]


def some(shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=["operations", "kernel"])
def way(request, monkeypatch):
    """Both before and after the kernel is worth loading."""
    if request.param == "operations":
        monkeypatch.setattr(images, "_MANY_BYTES", 1 << 60)
        monkeypatch.setattr(images, "_seen", 0)
        monkeypatch.delitem(sys.modules, "nervex.kernels.jit", raising=False)
        monkeypatch.setattr(images, "kernels", None)
    else:
        monkeypatch.setattr(images, "_MANY_BYTES", 0)
    return request.param


@pytest.mark.parametrize("shape", SHAPES)
def test_bytes_divided_by_255_with_the_channels_innermost(way, shape):
    image = some(shape)
    unit = unit_images(image)
    assert unit.dtype == torch.float32 and torch.equal(unit, image.float() / 255)
    assert unit.is_contiguous(memory_format=torch.channels_last)


def test_every_byte(way):
    image = torch.arange(256, dtype=torch.uint8).reshape(1, 4, 8, 8)
    assert torch.equal(unit_images(image), image.float() / 255)


def test_images_that_do_not_lie_in_order(way):
    image = some((4, 6, 9, 8)).transpose(0, 3)[:, ::2]
    assert torch.equal(unit_images(image), image.float() / 255)


def test_another_default_dtype(way):
    torch.set_default_dtype(torch.float64)
    try:
        assert unit_images(some((2, 4, 3, 3))).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_what_is_given_stays_as_it_is(way):
    image = some((2, 4, 3, 3))
    before = image.clone()
    unit_images(image).zero_()
    assert torch.equal(image, before)


def test_the_kernel_is_loaded_when_many_bytes_have_come(monkeypatch):
    calls = []
    monkeypatch.delitem(sys.modules, "nervex.kernels.jit", raising=False)
    monkeypatch.setattr(images, "_seen", 0)
    monkeypatch.setattr(images, "_MANY_BYTES", 300)

    class Kernels:
        @staticmethod
        def look_up_images(image, table, out):
            calls.append(image.shape)
            out[...] = table[image.transpose(0, 2, 1)]

    monkeypatch.setattr(images, "kernels", Kernels)
    for _ in range(4):
        assert torch.equal(unit_images(some((1, 4, 5, 5))), some((1, 4, 5, 5)).float() / 255)
    assert calls == [(1, 4, 25)] * 2


def test_it_is_one_operation_of_a_tape(way):
    linear = torch.nn.Linear(4, 2)
    function = CapturedFunction(lambda x: linear(unit_images(x).mean((2, 3))), [linear])
    for seed in range(4):
        image = torch.randint(0, 256, (3, 4, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            assert torch.equal(function(image), linear(unit_images(image).mean((2, 3))))
    assert function.refusal is None and function.tapes[0] is not None


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_are_known_without_computing(shape):
    torch.library.opcheck(unit_images, (some(shape),), test_utils=["test_schema", "test_faketensor"])
