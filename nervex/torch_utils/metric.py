"""Distances between sequences and between sets."""

from collections.abc import Callable

import torch
from torch import Tensor

from nervex.torch_utils.checks import check_shape
from nervex.utils.errors import SpecError

Distance = Callable[[Tensor, Tensor], Tensor | float]


def levenshtein_distance(
    pred: Tensor,
    target: Tensor,
    pred_extra: Tensor | None = None,
    target_extra: Tensor | None = None,
    extra_fn: Distance | None = None,
) -> Tensor:
    """Returns the least cost to turn one sequence into another by insertions, deletions and replacements, float 0-d.

    Each of them costs 1. Two equal tokens that are kept cost 0, or, where tokens have an extra (where a building
    stands), ``extra_fn`` of their extras.

    Levenshtein 1966; with extras as in Vinyals et al. 2019, https://doi.org/10.1038/s41586-019-1724-z. O(N1·N2).

    Args:
        pred: tokens, int [N1], N1 at least 0.
        target: tokens, int [N2].
        pred_extra: [N1, ...], or None.
        target_extra: [N2, ...], or None; both or neither.
        extra_fn: (extra of one token, extra of the other) to a number or a 0-d tensor; needed with extras.

    Raises:
        SpecError: a shape does not fit, or only a part of the extras is there.
    """
    fn = "levenshtein_distance"
    check_shape(fn, "pred", pred, (None,))
    check_shape(fn, "target", target, (None,))
    extra = pred_extra is not None and target_extra is not None and extra_fn is not None
    if not extra and not (pred_extra is None and target_extra is None):
        raise SpecError(f"{fn}: got a part of pred_extra, target_extra and extra_fn, expected all three or none")
    for name, x, tokens in (("pred_extra", pred_extra, pred), ("target_extra", target_extra, target)):
        if x is not None and (x.dim() < 1 or len(x) != len(tokens)):
            raise SpecError(f"{fn}: '{name}' has shape {list(x.shape)}, expected [{len(tokens)}, ...]")
    a, b = pred.tolist(), target.tolist()
    above: list[float] = list(range(len(b) + 1))  # cost of turning nothing into the first j tokens
    for i, token in enumerate(a):
        row: list[float] = [i + 1]
        for j, other in enumerate(b):
            keep = 1.0
            if token == other:
                keep = float(extra_fn(pred_extra[i], target_extra[j])) if extra else 0.0  # type: ignore[index, misc]
            row.append(min(above[j] + keep, above[j + 1] + 1, row[j] + 1))
        above = row
    return torch.tensor(above[-1], dtype=torch.float32, device=pred.device)


def hamming_distance(pred: Tensor, target: Tensor, weight: float | Tensor = 1.0) -> Tensor:
    """Returns the weighted number of places in which each row differs, float [B].

        d_b = Σ_n w_n·[pred_bn ≠ target_bn]

    Args:
        pred: [B, N].
        target: [B, N].
        weight: number, or float [N] or [B, N].

    Raises:
        SpecError: a shape does not fit.
    """
    fn = "hamming_distance"
    check_shape(fn, "pred", pred, (None, None))
    check_shape(fn, "target", target, tuple(pred.shape))
    if isinstance(weight, Tensor) and weight.dim():
        check_shape(fn, "weight", weight, tuple(pred.shape)[-weight.dim() :])
    return ((pred != target) * weight).sum(-1, dtype=torch.float32)
