"""Losses that know nothing of reinforcement learning."""

from nervex.utils.lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "LabelSmoothCELoss": "nervex.torch_utils.loss.cross_entropy_loss",
        "SoftFocalLoss": "nervex.torch_utils.loss.cross_entropy_loss",
        "build_ce_criterion": "nervex.torch_utils.loss.cross_entropy_loss",
        "MultiLogitsLoss": "nervex.torch_utils.loss.multi_logits_loss",
    },
)
