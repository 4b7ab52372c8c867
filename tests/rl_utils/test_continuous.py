"""Losses of DDPG, TD3 and SAC: numbers by hand, slow oracles, known optima, gradients, refusals."""

import itertools
import math

import numpy as np
import pytest
import torch
from oracles import continuous, mdp
from torch.nn.functional import huber_loss, mse_loss

from nervex.rl_utils.continuous import (
    clipped_double_q,
    critic_error,
    deterministic_policy_loss,
    discrete_sac_policy_loss,
    discrete_soft_value,
    sac_alpha_loss,
    sac_policy_loss,
    smoothed_target_action,
    soft_q_data,
    soft_q_error,
    soft_value,
    value_data,
    value_error,
)
from nervex.rl_utils.distribution import entropy, squashed_sample
from nervex.rl_utils.td import nstep_return, nstep_return_data, q_nstep_td_data, q_nstep_td_error
from nervex.utils.errors import SpecError

Q = torch.tensor([[1.0, 5.0, 3.0], [2.0, 4.0, -1.0]])  # [C, B]
TARGET = torch.tensor([2.0, 2.0, 1.0])
LOGP = torch.tensor([-1.0, 0.5, 2.0])
WEIGHT = torch.tensor([1.0, 0.5, 0.0])


def huber(prediction, target):
    return huber_loss(prediction, target, reduction="none")


def reached(loss, **leaves):
    """Names of the leaves that a gradient of the loss reaches."""
    grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    return {k for k, grad in zip(leaves, grads, strict=True) if grad is not None and grad.any()}


class TestCritics:
    def test_by_hand(self):
        loss, error = critic_error(Q, TARGET)
        assert error.tolist() == [[1, -3, -2], [0, -2, 2]] and not error.requires_grad
        assert loss.item() == pytest.approx((1 + 9 + 4) / 3 + (0 + 4 + 4) / 3)  # the sum over critics

    def test_one_critic_is_half_of_twins(self):
        loss, error = critic_error(Q[0], TARGET)
        assert loss.item() == pytest.approx(14 / 3) and error.tolist() == [1, -3, -2]
        assert critic_error(Q[:1], TARGET)[0].item() == pytest.approx(14 / 3)

    def test_weights_and_criterion(self):
        assert critic_error(Q, TARGET, WEIGHT)[0].item() == pytest.approx((1 + 4.5) / 3 + 2 / 3)
        assert critic_error(Q, TARGET, None, huber)[0].item() == pytest.approx((0.5 + 2.5 + 1.5) / 3 + (1.5 + 1.5) / 3)

    @pytest.mark.parametrize("weighted", [True, False])
    def test_against_the_oracle(self, weighted):
        rng = np.random.default_rng(0)
        q, target, weight = rng.normal(size=(3, 8)), rng.normal(size=8), rng.random(8) if weighted else None
        expected = continuous.critic_loss(q, target, weight)
        given = None if weight is None else torch.from_numpy(weight)
        loss, error = critic_error(torch.from_numpy(q), torch.from_numpy(target), given)
        assert loss.dtype == torch.float64 and loss.item() == pytest.approx(expected, rel=1e-13)
        assert error.numpy() == pytest.approx(target - q)
        single = critic_error(torch.from_numpy(q).float(), torch.from_numpy(target).float(), given)[0]
        assert single.item() == pytest.approx(expected, rel=1e-6)

    def test_gradient_reaches_every_critic_and_not_the_target(self):
        q, target, weight = (x.clone().requires_grad_() for x in (Q, TARGET, WEIGHT))
        critic_error(q, target, weight)[0].backward()
        assert q.grad.allclose(2 * (Q - TARGET) * WEIGHT / 3)
        assert target.grad is None and weight.grad is None
        assert not critic_error(q, target)[1].requires_grad

    def test_it_is_the_loss_of_q_learning_for_one_critic(self):
        data = q_nstep_td_data(Q.T, Q.T + 1, torch.tensor([0, 0, 0]), None, TARGET[None], WEIGHT > 0.7, WEIGHT)
        target = nstep_return(nstep_return_data(TARGET[None], (Q.T + 1).amax(1), WEIGHT > 0.7), 0.9, 1)
        assert critic_error(Q[0], target, WEIGHT)[0].item() == pytest.approx(q_nstep_td_error(data, 0.9).item())

    def test_true_values_are_a_fixed_point(self):
        """A ring that never ends, its values in closed form; of three windows one is cut after a step."""
        true = torch.from_numpy(mdp.values(mdp.ring(3), np.ones((3, 1)), 0.9)[0])
        reward = torch.tensor([[1.0, 2, 3], [2, 3, 0], [3, 1, 0]]).double()
        next_value, factor = true[torch.tensor([0, 1, 0])], torch.tensor([0.9**3, 0.9**3, 0.9], dtype=torch.float64)
        target = nstep_return(nstep_return_data(reward, next_value, None), 0.9, 3, factor)
        loss, error = critic_error(true.expand(2, 3), target)
        assert loss.item() == pytest.approx(0, abs=1e-22) and error.abs().max() < 1e-11

    def test_clipped_double_q(self):
        assert clipped_double_q(Q).tolist() == [1.0, 4.0, -1.0]
        assert clipped_double_q(Q[0]).tolist() == Q[0].tolist()
        assert clipped_double_q(Q[:1]).tolist() == Q[0].tolist()


class TestSmoothedAction:
    def test_without_noise_the_action_within_its_bounds(self):
        action = torch.tensor([[0.3, -1.7], [2.0, -0.5]])
        assert smoothed_target_action(action, sigma=0.0).tolist() == torch.tensor([[0.3, -1], [1, -0.5]]).tolist()
        assert smoothed_target_action(action, 0.0, low=-2.0, high=0.0).equal(torch.tensor([[0, -1.7], [0, -0.5]]))

    def test_the_noise_is_normal_and_clipped(self):
        action = torch.zeros(200, 100, dtype=torch.float64)
        rng = torch.Generator().manual_seed(0)
        noise = smoothed_target_action(action, generator=rng)  # 0.2, 0.5
        assert noise.dtype == torch.float64 and noise.abs().max() == 0.5  # 2.5 σ
        assert noise.mean().abs() < 0.01 and noise.std() == pytest.approx(0.2, rel=0.03)
        outside = (noise.abs() == 0.5).double().mean()
        assert outside == pytest.approx(math.erfc(2.5 / math.sqrt(2)), rel=0.2)
        again = smoothed_target_action(action, 0.2, 0.5, generator=torch.Generator().manual_seed(0))
        assert again.equal(noise)

    def test_every_entry_has_noise_of_its_own(self):
        torch.manual_seed(0)
        assert smoothed_target_action(torch.zeros(4, 3), 0.1, 1.0).unique().numel() == 12

    def test_the_noisy_action_is_within_its_bounds(self):
        noisy = smoothed_target_action(torch.full((1000, 1), 0.9), 0.2, 0.5)
        assert noisy.max() == 1.0 and noisy.min() >= 0.4 - 1e-6


class TestDeterministicPolicy:
    def test_by_hand(self):
        assert deterministic_policy_loss(Q[0]).item() == -3.0

    def test_gradient_descent_finds_the_best_action(self):
        """Q(a) = −(a − 0.3)²: its gradient at the action."""
        action = torch.tensor([0.5, 0.1], requires_grad=True)
        deterministic_policy_loss(-((action - 0.3) ** 2)).backward()
        assert action.grad.tolist() == pytest.approx([0.2, -0.2])

    def test_several_critics_are_refused(self):
        with pytest.raises(
            SpecError, match=r"^deterministic_policy_loss: 'q_value' has shape \[2, 3\], expected \['any'"
        ):
            deterministic_policy_loss(Q)


class TestSAC:
    def test_soft_value_by_hand(self):
        assert soft_value(Q, LOGP, 0.5).tolist() == [1.5, 3.75, -2.0]
        assert soft_value(Q[0], LOGP, torch.tensor(0.5)).tolist() == [1.5, 4.75, 2.0]
        assert soft_value(Q, LOGP, 0.0).tolist() == clipped_double_q(Q).tolist()

    def test_policy_loss_by_hand(self):
        assert sac_policy_loss(LOGP, Q, 0.5).item() == pytest.approx(-(1.5 + 3.75 - 2) / 3)

    def test_against_the_oracle(self):
        rng = np.random.default_rng(0)
        q, logp = rng.normal(size=(3, 9)), rng.normal(size=9)
        expected = continuous.soft_values(q, logp, 0.3)
        assert soft_value(torch.from_numpy(q), torch.from_numpy(logp), 0.3).numpy() == pytest.approx(
            expected, abs=1e-14
        )
        loss = sac_policy_loss(torch.from_numpy(logp), torch.from_numpy(q), 0.3)
        assert loss.dtype == torch.float64 and loss.item() == pytest.approx(-np.mean(expected))

    def test_alpha_loss_by_hand(self):
        # −2·((−1 + 3) + (0.5 + 3) + (2 + 3)) / 3
        log_alpha = torch.tensor(math.log(2.0), requires_grad=True)
        loss = sac_alpha_loss(log_alpha, LOGP, 3.0)
        assert loss.shape == () and loss.item() == pytest.approx(-7.0)
        loss.backward()
        assert log_alpha.grad.item() == pytest.approx(-7.0)  # α·(H − H̄): below the target α rises
        assert sac_alpha_loss(log_alpha.detach().reshape(1), LOGP, 3.0).item() == pytest.approx(-7.0)

    def test_alpha_rests_where_the_entropy_is_the_target(self):
        log_alpha = torch.tensor(0.7, requires_grad=True)
        sac_alpha_loss(log_alpha, LOGP, -LOGP.mean().item()).backward()
        assert log_alpha.grad.item() == pytest.approx(0, abs=1e-6)

    def test_gradients_reach_what_they_should(self):
        q, logp = Q.clone().requires_grad_(), LOGP.clone().requires_grad_()
        log_alpha = torch.tensor(0.1, requires_grad=True)
        leaves = {"q": q, "logp": logp, "log_alpha": log_alpha}
        assert reached(sac_policy_loss(logp, q, log_alpha.exp()), **leaves) == {"q", "logp"}
        assert reached(sac_alpha_loss(log_alpha, logp, -1.0), **leaves) == {"log_alpha"}
        assert reached(soft_value(q, logp, log_alpha.exp()).sum(), **leaves) == {"q", "logp"}

    def test_the_best_normal_has_the_width_that_the_temperature_gives(self):
        """Q(u) = −u²/2: π ∝ exp(Q/α) is N(0, α), at which E[α·log π − Q] has no gradient. 20 000 fixed quantiles."""
        alpha, grid = 0.25, torch.linspace(0.5e-4, 1 - 0.5e-4, 10000, dtype=torch.float64)
        noise = torch.special.ndtri(grid)
        for sigma, sign in ((0.4, -1), (0.5, 0), (0.6, 1)):
            log_sigma = torch.tensor(math.log(sigma), dtype=torch.float64, requires_grad=True)
            u = log_sigma.exp() * noise
            logp = -0.5 * noise**2 - log_sigma - 0.5 * math.log(2 * math.pi)
            sac_policy_loss(logp, -(u**2) / 2, alpha).backward()
            assert np.sign(np.round(log_sigma.grad.item(), 3)) == sign

    def test_the_log_probability_is_that_of_the_whole_action(self):
        """A density over two dimensions: the sum of theirs. One per dimension is refused, not broadcast."""
        torch.manual_seed(0)
        mu, sigma = torch.randn(3, 2).double(), torch.rand(3, 2).double() + 0.1
        action, logp = squashed_sample({"mu": mu, "sigma": sigma})
        expected = [
            continuous.squashed_log_prob(*row) for row in zip(action.tolist(), mu.tolist(), sigma.tolist(), strict=True)
        ]
        assert logp.tolist() == pytest.approx(expected, rel=1e-6)
        for fn in (lambda x: soft_value(Q, x, 0.5), lambda x: sac_policy_loss(x, Q, 0.5)):
            with pytest.raises(SpecError) as e:
                fn(LOGP[:, None].expand(3, 2))  # broadcasts to [3, 2] if it is let through
            assert str(e.value).endswith(": 'logp' has shape [3, 2], expected [3]; sum it over the action's dimensions")
            with pytest.raises(SpecError):
                fn(LOGP[:, None])


class TestDiscreteSAC:
    def problem(self):
        rng = np.random.default_rng(1)
        q, logit = rng.normal(size=(2, 5, 4)), rng.normal(size=(5, 4))
        logit[2, 1] = -1e8
        return q, logit

    def test_by_hand(self):
        q = torch.tensor([[[1.0, 4.0]], [[2.0, 3.0]]])  # [C, 1, N]
        logit = torch.tensor([[0.0, math.log(3.0)]])  # 1/4, 3/4
        soft = 0.25 * (1 - 0.5 * math.log(0.25)) + 0.75 * (3 - 0.5 * math.log(0.75))
        assert discrete_soft_value(q, logit, 0.5).tolist() == pytest.approx([soft])
        assert discrete_sac_policy_loss(logit, q, 0.5).item() == pytest.approx(-soft)
        assert discrete_soft_value(q[0], logit, 0.0).item() == pytest.approx(0.25 + 3)

    def test_against_the_oracle(self):
        q, logit = self.problem()
        expected = continuous.discrete_soft_values(q, logit, 0.3)
        got = discrete_soft_value(torch.from_numpy(q), torch.from_numpy(logit), 0.3)
        assert got.dtype == torch.float64 and got.numpy() == pytest.approx(expected, rel=1e-13)
        assert discrete_sac_policy_loss(torch.from_numpy(logit), torch.from_numpy(q), 0.3).item() == pytest.approx(
            -np.mean(expected)
        )
        single = discrete_soft_value(torch.from_numpy(q).float(), torch.from_numpy(logit).float(), 0.3)
        assert single.numpy() == pytest.approx(expected, rel=1e-5)

    def test_an_action_that_is_not_available_has_no_part(self):
        q, logit = (torch.from_numpy(x) for x in self.problem())
        before = discrete_soft_value(q, logit, 0.3)
        q[:, 2, 1] = 1e6
        assert discrete_soft_value(q, logit, 0.3).equal(before)

    def test_the_boltzmann_policy_is_the_best(self):
        """π ∝ exp(Q/α): no gradient, and the value is α·log Σ exp(Q/α)."""
        q = torch.tensor([[1.0, 2.0, -1.0]], dtype=torch.float64)
        logit = (q / 0.7 + 5).requires_grad_()
        discrete_sac_policy_loss(logit, q, 0.7).backward()
        assert logit.grad.abs().max() < 1e-12
        assert discrete_soft_value(q, logit, 0.7).item() == pytest.approx(0.7 * (q / 0.7).logsumexp(1).item())

    def test_it_is_the_expectation_of_the_sampled_losses(self):
        q, logit = (torch.from_numpy(x) for x in self.problem())
        logp = logit.log_softmax(1)
        each = torch.stack([soft_value(q[..., n], logp[:, n], 0.3) for n in range(4)], dim=1)
        assert discrete_soft_value(q, logit, 0.3).allclose((logp.exp() * each).sum(1))

    def test_the_temperature_takes_the_expected_log_probability(self):
        _, logit = (torch.from_numpy(x) for x in self.problem())
        loss = sac_alpha_loss(torch.tensor(0.0), -entropy(logit), 0.5)
        assert loss.item() == pytest.approx((entropy(logit) - 0.5).mean().item())

    def test_gradient_reaches_only_the_policy(self):
        q, logit = (torch.from_numpy(x).requires_grad_() for x in self.problem())
        log_alpha = torch.tensor(0.1, requires_grad=True)
        loss = discrete_sac_policy_loss(logit, q, log_alpha.exp())
        assert reached(loss, q=q, logit=logit, log_alpha=log_alpha) == {"logit"}


class TestSACWithAValueNetwork:
    def test_soft_q_by_hand(self):
        # targets 1 + 4/2, 2, 3 + 8/2
        data = soft_q_data(Q, torch.tensor([4.0, 6, 8]), torch.tensor([1.0, 2, 3]), torch.tensor([False, True, False]))
        loss = (4 + 9 + 16) / 3 + (1 + 4 + 64) / 3
        assert soft_q_error(data, 0.5).item() == pytest.approx(loss)
        assert soft_q_error(data._replace(weight=WEIGHT), 0.5).item() == pytest.approx((4 + 4.5 + 1 + 2) / 3)
        assert soft_q_error(data._replace(done=None), 0.0).item() == critic_error(Q, data.reward)[0].item()

    def test_value_by_hand(self):
        value = torch.tensor([1.0, 1.0, 1.0])
        # targets 1.5, 3.75, −2
        assert value_error(value_data(value, Q, LOGP), 0.5).item() == pytest.approx((0.25 + 2.75**2 + 9) / 3)
        assert value_error(value_data(value, Q, LOGP, WEIGHT), 0.5).item() == pytest.approx((0.25 + 2.75**2 / 2) / 3)
        assert value_error(value_data(value, Q, LOGP)).item() == value_error(value_data(value, Q, LOGP), 1.0).item()

    def test_gradients_reach_the_prediction_only(self):
        q, value, logp = (x.clone().requires_grad_() for x in (Q, TARGET, LOGP))
        leaves = {"q": q, "value": value, "logp": logp}
        assert reached(soft_q_error(soft_q_data(q, value, LOGP), 0.9), **leaves) == {"q"}
        assert reached(value_error(value_data(value, q, logp)), **leaves) == {"value"}


ERRORS = [
    (lambda: critic_error(Q[None], TARGET),
     "critic_error: 'q_value' has shape [1, 2, 3], expected [B], or [C, B] of C critics"),
    (lambda: critic_error(Q.T, TARGET), "critic_error: 'target' has shape [3], expected [2]"),
    (lambda: critic_error(Q, TARGET[:, None]), "critic_error: 'target' has shape [3, 1], expected [3]"),
    (lambda: critic_error(Q, TARGET, WEIGHT[None]), "critic_error: 'weight' has shape [1, 3], expected [3]"),
    (lambda: critic_error(Q.long(), TARGET),
     "critic_error: 'q_value' is torch.int64, expected a floating tensor; cast it with .float()"),
    (lambda: critic_error(Q, TARGET, None, mse_loss),
     "critic_error: 'criterion' returned shape [], expected [2, 3]; it must be elementwise (reduction='none')"),
    (lambda: clipped_double_q(Q[None]),
     "clipped_double_q: 'q_value' has shape [1, 2, 3], expected [B], or [C, B] of C critics"),
    (lambda: sac_alpha_loss(torch.zeros(2), LOGP, 1.0),
     "sac_alpha_loss: 'log_alpha' has shape [2], expected a single number"),
    (lambda: sac_alpha_loss(torch.zeros(1), LOGP[None], 1.0),
     "sac_alpha_loss: 'logp' has shape [1, 3], expected ['any']"),
    (lambda: discrete_soft_value(Q, Q[:, :2], 1.0), "discrete_soft_value: 'q_value' has shape [2, 3], expected [2, 2]"),
    (lambda: discrete_soft_value(Q[None], Q[0], 1.0),
     "discrete_soft_value: 'logit' has shape [3], expected ['any', 'any']"),
    (lambda: value_error(value_data(Q, Q, LOGP)), "value_error: 'value' has shape [2, 3], expected ['any']"),
    (lambda: soft_q_error(soft_q_data(Q, TARGET, TARGET[:2]), 1.0),
     "nstep_return: 'next_value' has shape [3], expected [2]"),
]  # fmt: skip


@pytest.mark.parametrize("call, message", ERRORS, ids=itertools.count())
def test_a_wrong_shape_or_dtype_is_said(call, message):
    with pytest.raises(SpecError) as e:
        call()
    assert str(e.value) == message
