"""Cross entropies against sums that are written out, and their limits."""

import math

import pytest
import torch
from torch.nn import functional as F

from nervex.torch_utils import LabelSmoothCELoss, SoftFocalLoss, build_ce_criterion
from nervex.utils.errors import ConfigError, SpecError

LOGITS = torch.tensor([[0.5, -1.0, 2.0], [0.0, 0.3, -0.2], [4.0, 1.0, 1.0], [-1.0, 0.0, 1.0]], dtype=torch.float64)
LABELS = torch.tensor([2, 0, 1, 1])


def log_softmax(row):
    total = math.log(sum(math.exp(x) for x in row))
    return [x - total for x in row]


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.7, 1.0])
def test_label_smoothing_is_the_sum_over_soft_labels(ratio):
    total = 0.0
    for row, label in zip(LOGITS.tolist(), LABELS.tolist(), strict=True):
        for j, logp in enumerate(log_softmax(row)):
            total -= ((1 - ratio) * (j == label) + ratio / 3) * logp
    assert LabelSmoothCELoss(ratio)(LOGITS, LABELS).item() == pytest.approx(total / 4)


def test_no_smoothing_is_plain_cross_entropy():
    assert torch.equal(LabelSmoothCELoss(0.0)(LOGITS, LABELS), F.cross_entropy(LOGITS, LABELS))


@pytest.mark.parametrize("gamma", [0.5, 1, 2, 5])
@pytest.mark.parametrize("weight", [None, [1.0, 2.0, 0.5]])
@pytest.mark.parametrize("mean", [True, False])
def test_focal_loss_is_the_sum_of_the_paper(gamma, weight, mean):
    w = weight or [1.0] * 3
    total = norm = 0.0
    for row, label in zip(LOGITS.tolist(), LABELS.tolist(), strict=True):
        logp = log_softmax(row)[label]
        total -= w[label] * (1 - math.exp(logp)) ** gamma * logp
        norm += w[label]
    loss = SoftFocalLoss(gamma, None if weight is None else torch.tensor(weight, dtype=torch.float64), mean)
    assert loss(LOGITS, LABELS).item() == pytest.approx(total / norm if mean else total)


@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)])
def test_focal_loss_at_gamma_0_is_cross_entropy(weight):
    expected = F.cross_entropy(LOGITS, LABELS, weight)
    assert torch.allclose(SoftFocalLoss(0, weight)(LOGITS, LABELS), expected)


def test_the_focal_gradient_is_finite_where_the_loss_is_zero():
    logits = torch.tensor([[200.0, 0.0]], requires_grad=True)
    loss = SoftFocalLoss(0.5)(logits, torch.tensor([0]))
    loss.backward()
    assert loss.item() == 0 and torch.isfinite(logits.grad).all()


def test_criteria_by_name():
    for cfg, expected in (
        ({"type": "cross_entropy"}, F.cross_entropy(LOGITS, LABELS)),
        ({"type": "label_smooth_ce", "kwargs": {"ratio": 0.2}}, F.cross_entropy(LOGITS, LABELS, label_smoothing=0.2)),
        ({"type": "soft_focal_loss", "kwargs": {"gamma": 3}}, SoftFocalLoss(3)(LOGITS, LABELS)),
    ):
        assert torch.allclose(build_ce_criterion(cfg)(LOGITS, LABELS), expected)


def test_wrong_arguments_are_told():
    with pytest.raises(ConfigError, match="unknown criterion 'cross_entropi'; did you mean 'cross_entropy'"):
        build_ce_criterion({"type": "cross_entropi"})
    with pytest.raises(ConfigError, match=r"got the keys \['kwarg', 'type'\], expected 'type' and, if any, 'kwargs'"):
        build_ce_criterion({"type": "cross_entropy", "kwarg": {}})
    with pytest.raises(ConfigError, match=r"'label_smooth_ce' does not take these kwargs: .*'gamma'"):
        build_ce_criterion({"type": "label_smooth_ce", "kwargs": {"gamma": 2}})
    with pytest.raises(ConfigError, match=r"LabelSmoothCELoss: ratio is 1.5, expected 0 to 1"):
        LabelSmoothCELoss(1.5)
    with pytest.raises(ConfigError, match=r"SoftFocalLoss: gamma is -1, expected at least 0"):
        SoftFocalLoss(-1)


@pytest.mark.parametrize("loss", [LabelSmoothCELoss(0.1), SoftFocalLoss()])
def test_wrong_shapes_are_told(loss):
    with pytest.raises(SpecError, match=r": 'logits' has shape \[3\], expected \['any', 'any'\]"):
        loss(LOGITS[0], LABELS)
    with pytest.raises(SpecError, match=r": 'labels' has shape \[3\], expected \[4\]"):
        loss(LOGITS, LABELS[:3])
    with pytest.raises(SpecError, match=r": 'labels' is torch.float32, expected an integer tensor"):
        loss(LOGITS, LABELS.float())
    with pytest.raises(SpecError, match=r"SoftFocalLoss: 'weight' has shape \[2\], expected \[3\]"):
        SoftFocalLoss(weight=torch.ones(2))(LOGITS, LABELS)
