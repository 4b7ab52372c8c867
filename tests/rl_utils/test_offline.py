"""Losses of behavior cloning, CQL and IQL: numbers by hand, slow oracles, limits, gradients, refusals."""

import math

import numpy as np
import pytest
import torch
from oracles import offline as oracle

from nervex.rl_utils.distribution import squashed_sample
from nervex.rl_utils.offline import (
    advantage_weight,
    advantage_weighted_loss,
    cloning_error,
    cloning_loss,
    conservative_gap,
    cql_alpha_loss,
    expectile_loss,
    sampled_logsumexp,
)
from nervex.utils.errors import SpecError


def draw(*shape, seed=0, grad=False):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x.requires_grad_(grad)


def reached(loss, **leaves):
    grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    return {k for k, grad in zip(leaves, grads, strict=True) if grad is not None and grad.any()}


class TestCloning:
    def test_by_hand(self):
        logit = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]])  # π(1) = 3/4, 1/2
        action = torch.tensor([1, 0])
        assert cloning_loss(logit, action).item() == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)
        weighted = cloning_loss(logit, action, torch.tensor([2.0, 0.0]))
        assert weighted.item() == pytest.approx(math.log(4 / 3))

    def test_discrete_is_the_cross_entropy_of_torch(self):
        logit, action = draw(7, 5), torch.arange(7) % 5
        expected = torch.nn.functional.cross_entropy(logit, action)
        assert cloning_loss(logit, action).item() == pytest.approx(expected.item())

    def test_continuous_is_a_likelihood(self):
        mu, sigma, action = draw(6, 2), draw(6, 2, seed=1).exp(), draw(6, 2, seed=2)
        expected = -torch.distributions.Normal(mu, sigma).log_prob(action).sum(-1).mean()
        assert cloning_loss({"mu": mu, "sigma": sigma}, action).item() == pytest.approx(expected.item())

    def test_squared_error_by_hand(self):
        mu, action = torch.tensor([[1.0, 0.0], [0.5, 0.5]]), torch.tensor([[0.0, 2.0], [0.5, 0.0]])
        assert cloning_error(mu, action).item() == pytest.approx((5 + 0.25) / 2)
        assert cloning_error(mu, action, torch.tensor([0.0, 2.0])).item() == pytest.approx(0.25)

    def test_refusals(self):
        with pytest.raises(SpecError, match="'action' has shape"):
            cloning_error(torch.zeros(3, 1), torch.zeros(3))
        with pytest.raises(SpecError, match=r"'action' is torch\.int64"):
            cloning_error(torch.zeros(3, 1), torch.zeros(3, 1, dtype=torch.int64))


class TestConservatism:
    def test_logsumexp_is_the_oracles(self):
        q_value, logp = draw(2, 5, 3), draw(5, 3, seed=1)
        found = sampled_logsumexp(q_value, logp)
        for c in range(2):
            for b in range(3):
                assert found[c, b].item() == pytest.approx(
                    oracle.logsumexp(q_value[c, :, b].tolist(), logp[:, b].tolist())
                )

    def test_a_constant_value_has_the_logarithm_of_the_volume(self):
        # ∫ over [-1, 1]^2 of exp(3) is 4·exp(3), whatever is drawn from whichever density
        uniform = torch.full((50, 1), -2 * math.log(2))
        assert sampled_logsumexp(torch.full((1, 50, 1), 3.0), uniform).item() == pytest.approx(
            3 + math.log(4), abs=1e-5
        )

    def test_two_densities_estimate_one_integral(self):
        # of Q(a) = −a² on [-1, 1]: ∫ exp(−a²) = 1.49365
        torch.manual_seed(0)
        num = 40_000
        uniform = torch.rand(num, 1) * 2 - 1
        own, logp = squashed_sample({"mu": torch.zeros(num, 1), "sigma": torch.ones(num, 1)})
        action = torch.cat([uniform, own])  # [K, 1]
        density = torch.cat([torch.full((num,), -math.log(2)), logp])[:, None]
        found = sampled_logsumexp(-action.square()[None], density)
        assert found.exp().item() == pytest.approx(1.49365, rel=0.01)

    def test_no_gradient_reaches_the_densities(self):
        q_value, logp = draw(2, 5, 3, grad=True), draw(5, 3, seed=1, grad=True)
        assert reached(sampled_logsumexp(q_value, logp).sum(), q_value=q_value, logp=logp) == {"q_value"}

    def test_gap_is_the_oracles(self):
        lse, q_value, weight = draw(2, 4), draw(2, 4, seed=1), draw(4, seed=2).abs()
        assert conservative_gap(lse, q_value).tolist() == pytest.approx(oracle.gaps(lse.numpy(), q_value.numpy()))
        expected = oracle.gaps(lse.numpy(), q_value.numpy(), weight.numpy())
        assert conservative_gap(lse, q_value, weight).tolist() == pytest.approx(expected)

    def test_its_gradient_pushes_recorded_actions_up_and_drawn_ones_down(self):
        drawn, recorded = torch.zeros(1, 4, 1, requires_grad=True), torch.zeros(1, 1, requires_grad=True)
        gap = conservative_gap(sampled_logsumexp(drawn, torch.zeros(4, 1)), recorded).sum()
        up, down = torch.autograd.grad(gap, [recorded, drawn])
        assert up.item() == -1 and down.flatten().tolist() == pytest.approx([0.25] * 4)

    def test_the_factor_grows_while_the_gap_is_too_large(self):
        log_alpha, gap = torch.zeros((), requires_grad=True), torch.tensor([5.0, 3.0], requires_grad=True)
        loss = cql_alpha_loss(log_alpha, gap, threshold=1.0)
        assert loss.item() == -3 and reached(loss, log_alpha=log_alpha, gap=gap) == {"log_alpha"}
        assert torch.autograd.grad(cql_alpha_loss(log_alpha, gap, 1.0), log_alpha)[0] < 0  # a step down makes it larger
        assert torch.autograd.grad(cql_alpha_loss(log_alpha, gap, 10.0), log_alpha)[0] > 0

    def test_refusals(self):
        with pytest.raises(SpecError, match="'logp' has shape"):
            sampled_logsumexp(torch.zeros(2, 5, 3), torch.zeros(3, 5))
        with pytest.raises(SpecError, match="'q_value' has shape"):
            conservative_gap(torch.zeros(2, 3), torch.zeros(2, 4))
        with pytest.raises(SpecError, match="a single number"):
            cql_alpha_loss(torch.zeros(2), torch.zeros(2), 1.0)


class TestExpectiles:
    @pytest.mark.parametrize("tau", [0.1, 0.5, 0.7, 0.99])
    def test_the_oracles(self, tau):
        value, target = draw(9), draw(9, seed=1)
        found = expectile_loss(value, target, tau).item()
        assert found == pytest.approx(oracle.expectile_loss(value.tolist(), target.tolist(), tau))

    def test_a_half_is_half_the_squared_error(self):
        value, target = draw(9), draw(9, seed=1)
        assert expectile_loss(value, target, 0.5).item() == pytest.approx((value - target).square().mean().item() / 2)

    @pytest.mark.parametrize("tau", [0.2, 0.5, 0.9])
    def test_its_minimum_is_the_expectile(self, tau):
        targets = [-3.0, 0.0, 1.0, 7.0, 7.5]
        m = torch.full((5,), oracle.expectile(targets, tau), dtype=torch.float64, requires_grad=True)
        grad = torch.autograd.grad(expectile_loss(m, torch.tensor(targets, dtype=torch.float64), tau), m)[0]
        assert grad.sum().item() == pytest.approx(0, abs=1e-9)

    def test_near_one_it_is_the_largest(self):
        assert oracle.expectile([0.0, 1.0, 5.0], 0.999) == pytest.approx(5, abs=0.02)

    def test_gradients_and_weights(self):
        value, target = draw(4, grad=True), draw(4, seed=1, grad=True)
        assert reached(expectile_loss(value, target, 0.7), value=value, target=target) == {"value"}
        only = expectile_loss(value, target, 0.7, torch.tensor([4.0, 0.0, 0.0, 0.0], dtype=torch.float64))
        assert only.item() == pytest.approx(expectile_loss(value[:1], target[:1], 0.7).item())

    def test_refusals(self):
        with pytest.raises(SpecError, match=r"'tau' is 1\.0"):
            expectile_loss(torch.zeros(2), torch.zeros(2), 1.0)
        with pytest.raises(SpecError, match="'target' has shape"):
            expectile_loss(torch.zeros(2), torch.zeros(2, 1), 0.5)


class TestAdvantageWeights:
    def test_the_oracles(self):
        logp, adv = draw(8), draw(8, seed=1) * 3
        found = advantage_weighted_loss(logp, adv, 2.0, 20.0).item()
        assert found == pytest.approx(oracle.weighted_cloning(logp.tolist(), adv.tolist(), 2.0, 20.0))

    def test_limits(self):
        adv = torch.tensor([-1e6, 0.0, 1.0, 1e6])
        assert advantage_weight(adv, 1.0, 100.0).tolist() == pytest.approx([0, 1, math.e, 100])
        assert advantage_weight(adv, 0.0).tolist() == [1, 1, 1, 1]  # cloning
        assert np.isfinite(advantage_weight(adv, 1e6).numpy()).all()

    def test_the_gradient_reaches_the_policy_only(self):
        logp, adv = draw(4, grad=True), draw(4, seed=1, grad=True)
        assert reached(advantage_weighted_loss(logp, adv, 1.0), logp=logp, adv=adv) == {"logp"}

    def test_refusals(self):
        with pytest.raises(SpecError, match="'logp' has shape"):
            advantage_weighted_loss(torch.zeros(2, 3), torch.zeros(2), 1.0)
        with pytest.raises(SpecError, match="'adv' has shape"):
            advantage_weighted_loss(torch.zeros(2), torch.zeros(3), 1.0)
