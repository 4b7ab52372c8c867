"""Distributions of actions: numbers by hand, a slow oracle and torch's own, frequencies, gradients, masks, errors."""

import math

import numpy as np
import pytest
import torch
from oracles import policy_gradient as oracle
from torch import distributions

from nervex.rl_utils.distribution import (
    entropy,
    kl_divergence,
    log_prob,
    log_prob_and_entropy,
    masked_logit,
    mode,
    sample,
    squashed_mode,
    squashed_sample,
)
from nervex.utils.errors import SpecError

LN = torch.tensor([[1.0, 3.0, 4.0], [2.0, 2.0, 4.0]]).log()  # probabilities 1/8, 3/8, 1/2 and 1/4, 1/4, 1/2
NORMAL = {"mu": torch.tensor([[0.0, 1.0]]), "sigma": torch.tensor([[1.0, 2.0]])}
KINDS = ["categorical", "multi", "normal"]


def random_logit(kind, *shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)

    def draw(n):
        return torch.randn(*shape, n, generator=generator, dtype=dtype)

    if kind == "categorical":
        return draw(4)
    return [draw(2), draw(3), draw(5)] if kind == "multi" else {"mu": draw(3), "sigma": draw(3).exp()}


def leaves(logit):
    if isinstance(logit, torch.Tensor):
        return [logit]
    return list(logit.values()) if isinstance(logit, dict) else list(logit)


def row_of(logit, *index):
    """One row as plain numbers, as the oracle takes it."""
    if isinstance(logit, torch.Tensor):
        return logit[index].tolist()
    if isinstance(logit, dict):
        return {k: v[index].tolist() for k, v in logit.items()}
    return [head[index].tolist() for head in logit]


def twin(kind, logit):
    """The same distribution of ``torch.distributions``: ``log_prob``, ``entropy``."""
    if kind == "categorical":
        return distributions.Categorical(logits=logit)
    if kind == "normal":
        return distributions.Independent(distributions.Normal(logit["mu"], logit["sigma"]), 1)
    return None


class TestByHand:
    def test_categorical(self):
        assert log_prob(LN, torch.tensor([1, 2])).exp().tolist() == pytest.approx([3 / 8, 1 / 2])
        bits = [1 / 8 * 3 + 3 / 8 * math.log2(8 / 3) + 1 / 2 * 1, 1.5]
        assert (entropy(LN) / math.log(2)).tolist() == pytest.approx(bits)

    def test_several_categoricals_are_summed(self):
        action = torch.tensor([[1, 0], [2, 2]])
        assert log_prob([LN, LN[:, [0, 1, 2]]], action).exp().tolist() == pytest.approx([3 / 64, 1 / 4])
        assert torch.allclose(entropy([LN, LN]), 2 * entropy(LN))

    def test_normal(self):
        # at one standard deviation in both dimensions: e^-1 / (2π·1·2)
        assert log_prob(NORMAL, torch.tensor([[1.0, -1.0]])).item() == pytest.approx(-1 - math.log(4 * math.pi))
        assert entropy(NORMAL).item() == pytest.approx(math.log(2 * math.pi * math.e * 2))

    def test_divergence(self):
        uniform = torch.zeros(2, 3)
        assert kl_divergence(LN[1:], LN[:1]).item() == pytest.approx(0.25 * math.log(2) + 0.25 * math.log(2 / 3))
        assert kl_divergence(LN, uniform).tolist() == pytest.approx((math.log(3) - entropy(LN)).tolist())
        wide = {"mu": torch.tensor([[2.0, 1.0]]), "sigma": torch.tensor([[2.0, 2.0]])}
        assert kl_divergence(NORMAL, wide).item() == pytest.approx(math.log(2) + 5 / 8 - 0.5)
        assert kl_divergence([LN, uniform], [uniform, LN]).shape == (2,)

    def test_mode(self):
        assert mode(LN).tolist() == [2, 2] and mode(torch.tensor([[1.0, 1.0]])).tolist() == [0]
        assert mode([LN, -LN]).tolist() == [[2, 0], [2, 0]]
        assert mode(NORMAL) is NORMAL["mu"]


@pytest.mark.parametrize("shape", [(5,), (3, 4), ()])
@pytest.mark.parametrize("kind", KINDS)
def test_against_the_oracle(kind, shape):
    p, q = random_logit(kind, *shape), random_logit(kind, *shape, seed=1)
    torch.manual_seed(0)
    action = sample(p)
    logp, both = log_prob(p, action), log_prob_and_entropy(p, action)
    assert logp.shape == shape and logp.dtype == torch.float64
    assert torch.equal(both[0], logp) and torch.equal(both[1], entropy(p))
    for at in np.ndindex(shape):
        row = row_of(p, *at)
        assert logp[at].item() == pytest.approx(oracle.log_prob(row, action[at].tolist()), rel=1e-12)
        assert entropy(p)[at].item() == pytest.approx(oracle.entropy(row), rel=1e-12)
        divergence = oracle.kl_divergence(row, row_of(q, *at))
        assert kl_divergence(p, q)[at].item() == pytest.approx(divergence, rel=1e-10)
    assert (kl_divergence(p, p) == 0).all() and (kl_divergence(p, q) > 0).all()


@pytest.mark.parametrize("kind", ["categorical", "normal"])
def test_against_torch(kind):
    p, q = random_logit(kind, 7), random_logit(kind, 7, seed=1)
    action = sample(p)
    theirs, other = twin(kind, p), twin(kind, q)
    assert torch.allclose(log_prob(p, action), theirs.log_prob(action), rtol=1e-12)
    assert torch.allclose(entropy(p), theirs.entropy(), rtol=1e-12)
    assert torch.allclose(kl_divergence(p, q), distributions.kl_divergence(theirs, other), rtol=1e-10)


class TestGradients:
    @pytest.mark.parametrize("kind", KINDS)
    def test_finite_differences(self, kind):
        p, q = random_logit(kind, 2), random_logit(kind, 2, seed=1)
        action, names = sample(p), list(p) if isinstance(p, dict) else None

        def rebuilt(parts):
            if kind == "categorical":
                return parts[0]
            return dict(zip(names, parts, strict=True)) if names else list(parts)

        def functions(*parts):
            first, second = rebuilt(parts[: len(leaves(p))]), rebuilt(parts[len(leaves(p)) :])
            return log_prob(first, action), entropy(first), kl_divergence(first, second)

        torch.autograd.gradcheck(functions, [x.requires_grad_() for x in leaves(p) + leaves(q)])

    def test_of_a_categorical_is_one_hot_less_probability(self):
        logit = LN.clone().requires_grad_()
        log_prob(logit, torch.tensor([1, 2])).sum().backward()
        assert torch.allclose(logit.grad, torch.tensor([[-1 / 8, 5 / 8, -1 / 2], [-1 / 4, -1 / 4, 1 / 2]]))

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_sample_has_none(self, kind):
        p = random_logit(kind, 3)
        [x.requires_grad_() for x in leaves(p)]
        assert not sample(p).requires_grad


class TestSample:
    def test_frequencies(self):
        torch.manual_seed(0)
        drawn = sample(LN[0].expand(80_000, 3))
        assert drawn.dtype == torch.int64 and drawn.shape == (80_000,)
        frequency = drawn.bincount(minlength=3) / 80_000
        assert frequency.tolist() == pytest.approx([1 / 8, 3 / 8, 1 / 2], abs=6e-3)  # 3.4 standard errors

    def test_rows_are_independent(self):
        torch.manual_seed(0)
        first, second = sample(torch.zeros(40_000, 2, 2)).unbind(1)
        assert (first == second).float().mean().item() == pytest.approx(0.5, abs=0.01)

    def test_heads_are_independent_and_each_its_own(self):
        torch.manual_seed(0)
        drawn = sample([LN[0].expand(80_000, 3), torch.zeros(80_000, 2)])
        assert drawn.shape == (80_000, 2) and drawn.dtype == torch.int64
        joint = (drawn[:, 0] * 2 + drawn[:, 1]).bincount(minlength=6) / 80_000
        assert joint.tolist() == pytest.approx([1 / 16, 1 / 16, 3 / 16, 3 / 16, 1 / 4, 1 / 4], abs=6e-3)

    def test_moments_of_a_normal(self):
        torch.manual_seed(0)
        drawn = sample({k: v.expand(80_000, 2) for k, v in NORMAL.items()})
        assert drawn.mean(0).tolist() == pytest.approx([0, 1], abs=0.03)
        assert drawn.std(0).tolist() == pytest.approx([1, 2], rel=0.01)
        assert abs(torch.corrcoef(drawn.T)[0, 1]) < 0.02

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_generator_decides(self, kind):
        p = random_logit(kind, 50)
        torch.manual_seed(3)
        first, second = sample(p), sample(p)
        torch.manual_seed(3)
        assert torch.equal(sample(p), first) and not torch.equal(first, second)

    def test_probability_zero_is_never_drawn(self):
        torch.manual_seed(0)
        logit = torch.tensor([0.0, -1e8, 5.0, -1e8]).expand(100_000, 4)
        assert sample(logit).unique().tolist() == [0, 2]

    def test_half_precision(self):
        torch.manual_seed(0)
        drawn = sample(LN[0].expand(80_000, 3).bfloat16())
        assert (drawn.bincount(minlength=3) / 80_000).tolist() == pytest.approx([1 / 8, 3 / 8, 1 / 2], abs=6e-3)


class TestMask:
    mask = torch.tensor([[True, False, True], [False, True, False]])

    def test_masked_actions_have_no_probability_and_no_gradient(self):
        logit = LN.clone().requires_grad_()
        masked = masked_logit(logit, self.mask)
        assert masked.softmax(-1).tolist() == [pytest.approx([1 / 5, 0, 4 / 5]), [0, 1, 0]]
        assert entropy(masked).tolist() == pytest.approx([math.log(5) - 0.8 * math.log(4), 0], abs=1e-6)
        assert mode(-masked).tolist() == [1, 0] and mode(masked).tolist() == [2, 1]
        (log_prob(masked, torch.tensor([0, 1])) + entropy(masked)).sum().backward()
        assert (logit.grad[~self.mask] == 0).all() and logit.grad.isfinite().all()
        assert (logit.grad[0, [0, 2]] != 0).all()

    def test_the_logits_that_were_given_stay(self):
        before = LN.clone()
        masked_logit(LN, self.mask)
        assert torch.equal(LN, before)

    def test_divergence_between_equal_masks_is_that_of_the_rest(self):
        p, q = masked_logit(LN[:1], self.mask[:1]), masked_logit(torch.zeros(1, 3), self.mask[:1])
        assert kl_divergence(p, q).item() == pytest.approx(math.log(2) - entropy(p).item(), rel=1e-5)

    def test_several_heads_masked_each_or_in_one_tensor(self):
        heads = [torch.zeros(2, 2), torch.zeros(2, 3)]
        masks = [torch.tensor([[True, False], [True, True]]), self.mask]
        for mask in (masks, tuple(masks), torch.cat(masks, -1)):
            masked = masked_logit(heads, mask)
            assert [x.softmax(-1).tolist() for x in masked] == [
                [[1, 0], [0.5, 0.5]],
                [[0.5, 0, 0.5], [0, 1, 0]],
            ]

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_other_precisions(self, dtype):
        masked = masked_logit(LN.to(dtype), self.mask)
        assert masked.dtype == dtype and masked.isfinite().all()
        assert masked.softmax(-1)[1].tolist() == [0, 1, 0]

    def test_nothing_allowed_is_uniform(self):
        masked = masked_logit(LN, torch.zeros_like(LN, dtype=torch.bool))
        assert masked.softmax(-1)[0].tolist() == pytest.approx([1 / 3] * 3)


class TestSquashed:
    def logit(self, mu, sigma, rows=1, dtype=torch.float64):
        return {"mu": torch.full((rows, 1), mu, dtype=dtype), "sigma": torch.full((rows, 1), sigma, dtype=dtype)}

    def test_log_probability_is_that_of_the_transformed_normal(self):
        torch.manual_seed(0)
        logit = random_logit("normal", 200)
        action, logp = squashed_sample(logit)
        assert action.shape == (200, 3) and logp.shape == (200,)
        base = distributions.Normal(logit["mu"], logit["sigma"])
        expected = (base.log_prob(action.atanh()) - (1 - action.square()).log()).sum(-1)
        near = (action.abs() < 0.999).all(-1)
        assert near.sum() > 50 and torch.allclose(logp[near], expected[near], rtol=1e-9)

    def test_density_integrates_to_one(self):
        torch.manual_seed(0)
        action, logp = squashed_sample(self.logit(0.3, 0.8, 200_000))
        # the mean of 1 / density over the samples of an interval is its length
        inside = (action.abs() < 0.9).squeeze(-1)
        assert (inside / logp.exp()).mean().item() == pytest.approx(1.8, rel=0.01)

    def test_far_from_zero_it_stays_finite(self):
        for mu in (-1e4, -50.0, 50.0, 1e4):
            logit = {k: v.requires_grad_() for k, v in self.logit(mu, 1.0, 100, torch.float32).items()}
            action, logp = squashed_sample(logit)
            (action + logp.unsqueeze(-1)).sum().backward()
            assert action.abs().max() <= 1 and logp.isfinite().all()
            assert logit["mu"].grad.isfinite().all() and logit["sigma"].grad.isfinite().all()
            # log(1 − tanh²(u)) → 2·log 2 − 2·|u|, so its gradient is −2·sign(u), and logp's +2·sign
            assert torch.allclose(logit["mu"].grad, torch.tensor(2 * math.copysign(1.0, mu)))

    def test_log_slope(self):
        # σ → 0: logp + log σ + ε²/2 + log(2π)/2 is −log(1 − tanh²(μ)) = 2·log cosh μ
        for mu in (0.0, 1.0, -3.0, 20.0, -300.0):
            torch.manual_seed(1)
            noise = torch.randn(1, 1, dtype=torch.float64)
            torch.manual_seed(1)
            _, logp = squashed_sample(self.logit(mu, 1e-9))
            rest = logp.item() + math.log(1e-9) + 0.5 * noise.item() ** 2 + 0.5 * math.log(2 * math.pi)
            assert rest == pytest.approx(2 * math.log(math.cosh(mu)), abs=1e-6)

    def test_gradients_are_reparameterized(self):
        logit = {"mu": torch.tensor([[0.5, -1.0]], dtype=torch.float64),
                 "sigma": torch.tensor([[0.7, 1.3]], dtype=torch.float64)}  # fmt: skip

        def drawn(mu, sigma):
            torch.manual_seed(5)
            return squashed_sample({"mu": mu, "sigma": sigma})

        torch.autograd.gradcheck(drawn, [x.requires_grad_() for x in logit.values()])

    def test_expected_gradient_of_the_entropy(self):
        """d/dσ of E[−log π] with μ = 0: the sampled gradient agrees with a difference of means on the same draws."""
        means, eps = [], 1e-4
        for sigma in (0.5 - eps, 0.5 + eps):
            torch.manual_seed(0)
            means.append(-squashed_sample(self.logit(0.0, sigma, 20_000))[1].mean().item())
        logit = self.logit(0.0, 0.5, 20_000)
        logit["sigma"].requires_grad_()
        torch.manual_seed(0)
        (-squashed_sample(logit)[1].mean()).backward()
        assert logit["sigma"].grad.sum().item() == pytest.approx((means[1] - means[0]) / (2 * eps), rel=1e-5)

    def test_mode(self):
        assert squashed_mode(self.logit(0.5, 3.0)).item() == pytest.approx(math.tanh(0.5))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: log_prob(LN, torch.tensor([[0], [1]])), "log_prob: 'action' has shape [2, 1], expected [2]"),
        (lambda: log_prob(LN, torch.zeros(2)),
         "log_prob: 'action' is torch.float32, expected an integer tensor; cast it with .long()"),
        (lambda: log_prob([LN, LN], torch.tensor([1, 2])), "log_prob: 'action' has shape [2], expected [2, 2]"),
        (lambda: log_prob([LN, LN], torch.zeros(2, 2)),
         "log_prob: 'action' is torch.float32, expected an integer tensor; cast it with .long()"),
        (lambda: log_prob(NORMAL, torch.zeros(1)), "log_prob: 'action' has shape [1], expected [1, 2]"),
        (lambda: entropy({"mu": LN, "sigma": LN[:1]}), "entropy: 'sigma' has shape [1, 3], expected [2, 3]"),
        (lambda: mode({"mu": LN, "std": LN}),
         "mode: 'logit' has the keys ['mu', 'std'], expected a dict with 'mu' and 'sigma'"),
        (lambda: entropy(LN.numpy()),
         "entropy: 'logit' is a ndarray, expected a tensor (discrete actions), a list of tensors (multi-discrete) or "
         "a dict with 'mu' and 'sigma' (continuous)"),
        (lambda: sample([]),
         "sample: 'logit' is an empty list, expected a tensor (discrete actions), a list of tensors (multi-discrete) "
         "or a dict with 'mu' and 'sigma' (continuous)"),
        (lambda: kl_divergence(LN, [LN]), "kl_divergence: 'p' is a Tensor and 'q' a list, expected logits of one kind"),
        (lambda: kl_divergence(LN, LN[:1]), "kl_divergence: 'q' has shape [1, 3], expected [2, 3]"),
        (lambda: kl_divergence([LN], [LN, LN]), "kl_divergence: 'q' has 2 heads, expected 1"),
        (lambda: squashed_sample(LN), "squashed_sample: 'logit' is a Tensor, expected a dict with 'mu' and 'sigma'"),
        (lambda: squashed_mode([LN]), "squashed_mode: 'logit' is a list, expected a dict with 'mu' and 'sigma'"),
        (lambda: masked_logit(LN, TestMask.mask[:1]), "masked_logit: 'mask' has shape [1, 3], expected [2, 3]"),
        (lambda: masked_logit(LN, TestMask.mask.float()),
         "masked_logit: 'mask' is torch.float32, expected torch.bool (True: allowed); cast with .bool()"),
        (lambda: masked_logit([LN, LN], TestMask.mask), "masked_logit: 'mask' has shape [2, 3], expected [2, 6]"),
        (lambda: masked_logit([LN, LN], [TestMask.mask]), "masked_logit: 'mask' has 1 heads, expected 2"),
        (lambda: masked_logit(NORMAL, TestMask.mask),
         "masked_logit: 'logit' is that of a normal distribution, expected one of discrete actions"),
    ],
)  # fmt: skip
def test_a_wrong_shape_dtype_or_kind_is_said(call, message):
    with pytest.raises(SpecError) as e:
        call()
    assert str(e.value) == message
