"""The limit of a run: products recorded from torch itself, computed again on tensors of the same kind."""

from typing import Any

import pytest
import torch
from torch import nn

from nervex.entry.profile_limit import Blank, Cost, Product, Recorder, products_cost
from nervex.model.mlp import EnsembleMLP

aten = torch.ops.aten


def shapes(products: list[Product]) -> list[tuple[str, list[tuple[int, ...]]]]:
    """Name of the operation and shapes of its tensors, product by product."""
    return [
        (p.operation._qualified_op_name.removeprefix("aten::"), [a.shape for a in p.arguments if isinstance(a, Blank)])
        for p in products
    ]


def test_a_linear_layer_is_one_product_forward_and_two_backward() -> None:
    layer, x = nn.Linear(3, 5), torch.randn(7, 3, requires_grad=True)
    with Recorder() as recorder:
        layer(x).sum().backward()
    assert shapes(recorder.products)[0] == ("mm", [(7, 3), (3, 5)])
    assert sorted(shapes(recorder.products)[1:]) == [("mm", [(5, 7), (7, 3)]), ("mm", [(7, 5), (5, 3)])]


def test_no_product_for_the_gradient_of_an_input_that_needs_none() -> None:
    with Recorder() as recorder:
        nn.Linear(3, 5)(torch.randn(7, 3)).sum().backward()
    assert len(recorder.products) == 2


def test_an_ensemble_is_one_batched_product_a_layer() -> None:
    model = EnsembleMLP(2, 3, [4], 2)
    with torch.no_grad(), Recorder() as recorder:
        model(torch.randn(7, 3))
    assert shapes(recorder.products) == [("bmm", [(2, 7, 3), (2, 3, 4)]), ("bmm", [(2, 7, 4), (2, 4, 2)])]


def test_convolutions_with_their_layout() -> None:
    layer = nn.Conv2d(4, 8, 3, stride=2)
    layer.weight.data = layer.weight.data.to(memory_format=torch.channels_last)
    x = torch.randn(2, 4, 9, 9).to(memory_format=torch.channels_last)
    with Recorder() as recorder:
        layer(x).sum().backward()
    forward, backward = recorder.products
    assert forward.operation is aten.convolution and backward.operation is aten.convolution_backward
    assert forward.arguments[0].shape == (2, 4, 9, 9) and forward.arguments[0].stride[1] == 1
    assert forward.arguments[3] == [2, 2]
    result = forward.prepared()()
    assert result.shape == (2, 8, 4, 4) and backward.prepared()()[1].shape == (8, 4, 3, 3)


def test_recurrent_layers_are_recorded() -> None:
    layer = nn.LSTM(3, 4)
    with torch.no_grad(), Recorder() as recorder:
        layer(torch.randn(5, 2, 3))
    assert recorder.products
    for product in recorder.products:
        product.prepared()()


def test_compound_operations_in_inference_mode_are_taken_apart() -> None:
    layer = nn.Linear(3, 5)
    with torch.inference_mode(), Recorder() as recorder:
        layer(torch.randn(7, 3))
    assert shapes(recorder.products) == [("mm", [(7, 3), (3, 5)])]


def test_the_precision_is_that_of_the_run() -> None:
    layer = nn.Linear(3, 5)
    with torch.autocast("cpu", torch.bfloat16), Recorder() as recorder:
        layer(torch.randn(7, 3))
    (product,) = recorder.products
    assert {a.dtype for a in product.arguments} == {torch.bfloat16}
    assert product.prepared()().dtype == torch.bfloat16


def test_what_torch_computes_is_unchanged_by_recording() -> None:
    model, x = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)), torch.randn(5, 3)
    plain = model(x)
    with Recorder():
        recorded = model(x)
    assert torch.equal(plain, recorded)


def test_rows_that_share_memory_are_computed_as_they_are() -> None:
    product = Product(aten.mm, (_blank((6, 3), (0, 1)), _blank((3, 2), (2, 1))))
    result = product.prepared()()
    assert result.shape == (6, 2) and torch.equal(result[0], result[5])


def test_cost() -> None:
    product = Product(aten.mm, (_blank((8, 8), (8, 1)), _blank((8, 8), (8, 1))))
    assert products_cost([]) == Cost(0.0, 0.0)
    assert products_cost([product, product]).wall_s > 0
    assert Cost(2.0, 1.0).times(0.5) == Cost(1.0, 0.5)


def test_equal_products_use_one_set_of_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    prepared = Product.prepared

    def counted(self: Product) -> Any:
        made.append(self)
        return prepared(self)

    monkeypatch.setattr(Product, "prepared", counted)
    products_cost([Product(aten.mm, (_blank((2, 2), (2, 1)), _blank((2, 2), (2, 1)))) for _ in range(3)])
    assert len(made) == 1


def _blank(shape: tuple[int, ...], stride: tuple[int, ...]) -> Blank:
    return Blank(shape, stride, torch.float32, torch.device("cpu"))
