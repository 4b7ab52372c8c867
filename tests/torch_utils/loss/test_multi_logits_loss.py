"""Matching of predictions and labels, against all permutations."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from nervex.torch_utils import MultiLogitsLoss
from nervex.utils.errors import ConfigError, SpecError


def least(logits, labels, smoothing):
    """The least mean over all permutations."""
    return min(
        F.cross_entropy(logits, labels[list(order)], label_smoothing=smoothing).item()
        for order in itertools.permutations(range(len(labels)))
    )


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("criterion, smoothing", [("cross_entropy", 0.0), ("label_smooth_ce", 0.3)])
def test_it_is_the_least_over_all_permutations(count, criterion, smoothing):
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        logits = 3 * torch.randn(count, 6, generator=generator, dtype=torch.float64)
        labels = torch.randint(6, (count,), generator=generator)
        found = MultiLogitsLoss(criterion, smooth_ratio=0.3)(logits, labels)
        assert found.shape == () and found.item() == pytest.approx(least(logits, labels, smoothing))


def test_the_order_of_the_labels_does_not_matter_and_gradients_are_those_of_the_matching():
    logits = torch.tensor([[9.0, 0.0, 0.0], [0.0, 0.0, 9.0]], requires_grad=True)
    loss = MultiLogitsLoss()(logits, torch.tensor([2, 0]))
    assert loss.item() == pytest.approx(F.cross_entropy(logits, torch.tensor([0, 2])).item())
    (found,) = torch.autograd.grad(loss, logits)
    (expected,) = torch.autograd.grad(F.cross_entropy(logits, torch.tensor([0, 2])), logits)
    assert torch.allclose(found, expected)


def test_a_nan_shows_in_the_loss():
    logits = torch.tensor([[float("nan"), 0.0], [0.0, 1.0]])
    assert MultiLogitsLoss()(logits, torch.tensor([0, 1])).isnan()


def test_wrong_arguments_are_told():
    with pytest.raises(ConfigError, match="unknown criterion 'l2'"):
        MultiLogitsLoss("l2")
    with pytest.raises(SpecError, match=r"MultiLogitsLoss: 'labels' has shape \[3\], expected \[2\]"):
        MultiLogitsLoss()(torch.ones(2, 4), torch.tensor([0, 1, 2]))
    with pytest.raises(SpecError, match=r"MultiLogitsLoss: 'logits' has no row, expected at least one"):
        MultiLogitsLoss()(torch.ones(0, 4), torch.empty(0, dtype=torch.int64))
