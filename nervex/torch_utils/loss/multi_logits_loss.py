"""The cross entropy of several predictions against several labels without an order."""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional as F

from nervex.torch_utils.checks import check_name
from nervex.torch_utils.loss.cross_entropy_loss import check_classes
from nervex.utils.errors import SpecError

_CRITERIA = ("cross_entropy", "label_smooth_ce")


class MultiLogitsLoss(nn.Module):
    """Mean cross entropy of M predictions under the best matching of predictions and labels.

        L = min over permutations σ of  1/M · Σ_m CE(logits_m, labels_σ(m))

    The matching (Kuhn 1955, Munkres 1957) is found by ``scipy.optimize.linear_sum_assignment`` on the CPU; no gradient
    flows through it.

    Args:
        criterion: ``'cross_entropy'`` or ``'label_smooth_ce'``.
        smooth_ratio: of the latter, as in :class:`LabelSmoothCELoss`.
    """

    def __init__(self, criterion: str = "cross_entropy", smooth_ratio: float = 0.1) -> None:
        super().__init__()
        check_name("criterion", criterion, _CRITERIA)
        self.smooth_ratio = smooth_ratio if criterion == "label_smooth_ce" else 0.0

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Returns the loss, 0-d.

        Args:
            logits: float [M, N], M at least 1.
            labels: int [M].
        """
        check_classes("MultiLogitsLoss", logits, labels)
        count = len(logits)
        if not count:
            raise SpecError("MultiLogitsLoss: 'logits' has no row, expected at least one")
        pairs = F.cross_entropy(
            logits.repeat_interleave(count, 0), labels.long().repeat(count), reduction="none",
            label_smoothing=self.smooth_ratio,
        ).view(count, count)  # fmt: skip
        cost = torch.nan_to_num(pairs.detach().double()).cpu().numpy()  # a NaN shows in the loss, not in the matching
        row, column = linear_sum_assignment(cost)
        return pairs[torch.as_tensor(row), torch.as_tensor(column)].mean()
