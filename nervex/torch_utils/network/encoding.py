"""Integers as vectors."""

import torch
from torch import Tensor
from torch.nn import functional as F

from nervex.torch_utils.checks import check_index, check_range, check_shape


def one_hot(val: Tensor, num: int, num_first: bool = False) -> Tensor:
    """Returns vectors with a 1 at the index and 0 elsewhere, float32 [..., num], or [num, ...] with ``num_first``.

    Args:
        val: int [...], each from 0 to ``num`` - 1.
        num: length of the vectors.
        num_first: put that dimension first.

    Raises:
        SpecError: ``val`` is not of an integer dtype, or a value is out of its range.
    """
    check_index("one_hot", "val", val)
    check_range("one_hot", "val", val, 0, num)
    hot = F.one_hot(val.long(), num).float()  # [..., num]
    return hot.movedim(-1, 0) if num_first else hot


def binary_encode(val: Tensor, max_val: int) -> Tensor:
    """Returns the binary digits of integers, the highest first, float32 [..., bits].

    Args:
        val: int [...], each from 0 to ``max_val``.
        max_val: the largest value; its number of binary digits is ``bits`` (1 for 0).

    Raises:
        SpecError: ``val`` is not of an integer dtype, or a value is out of its range.
    """
    check_index("binary_encode", "val", val)
    check_range("binary_encode", "val", val, 0, max_val + 1)
    place = torch.arange(max(max_val.bit_length(), 1), device=val.device).flip(0)  # [bits]
    return (val.long().unsqueeze(-1) >> place & 1).float()


def sequence_mask(lengths: Tensor, max_len: int | None = None) -> Tensor:
    """Returns whether each place of a padded batch is within its sequence, bool [B, max_len].

    Args:
        lengths: int [B].
        max_len: places; None: the longest length.

    Raises:
        SpecError: a shape or dtype does not fit.
    """
    check_shape("sequence_mask", "lengths", lengths, (None,))
    check_index("sequence_mask", "lengths", lengths)
    if max_len is None:
        max_len = int(lengths.max()) if len(lengths) else 0
    return torch.arange(max_len, device=lengths.device) < lengths[:, None]
