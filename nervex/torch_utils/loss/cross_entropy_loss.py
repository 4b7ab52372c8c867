"""Cross entropies: smoothed labels, and the focal loss."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from nervex.torch_utils.checks import check_index, check_name, check_shape
from nervex.utils.errors import ConfigError


class LabelSmoothCELoss(nn.Module):
    """Cross entropy against labels that give a part ``ratio`` of their weight to all classes alike.

        target_j = (1 − ratio)·[j = label] + ratio / N

    Szegedy et al. 2016, https://arxiv.org/abs/1512.00567, section 7; torch's ``label_smoothing``.

    Args:
        ratio: part of the weight, 0 to 1; 0 is plain cross entropy.

    Raises:
        ConfigError: ``ratio`` is out of its range.
    """

    def __init__(self, ratio: float) -> None:
        super().__init__()
        if not 0 <= ratio <= 1:
            raise ConfigError(f"LabelSmoothCELoss: ratio is {ratio}, expected 0 to 1")
        self.ratio = ratio

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Returns the mean over the batch, 0-d.

        Args:
            logits: float [B, N].
            labels: int [B].
        """
        check_classes("LabelSmoothCELoss", logits, labels)
        return F.cross_entropy(logits, labels.long(), label_smoothing=self.ratio)


class SoftFocalLoss(nn.Module):
    """Cross entropy in which what is classified well already counts for little.

        L = −(1 − p_label)^γ · log p_label

    Lin et al. 2017, https://arxiv.org/abs/1708.02002, eq. 4, on a softmax over N classes.

    Args:
        gamma: γ, at least 0; 0 is plain cross entropy.
        weight: of each class, float [N], as in ``torch.nn.CrossEntropyLoss``: the mean is weighted; None: all 1.
        size_average: return the mean; False: the sum.

    Raises:
        ConfigError: ``gamma`` is negative.
    """

    weight: Tensor | None

    def __init__(self, gamma: float = 2, weight: Tensor | None = None, size_average: bool = True) -> None:
        super().__init__()
        if gamma < 0:
            raise ConfigError(f"SoftFocalLoss: gamma is {gamma}, expected at least 0")
        self.gamma = gamma
        self.size_average = size_average
        self.register_buffer("weight", weight)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Returns the mean (or sum) over the batch, 0-d.

        Args:
            logits: float [B, N].
            labels: int [B].
        """
        check_classes("SoftFocalLoss", logits, labels)
        if self.weight is not None:
            check_shape("SoftFocalLoss", "weight", self.weight, (logits.shape[1],))
        surprise = F.cross_entropy(logits, labels.long(), reduction="none")  # [B] −log p_label
        # 1 − p, exact where p is near 1, and a power of 0 whose gradient is no NaN
        focus = (-(-surprise).expm1()).clamp(min=1e-12) ** self.gamma if self.gamma else 1.0
        loss = focus * surprise
        if self.weight is None:
            return loss.mean() if self.size_average else loss.sum()
        share = self.weight[labels.long()]  # [B]
        total = (share * loss).sum()
        return total / share.sum() if self.size_average else total


_CRITERIA: dict[str, type[nn.Module]] = {
    "cross_entropy": nn.CrossEntropyLoss,
    "label_smooth_ce": LabelSmoothCELoss,
    "soft_focal_loss": SoftFocalLoss,
}


def build_ce_criterion(cfg: Mapping[str, Any]) -> nn.Module:
    """Returns a criterion of (logits float [B, N], labels int [B]).

    Args:
        cfg: ``type``: ``'cross_entropy'`` (torch's), ``'label_smooth_ce'`` or ``'soft_focal_loss'``; ``kwargs``: of
            its class, such as ``{'ratio': 0.1}``.

    Raises:
        ConfigError: unknown type, a key that is neither of the two, or keyword arguments that do not fit.
    """
    unknown = sorted(set(cfg) - {"type", "kwargs"})
    if unknown or "type" not in cfg:
        raise ConfigError(f"build_ce_criterion: got the keys {sorted(cfg)}, expected 'type' and, if any, 'kwargs'")
    check_name("criterion", cfg["type"], tuple(_CRITERIA))
    try:
        return _CRITERIA[cfg["type"]](**cfg.get("kwargs", {}))
    except TypeError as e:
        raise ConfigError(f"build_ce_criterion: '{cfg['type']}' does not take these kwargs: {e}") from e


def check_classes(fn: str, logits: Tensor, labels: Tensor) -> None:
    """Raises SpecError unless ``logits`` is [B, N] and ``labels`` int [B]."""
    check_shape(fn, "logits", logits, (None, None))
    check_shape(fn, "labels", labels, (logits.shape[0],))
    check_index(fn, "labels", labels)
