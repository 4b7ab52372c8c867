"""Means over valid rows, and normalized advantages: by hand, against the oracle and torch, limits, errors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import policy_gradient as oracle

from nervex.rl_utils.normalize import normalize_advantage, weighted_mean
from nervex.utils.errors import SpecError

ADV = torch.tensor([1.0, 2.0, 3.0, 100.0])
VALID = torch.tensor([True, True, True, False])


class TestWeightedMean:
    def test_by_hand(self):
        assert weighted_mean(ADV, None).item() == 26.5
        assert weighted_mean(ADV, torch.tensor([1.0, 0.5, 0.0, 0.02])).item() == 1.0

    def test_valid_rows_and_the_weights_of_a_batch_are_the_same_mean(self):
        weight = VALID.float() / VALID.float().mean()
        assert weighted_mean(ADV, None, VALID).item() == pytest.approx(2.0)
        assert weighted_mean(ADV, weight).item() == pytest.approx(2.0)
        assert weighted_mean(ADV, weight, VALID).item() == pytest.approx(2.0)

    def test_what_is_not_valid_is_not_read(self):
        x = torch.tensor([1.0, 2.0, 3.0, float("nan")])
        assert weighted_mean(x, None, VALID).item() == 2.0
        assert weighted_mean(x, torch.ones(4), VALID).item() == 1.5

    def test_no_valid_row_is_zero(self):
        assert weighted_mean(ADV, None, torch.zeros(4, dtype=torch.bool)).item() == 0

    def test_gradient(self):
        x = ADV.clone().requires_grad_()
        weighted_mean(x, None, VALID).backward()
        assert x.grad.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])


class TestNormalizeAdvantage:
    def test_by_hand(self):
        assert normalize_advantage(ADV, VALID).tolist() == pytest.approx([-1, 0, 1, 0])  # the deviation of 1, 2, 3 is 1

    def test_without_a_mask_it_is_torchs_deviation(self):
        adv = torch.randn(64, dtype=torch.float64)
        assert torch.allclose(normalize_advantage(adv), (adv - adv.mean()) / (adv.std() + 1e-8), rtol=1e-12)

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.tuples(st.floats(-100, 100), st.booleans()), min_size=1, max_size=12))
    def test_against_the_oracle(self, rows):
        adv, counts = [a for a, _ in rows], [c for _, c in rows]
        found = normalize_advantage(torch.tensor(adv, dtype=torch.float64), torch.tensor(counts), eps=1e-3)
        assert found.tolist() == pytest.approx(oracle.normalized(adv, counts, 1e-3), rel=1e-9, abs=1e-9)

    def test_poison_in_other_rows(self):
        adv = torch.tensor([1.0, 2.0, 3.0, float("nan")])
        assert normalize_advantage(adv, VALID).tolist() == pytest.approx([-1, 0, 1, 0])

    def test_the_weights_of_a_batch_do_as_the_mask(self):
        adv, valid = torch.randn(3, 8, dtype=torch.float64), torch.rand(3, 8) < 0.7
        weight = valid.double() / valid.double().mean()
        assert torch.allclose(normalize_advantage(adv, weight), normalize_advantage(adv, valid), rtol=1e-12)

    def test_weights(self):
        """A weight of 2 moves the mean as a second such row would."""
        found = normalize_advantage(torch.tensor([0.0, 3.0]), torch.tensor([2.0, 1.0]), eps=0.0)
        # mean 1; biased variance (2·1 + 4) / 3 = 2, of two rows, so unbiased 4
        assert found.tolist() == pytest.approx([-0.5, 1.0])

    def test_scale_and_shift_change_nothing(self):
        adv = torch.randn(50, dtype=torch.float64)
        assert torch.allclose(normalize_advantage(3 * adv + 7), normalize_advantage(adv), atol=1e-6)

    @pytest.mark.parametrize("valid", [torch.tensor([True, False]), torch.tensor([False, False])])
    def test_one_row_or_none_is_zero(self, valid):
        assert normalize_advantage(torch.tensor([5.0, 7.0]), valid).tolist() == [0, 0]
        assert normalize_advantage(torch.tensor([5.0])).tolist() == [0]
        assert normalize_advantage(torch.tensor([5.0, 7.0]), torch.zeros(2), eps=1e-30).tolist() == [0, 0]

    def test_equal_advantages_are_zero(self):
        assert normalize_advantage(torch.full((4,), 3.0)).tolist() == [0] * 4

    def test_a_wrong_shape_is_said(self):
        with pytest.raises(SpecError) as e:
            normalize_advantage(ADV, VALID[:3])
        assert str(e.value) == "normalize_advantage: 'valid' has shape [3], expected [4]"
