"""Generalized advantages: by hand, a slow oracle on random ends, exact advantages of a small MDP, limits, errors."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import policy_gradient as oracle

from nervex.rl_utils.advantage import gae, gae_data
from nervex.rl_utils.recursion import backward_recursion
from nervex.utils.errors import SpecError

MASKS = ("terminated", "truncated", "valid")


def column(*numbers, dtype=torch.float32):
    return torch.tensor(numbers, dtype=dtype).unsqueeze(1)


def flags(*numbers):
    return column(*numbers, dtype=torch.bool)


def tensors(rows):
    return {k: torch.from_numpy(v) for k, v in rows.items()}


def poisoned(rows):
    """NaN wherever no advantage may look: rewards and values of rows that are no transition, unless a row bootstraps
    from them, and values after a termination."""
    read = np.zeros(rows["value"].shape, bool)
    read[:-1] |= rows["valid"]
    read[1:] |= rows["valid"] & ~rows["terminated"]
    out = dict(
        rows, value=np.where(read, rows["value"], np.nan), reward=np.where(rows["valid"], rows["reward"], np.nan)
    )
    return tensors(out)


class TestByHand:
    """Rewards 1, 2, 4, values 8, 16, 32, 64, γ = λ = 1/2: δ is 1 + 8 − 8, 2 + 16 − 16, 4 + 32 − 32."""

    value, reward = column(8, 16, 32, 64), column(1, 2, 4)

    def of(self, **masks):
        return gae(gae_data(self.value, self.reward, **masks), 0.5, 0.5).squeeze(1).tolist()

    def test_one_episode_that_goes_on(self):
        assert self.of() == [1 + 2 / 4 + 4 / 16, 2 + 4 / 4, 4]

    def test_terminated(self):
        # δ_1 = 2 − 16
        assert self.of(terminated=flags(0, 1, 0)) == [1 - 14 / 4, -14, 4]

    def test_truncated_bootstraps_and_cuts(self):
        assert self.of(truncated=flags(0, 1, 0)) == [1 + 2 / 4, 2, 4]

    def test_truncated_with_the_dummy_row(self):
        assert self.of(truncated=flags(1, 0, 0), valid=flags(1, 0, 1)) == [1, 0, 4]

    def test_terminated_with_the_dummy_row(self):
        assert self.of(terminated=flags(1, 0, 0), valid=flags(1, 0, 1)) == [1 - 8, 0, 4]

    def test_a_broken_episode_bootstraps(self):
        assert self.of(valid=flags(1, 0, 1)) == [1, 0, 4]

    def test_padding(self):
        assert self.of(terminated=flags(0, 1, 0), valid=flags(1, 1, 0)) == [1 - 14 / 4, -14, 0]

    def test_both_is_terminated(self):
        assert self.of(terminated=flags(0, 1, 0), truncated=flags(0, 1, 0)) == self.of(terminated=flags(0, 1, 0))

    def test_defaults_are_a_discount_of_99_and_a_lambda_of_97_percent(self):
        adv = gae(gae_data(column(0, 0, 0), column(0, 1)))
        assert adv.squeeze(1).tolist() == pytest.approx([0.99 * 0.97, 1])


def test_a_truncated_episode_is_worth_what_it_would_go_on_to_be():
    """A reward of 1 for ever is worth 1/(1 − γ). With that value, a time limit changes no advantage: all are 0."""
    gamma, total = 0.9, 30
    value = torch.full((total + 1, 2), 1 / (1 - gamma), dtype=torch.float64)
    truncated = torch.zeros(total, 2, dtype=torch.bool)
    truncated[[4, 11, 29], 0] = truncated[[0, 16], 1] = True
    valid = torch.ones(total, 2, dtype=torch.bool)
    valid[[5, 12], 0] = valid[[1, 17], 1] = False
    data = gae_data(value, torch.ones(total, 2, dtype=torch.float64) * valid, None, truncated, valid)
    for lambda_ in (0.0, 0.5, 0.95, 1.0):
        assert gae(data, gamma, lambda_).abs().max() < 1e-12
    wrong = gae(data._replace(truncated=None, terminated=truncated), gamma, 1.0)
    assert wrong[4, 0].item() == pytest.approx(-gamma / (1 - gamma))  # a termination there would be this much worse


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 20), st.integers(1, 4), st.floats(0, 1), st.floats(0, 1))
def test_against_the_oracle(seed, total, batch, gamma, lambda_):
    rows = oracle.random_rows(np.random.default_rng(seed), total, batch)
    masks = {k: rows[k] for k in MASKS}
    expected = oracle.gae(rows["value"], rows["reward"], gamma, lambda_, **masks)
    given_rows = poisoned(rows)
    data = gae_data(given_rows["value"], given_rows["reward"], *(given_rows[k] for k in MASKS))
    found = gae(data, gamma, lambda_)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11)
    returns = oracle.lambda_returns(rows["value"], rows["reward"], gamma, lambda_, **masks)
    np.testing.assert_allclose(expected + rows["value"][:-1], returns, rtol=1e-10, atol=1e-10)
    single = gae(gae_data(*(x if x.dtype == torch.bool else x.float() for x in data)), gamma, lambda_)
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("absent", [("terminated",), ("truncated",), ("valid",), MASKS])
def test_masks_of_none(absent):
    rows = oracle.random_rows(np.random.default_rng(3), 12, 3)
    masks = {k: None if k in absent else rows[k] for k in MASKS}
    expected = oracle.gae(rows["value"], rows["reward"], 0.9, 0.8, **masks)
    given_masks = {k: None if v is None else torch.from_numpy(v) for k, v in masks.items()}
    data = gae_data(torch.from_numpy(rows["value"]), torch.from_numpy(rows["reward"]), **given_masks)
    np.testing.assert_allclose(gae(data, 0.9, 0.8), expected, rtol=1e-12, atol=1e-12)
    numbers = data._replace(**{k: v.float() for k, v in given_masks.items() if v is not None})
    assert torch.equal(gae(numbers, 0.9, 0.8), gae(data, 0.9, 0.8))  # 0 and 1 as well as bool


class TestLimits:
    def data(self):
        rows = tensors(oracle.random_rows(np.random.default_rng(5), 40, 3))
        return gae_data(rows["value"], rows["reward"], *(rows[k] for k in MASKS))

    def test_lambda_of_zero_is_the_td_error(self):
        data = self.data()
        error = data.reward + 0.9 * data.value[1:] * ~data.terminated - data.value[:-1]
        assert torch.allclose(gae(data, 0.9, 0.0), error * data.valid)

    def test_gamma_of_zero_is_the_reward_less_the_value(self):
        data = self.data()
        assert torch.allclose(gae(data, 0.0, 0.7), (data.reward - data.value[:-1]) * data.valid)

    def test_lambda_of_one_is_the_return_less_the_value(self):
        value, reward = torch.randn(9, 1, dtype=torch.float64), torch.randn(8, 1, dtype=torch.float64)
        power = 0.9 ** torch.arange(9, dtype=torch.float64)
        for t in range(8):
            return_ = (power[: 8 - t] * reward[t:, 0]).sum() + power[8 - t] * value[8, 0]
            adv = gae(gae_data(value, reward), 0.9, 1.0)[t, 0]
            assert adv.item() == pytest.approx((return_ - value[t, 0]).item(), rel=1e-12)

    def test_a_constant_added_to_all_values_where_nothing_ends_changes_it_by_its_discount(self):
        data = self.data()._replace(terminated=None, truncated=None, valid=None)
        more = gae(data._replace(value=data.value + 10), 0.9, 0.0)
        assert torch.allclose(more, gae(data, 0.9, 0.0) - 1.0)

    def test_lanes_do_not_know_each_other(self):
        data = self.data()
        alone = [gae(gae_data(*(x[:, b : b + 1] for x in data)), 0.9, 0.8) for b in range(3)]
        assert torch.equal(torch.cat(alone, 1), gae(data, 0.9, 0.8))


class TestExactValues:
    """With the exact values of the policy, E[A_0 | s, a] is the true advantage for every λ and any horizon."""

    policy = np.array([[0.3, 0.7], [0.5, 0.5], [0.9, 0.1]])

    @pytest.mark.parametrize("lambda_", [0.0, 0.4, 1.0])
    @pytest.mark.parametrize("gamma", [0.5, 0.95])
    def test_expected_advantages(self, gamma, lambda_):
        mdp = oracle.SmallMDP(gamma)
        value, _, advantage = mdp.values(self.policy)
        for start in range(3):
            paths = mdp.paths(self.policy, start, 4)
            prob = torch.tensor([p["prob"] for p in paths], dtype=torch.float64)
            assert prob.sum().item() == pytest.approx(1)
            data = gae_data(
                torch.tensor([[value[s] for s in p["state"]] for p in paths], dtype=torch.float64).T,
                *(torch.tensor([p[k] for p in paths]).T for k in ("reward", "terminated")),
                None,
                torch.tensor([p["valid"] for p in paths]).T,
            )
            adv, first = gae(data, gamma, lambda_)[0], torch.tensor([p["action"][0] for p in paths])
            for a in range(2):
                expected = (prob * adv)[first == a].sum() / prob[first == a].sum()
                assert expected.item() == pytest.approx(advantage[start, a], abs=1e-12)
            assert (prob * adv).sum().item() == pytest.approx(0, abs=1e-12)

    def test_the_values_are_those_of_long_paths(self):
        mdp = oracle.SmallMDP(0.5)
        value, _, _ = mdp.values(self.policy)
        for start in range(3):
            returns = sum(p["prob"] * sum(0.5**t * r for t, r in enumerate(p["reward"]))
                          for p in mdp.paths(self.policy, start, 6))  # fmt: skip
            assert returns == pytest.approx(value[start], abs=0.05)  # what lies beyond six steps


def test_no_gradient_and_nothing_is_changed():
    value, reward = torch.randn(4, 2, requires_grad=True), torch.randn(3, 2, requires_grad=True)
    before = value.detach().clone(), reward.detach().clone()
    assert not gae(gae_data(value, reward)).requires_grad
    assert torch.equal(value, before[0]) and torch.equal(reward, before[1])


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 40))
def test_backward_recursion_is_the_loop(seed, total):
    generator = torch.Generator().manual_seed(seed)
    first, factor = torch.randn(2, total, 2, 3, generator=generator, dtype=torch.float64).unbind()
    expected, x = [], torch.zeros(2, 3, dtype=torch.float64)
    for t in reversed(range(total)):
        x = first[t] + factor[t] * x
        expected.insert(0, x)
    found = backward_recursion(first, factor)
    assert found.shape == first.shape
    assert torch.allclose(found, torch.stack(expected) if expected else first, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"reward": torch.zeros(3)}, "gae: 'reward' has shape [3], expected ['any', 'any']"),
        ({"value": torch.zeros(3, 2)}, "gae: 'value' has shape [3, 2], expected [4, 2]"),
        ({"value": torch.zeros(4, 1)}, "gae: 'value' has shape [4, 1], expected [4, 2]"),
        ({"terminated": torch.zeros(3, 2, 1)}, "gae: 'terminated' has shape [3, 2, 1], expected [3, 2]"),
        ({"truncated": torch.zeros(2, 3)}, "gae: 'truncated' has shape [2, 3], expected [3, 2]"),
        ({"valid": torch.zeros(4, 2)}, "gae: 'valid' has shape [4, 2], expected [3, 2]"),
    ],
)
def test_a_wrong_shape_is_said(changed, message):
    with pytest.raises(SpecError) as e:
        gae(gae_data(torch.zeros(4, 2), torch.zeros(3, 2))._replace(**changed))
    assert str(e.value) == message
