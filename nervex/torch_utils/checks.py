"""Shape and dtype checks at the border of blocks, losses and mathematics."""

from collections.abc import Sequence

import torch

from nervex.utils.errors import ConfigError, SpecError, did_you_mean


def check_shape(fn: str, name: str, x: torch.Tensor, shape: tuple[int | None, ...]) -> None:
    """Raises SpecError unless ``x`` has ``shape`` (None matches any size)."""
    if x.dim() != len(shape) or any(e is not None and e != g for e, g in zip(shape, x.shape, strict=True)):
        expected = ["any" if n is None else n for n in shape]
        raise SpecError(f"{fn}: '{name}' has shape {list(x.shape)}, expected {expected}")


def check_last_dim(fn: str, name: str, x: torch.Tensor, size: int) -> None:
    """Raises SpecError unless the last dimension of ``x`` has ``size``."""
    if x.dim() < 1 or x.shape[-1] != size:
        raise SpecError(f"{fn}: '{name}' has shape {list(x.shape)}, expected [..., {size}]")


def check_index(fn: str, name: str, x: torch.Tensor) -> None:
    """Raises SpecError unless ``x`` has an integer dtype."""
    if x.is_floating_point() or x.dtype == torch.bool:
        raise SpecError(f"{fn}: '{name}' is {x.dtype}, expected an integer tensor; cast it with .long()")


def check_range(fn: str, name: str, x: torch.Tensor, low: int, high: int) -> None:
    """Raises SpecError unless every element of ``x`` is in [low, high). Waits for the device."""
    if x.numel() and not (int(x.min()) >= low and int(x.max()) < high):
        raise SpecError(
            f"{fn}: '{name}' has values from {int(x.min())} to {int(x.max())}, expected {low} to {high - 1}"
        )


def check_name(option: str, value: str | None, names: Sequence[str | None]) -> None:
    """Raises ConfigError unless ``value`` is one of ``names``."""
    if value not in names:
        known = [n for n in names if n is not None]
        raise ConfigError(
            f"unknown {option} '{value}'{did_you_mean(str(value), known)} (known: {', '.join(map(str, names))})"
        )
