"""Means over the rows that count, and the normalization of advantages."""

import torch
from torch import Tensor

from nervex.rl_utils.checks import check_shape


def weighted_mean(x: Tensor, weight: Tensor | None, valid: Tensor | None = None) -> Tensor:
    """Returns mean(w·x), a scalar.

    Args:
        x: float [...].
        weight: w, float [...]; None: 1. With w = valid / mean(valid) this is the mean over the valid rows.
        valid: the rows that count, bool [...]; None: all. Without ``weight``: the mean over them.
    """
    if valid is not None and weight is None:
        return torch.where(valid, x, 0).sum() / valid.sum().clamp(min=1)
    if valid is not None:
        x = torch.where(valid, x, 0)
    return x.mean() if weight is None else (weight * x).mean()


def normalize_advantage(adv: Tensor, valid: Tensor | None = None, eps: float = 1e-8) -> Tensor:
    """Returns advantages of mean 0 and standard deviation 1 over the valid rows.

        (A − mean) / (std + eps)

    ``std`` is the unbiased one (a divisor of n − 1), as in torch. One valid row alone gives 0.

    Args:
        adv: float [...].
        valid: the rows that count, bool [...], or their weights, float [...] ≥ 0; None: all, equally.
        eps: added to the standard deviation.

    Returns:
        float [...]; 0 in rows that do not count.

    Raises:
        SpecError: ``valid`` has another shape.
    """
    weight = torch.ones_like(adv)
    if valid is not None:
        check_shape("normalize_advantage", "valid", valid, tuple(adv.shape))
        weight = valid.to(adv.dtype)
        adv = adv.masked_fill(weight == 0, 0)
    total, count = weight.sum().clamp(min=torch.finfo(adv.dtype).tiny), (weight > 0).sum()
    mean = (weight * adv).sum() / total
    centered = torch.where(weight > 0, adv - mean, 0)
    variance = (weight * centered.square()).sum() / total * count / (count - 1).clamp(min=1)
    return centered / (variance.sqrt() + eps)
