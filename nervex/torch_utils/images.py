"""Images of bytes as the floats that a CPU's convolutions take."""

import sys

import torch
from torch import Tensor

from nervex import kernels

_UNIT = (torch.arange(256, dtype=torch.float32) / 255.0).numpy()
_MANY_BYTES = 64 << 20  # after which the time that the kernel saves is more than loading it takes
_seen = 0


@torch.library.custom_op("nervex::unit_images", mutates_args=())
def unit_images(image: Tensor) -> Tensor:
    """Returns images, uint8 [N, C, H, W], as float32 from 0 to 1 whose channels lie innermost in memory.

    The same bits as ``image.float() / 255``, at about a quarter of the time.
    """
    global _seen
    _seen += image.numel()
    if _seen < _MANY_BYTES and "nervex.kernels.jit" not in sys.modules:
        return image.to(torch.float32, memory_format=torch.channels_last).div_(255.0)
    num, channels, height, width = image.shape
    out = torch.empty((num, height, width, channels), dtype=torch.float32)
    pixels = image.contiguous().numpy().reshape(num, channels, height * width)
    kernels.look_up_images(pixels, _UNIT, out.numpy().reshape(num, height * width, channels))
    return out.permute(0, 3, 1, 2)


@unit_images.register_fake
def _(image: Tensor) -> Tensor:
    return torch.empty_like(image, dtype=torch.float32, memory_format=torch.channels_last)
