"""Upgoing returns and their loss: by hand, a slow oracle on random ends, limits, gradients, errors."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import policy_gradient as oracle

from nervex.rl_utils.distribution import log_prob
from nervex.rl_utils.upgo import upgo_loss, upgo_returns
from nervex.utils.errors import SpecError

MASKS = ("terminated", "truncated", "valid")


def column(*numbers, dtype=torch.float64):
    return torch.tensor(numbers, dtype=dtype).unsqueeze(1)


def flags(*numbers):
    return column(*numbers, dtype=torch.bool)


class TestByHand:
    """Rewards 1, 2, 4, values 8, 3, 5, 2: step 1 is better than its value (2 + 5 ≥ 3), step 2 too (4 + 2 ≥ 5)."""

    reward, value = column(1, 2, 4), column(8, 3, 5, 2)

    def of(self, value=None, **arguments):
        return upgo_returns(self.reward, self.value if value is None else value, **arguments).squeeze(1).tolist()

    def test_rewards_as_long_as_steps_are_better(self):
        assert self.of() == [1 + 2 + 4 + 2, 2 + 4 + 2, 4 + 2]

    def test_the_value_where_a_step_is_worse(self):
        assert self.of(column(8, 3, 7, 2)) == [1 + 2 + 7, 2 + 7, 4 + 2]  # 4 + 2 < 7
        assert self.of(column(8, 9, 5, 2)) == [1 + 9, 2 + 4 + 2, 4 + 2]  # 2 + 5 < 9

    def test_no_worse_is_enough(self):
        assert self.of(column(8, 7, 5, 2)) == [9, 8, 6]  # 2 + 5 = 7, and what follows is better

    def test_gamma(self):
        # 2 + 5/2 ≥ 3 and 4 + 2/2 ≥ 5
        assert self.of(gamma=0.5) == [1 + 2 / 2 + 4 / 4 + 2 / 8, 2 + 4 / 2 + 2 / 4, 4 + 2 / 2]

    def test_terminated(self):
        assert self.of(terminated=flags(0, 1, 0)) == [1 + 3, 2, 6]  # 2 < 3
        assert self.of(column(8, 2, 5, 2), terminated=flags(0, 1, 0)) == [1 + 2, 2, 6]

    def test_truncated_bootstraps_and_cuts(self):
        assert self.of(truncated=flags(0, 1, 0)) == [1 + 2 + 5, 2 + 5, 6]
        assert self.of(truncated=flags(1, 0, 0), valid=flags(1, 0, 1)) == [1 + 3, 3, 6]


def test_a_truncated_episode_is_worth_what_it_would_go_on_to_be():
    """A reward of 1 for ever is worth 1/(1 − γ): with that value, a time limit changes no return."""
    rows = oracle.random_rows(np.random.default_rng(1), 60, 2)
    truncated, valid = (torch.from_numpy(x) for x in (rows["truncated"] | rows["terminated"], rows["valid"]))
    value = torch.full((61, 2), 4.0, dtype=torch.float64)
    found = upgo_returns(valid.double(), value, 0.75, None, truncated, valid)
    assert truncated.sum() > 5 and torch.equal(found, value[:-1])


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 20), st.integers(1, 4), st.floats(0, 1))
def test_against_the_oracle(seed, total, batch, gamma):
    rows = oracle.random_rows(np.random.default_rng(seed), total, batch)
    expected = oracle.upgo_returns(rows["value"], rows["reward"], gamma, **{k: rows[k] for k in MASKS})
    found = upgo_returns(*(torch.from_numpy(rows[k]) for k in ("reward", "value")), gamma,
                         *(torch.from_numpy(rows[k]) for k in MASKS))  # fmt: skip
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11)


class TestLimits:
    def test_values_far_below_give_the_whole_return(self):
        reward, value = torch.rand(6, 2, dtype=torch.float64), torch.arange(7.0).mul(10).sub(900).double()
        found = upgo_returns(reward, value.unsqueeze(1).expand(7, 2))
        assert torch.allclose(found, reward.flip(0).cumsum(0).flip(0) + value[-1])

    def test_values_far_above_give_one_step(self):
        reward = torch.rand(6, 2, dtype=torch.float64)
        value = torch.arange(7.0).mul(-10).add(900).double().unsqueeze(1).expand(7, 2)
        assert torch.allclose(upgo_returns(reward, value), reward + value[1:])

    def test_gamma_of_zero_is_the_reward(self):
        reward = torch.rand(6, 2, dtype=torch.float64)
        assert torch.allclose(upgo_returns(reward, torch.randn(7, 2, dtype=torch.float64), 0.0), reward)

    def test_never_below_the_one_step_return(self):
        reward, value = torch.randn(30, 4, dtype=torch.float64), torch.randn(31, 4, dtype=torch.float64)
        assert (upgo_returns(reward, value) >= reward + value[1:] - 1e-12).all()


def example():
    torch.manual_seed(0)
    rows = oracle.random_rows(np.random.default_rng(0), 10, 3)
    logit, action = torch.randn(10, 3, 4, dtype=torch.float64), torch.randint(4, (10, 3))
    table = {k: torch.from_numpy(v) for k, v in rows.items()}
    return logit, table["ratio"], action, table["reward"], table["value"], *(table[k] for k in MASKS)


class TestLoss:
    @pytest.mark.parametrize("weighted", [False, True])
    def test_is_the_mean_over_valid_rows(self, weighted):
        logit, rhos, action, reward, value, *masks = example()
        weight = torch.rand(10, 3, dtype=torch.float64) if weighted else None
        found = upgo_loss(logit, rhos, action, reward, value, 0.9, *masks, weight)
        return_ = oracle.upgo_returns(value, reward, 0.9, *masks)
        terms = []
        for t, b in np.argwhere(masks[2].numpy()):
            adv = min(rhos[t, b].item(), 1.0) * (return_[t, b] - value[t, b].item())
            factor = 1.0 if weight is None else weight[t, b].item()
            terms.append(-factor * adv * oracle.log_prob(logit[t, b].tolist(), action[t, b].item()))
        assert found.shape == () and found.dtype == torch.float64
        assert found.item() == pytest.approx(sum(terms) / (30 if weighted else len(terms)), rel=1e-11)

    def test_several_heads(self):
        logit, rhos, action, reward, value, *masks = example()
        heads, actions = [logit, -logit], torch.stack([action, action], -1)
        found = upgo_loss(heads, rhos, actions, reward, value, 0.9, *masks)
        both = [upgo_loss(x, rhos, action, reward, value, 0.9, *masks) for x in heads]
        assert found.item() == pytest.approx(sum(both).item())

    def test_the_discount_is_one_and_nothing_ends_by_default(self):
        logit, rhos, action, reward, value, *_ = example()
        adv = rhos.clamp(max=1) * (torch.from_numpy(oracle.upgo_returns(value, reward)) - value[:-1])
        found = upgo_loss(logit, rhos, action, reward, value)
        assert found.item() == pytest.approx(-(adv * log_prob(logit, action)).mean().item())

    def test_gradient_reaches_the_logits_of_valid_rows_only(self):
        logit, rhos, action, reward, value, *masks = example()
        for x in (logit, rhos, reward, value):
            x.requires_grad_()
        upgo_loss(logit, rhos, action, reward, value, 0.9, *masks).backward()
        assert rhos.grad is None and reward.grad is None and value.grad is None
        assert (logit.grad.abs().sum(-1) > 0).equal(masks[2])

    def test_better_than_expected_becomes_likelier(self):
        logit = torch.zeros(1, 2, 2, requires_grad=True)
        reward, value = torch.tensor([[1.0, -1.0]]), torch.zeros(2, 2)
        upgo_loss(logit, torch.ones(1, 2), torch.zeros(1, 2, dtype=torch.long), reward, value).backward()
        assert logit.grad.tolist() == [[[-0.25, 0.25], [0.25, -0.25]]]


@pytest.mark.parametrize(
    "at, wrong, message",
    [
        (1, torch.zeros(10), "upgo_loss: 'rhos' has shape [10], expected [10, 3]"),
        (2, torch.zeros(10, 1).long(), "log_prob: 'action' has shape [10, 1], expected [10, 3]"),
        (3, torch.zeros(10), "upgo_returns: 'rewards' has shape [10], expected ['any', 'any']"),
        (4, torch.zeros(10, 3), "upgo_returns: 'bootstrap_values' has shape [10, 3], expected [11, 3]"),
        (6, torch.zeros(11, 3), "upgo_returns: 'terminated' has shape [11, 3], expected [10, 3]"),
        (9, torch.zeros(3), "upgo_loss: 'weight' has shape [3], expected [10, 3]"),
    ],
)  # fmt: skip
def test_a_wrong_shape_is_said(at, wrong, message):
    arguments = [*example()[:5], 1.0, *example()[5:], None]
    arguments[at] = wrong
    with pytest.raises(SpecError) as e:
        upgo_loss(*arguments)
    assert str(e.value) == message
