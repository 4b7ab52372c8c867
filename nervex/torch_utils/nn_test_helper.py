"""Checks of networks, for tests."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn


def is_differentiable(loss: Tensor | Sequence[Tensor], model: nn.Module | Sequence[Any]) -> bool:
    """Returns True if the gradient of ``loss`` reaches every parameter of ``model``.

    Gradients are computed by ``backward`` and stay in the parameters.

    Args:
        loss: 0-d, or several of them, one for each of as many models.
        model: module, parameter, or several of them, whose gradients are None.

    Raises:
        AssertionError: a parameter had a gradient before, or has none afterwards; it is named.
    """
    losses = [loss] if isinstance(loss, Tensor) else list(loss)
    models = list(model) if isinstance(model, list | tuple) else [model]
    assert len(losses) in (1, len(models)), f"is_differentiable: {len(losses)} losses for {len(models)} models"
    groups = [models] if len(losses) == 1 else [[m] for m in models]
    for one, group in zip(losses, groups, strict=True):
        named = [pair for i, m in enumerate(group) for pair in _parameters(m, i)]
        early = [name for name, p in named if p.grad is not None]
        assert not early, f"is_differentiable: {', '.join(early)} had a gradient before the backward pass"
        one.backward()
        missed = [name for name, p in named if p.requires_grad and p.grad is None]
        assert not missed, f"is_differentiable: no gradient reaches {', '.join(missed)}"
    return True


def _parameters(model: Any, i: int) -> list[tuple[str, Tensor]]:
    return list(model.named_parameters()) if isinstance(model, nn.Module) else [(f"tensor {i}", model)]
