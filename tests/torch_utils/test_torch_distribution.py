"""Categorical distributions as objects, against sums that are written out."""

import math

import pytest
import torch

from nervex.torch_utils import CategoricalPd, CategoricalPdPytorch
from nervex.utils.errors import ConfigError, SpecError

LOGIT = torch.tensor([[0.0, math.log(3.0)], [math.log(2.0), math.log(2.0)]])
PROB = [[0.25, 0.75], [0.5, 0.5]]
ACTION = torch.tensor([0, 1])


@pytest.fixture(params=["logits", "probs"])
def pd(request):
    return CategoricalPd(LOGIT) if request.param == "logits" else CategoricalPdPytorch(8 * torch.tensor(PROB))


def test_neglogp_and_entropy(pd):
    expected = [-math.log(0.25), -math.log(0.5)]
    assert torch.allclose(pd.neglogp(ACTION, reduction="none"), torch.tensor(expected))
    assert pd.neglogp(ACTION).item() == pytest.approx(sum(expected) / 2)
    entropy = [-sum(p * math.log(p) for p in row) for row in PROB]
    assert torch.allclose(pd.entropy("none"), torch.tensor(entropy))
    assert pd.entropy().item() == pytest.approx(sum(entropy) / 2)


def test_mode_is_the_likeliest_and_the_first_among_equals(pd):
    assert pd.mode().tolist() == [1, 0]


@pytest.mark.parametrize("method", ["sample", "noise_mode"])
@pytest.mark.parametrize("kind", [CategoricalPd, CategoricalPdPytorch])
def test_draws_have_the_probabilities(method, kind):
    torch.manual_seed(0)
    prob = torch.tensor([0.1, 0.6, 0.3])
    pd = kind((prob.log() + 5 if kind is CategoricalPd else 2 * prob).expand(40_000, 3))
    draws = getattr(pd, method)()
    assert draws.shape == (40_000,) and draws.dtype is torch.int64
    assert torch.allclose(draws.bincount(minlength=3) / 40_000, prob, atol=0.01)  # four standard errors


def test_what_is_impossible_is_never_drawn():
    pd = CategoricalPd(torch.tensor([0.0, -math.inf, 0.0]).expand(5_000, 3))
    assert not (pd.noise_mode() == 1).any() and not (pd.sample() == 1).any()


def test_an_update_replaces_the_distribution():
    pd = CategoricalPd()
    pd.update_logits(LOGIT)
    assert pd.mode().tolist() == [1, 0]
    pd.update_logits(-LOGIT)
    assert pd.mode().tolist() == [0, 0]
    other = CategoricalPdPytorch()
    other.update_probs(torch.tensor([0.2, 0.8]))
    assert other.mode().item() == 1 and other.neglogp(torch.tensor(0)).item() == pytest.approx(-math.log(0.2))


def test_gradients_flow_from_neglogp():
    logit = LOGIT.clone().requires_grad_()
    CategoricalPd(logit).neglogp(ACTION, "none").sum().backward()
    assert torch.allclose(logit.grad, torch.tensor(PROB) - torch.eye(2))  # p − one_hot


def test_wrong_shapes_are_told(pd):
    with pytest.raises(SpecError, match=r"neglogp: 'x' has shape \[3\], expected \[2\]"):
        pd.neglogp(torch.zeros(3, dtype=torch.int64))
    with pytest.raises(SpecError, match=r"neglogp: 'x' is torch.float32, expected an integer tensor"):
        pd.neglogp(torch.zeros(2))
    with pytest.raises(ConfigError, match="unknown reduction 'meen'; did you mean 'mean'"):
        pd.entropy("meen")
    with pytest.raises(SpecError, match=r"CategoricalPd: 'logits' is torch.float32 \[\], expected a float tensor"):
        CategoricalPd(torch.tensor(1.0))
    with pytest.raises(SpecError, match=r"CategoricalPd.sample: there are no logits yet; call update_logits first"):
        CategoricalPd().sample()
    with pytest.raises(SpecError, match=r"CategoricalPdPytorch.mode: there are no probs yet; call update_probs first"):
        CategoricalPdPytorch().mode()
