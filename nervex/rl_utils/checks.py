"""Shape and dtype checks at the border of the mathematics."""

import torch

from nervex.utils.errors import SpecError


def check_shape(fn: str, name: str, x: torch.Tensor, shape: tuple[int | None, ...]) -> None:
    """Raises SpecError unless ``x`` has ``shape`` (None matches any size)."""
    if x.dim() != len(shape) or any(e is not None and e != g for e, g in zip(shape, x.shape, strict=True)):
        expected = ["any" if n is None else n for n in shape]
        raise SpecError(f"{fn}: '{name}' has shape {list(x.shape)}, expected {expected}")


def check_index(fn: str, name: str, x: torch.Tensor) -> None:
    """Raises SpecError unless ``x`` has an integer dtype."""
    if x.is_floating_point() or x.dtype == torch.bool:
        raise SpecError(f"{fn}: '{name}' is {x.dtype}, expected an integer tensor; cast it with .long()")
