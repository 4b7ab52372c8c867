"""Numbers that went wrong."""

from collections.abc import Mapping

import torch
from torch import Tensor


def nonfinite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Returns the names of the tensors with a NaN or an infinite element; one wait for the device for all of them."""
    held = {name: t.detach() for name, t in tensors.items() if (t.is_floating_point() or t.is_complex()) and t.numel()}
    if not held:
        return []
    device = next(iter(held.values())).device
    sound = torch.stack([torch.isfinite(t).all().to(device) for t in held.values()]).tolist()
    return [name for name, good in zip(held, sound, strict=True) if not good]
