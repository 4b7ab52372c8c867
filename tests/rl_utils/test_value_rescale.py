"""The value rescaling of R2D2: h, its inverse, and the Q-learning loss between them."""

import numpy as np
import pytest
import torch
from oracles import returns, values
from torch.nn.functional import huber_loss

from nervex.rl_utils.td import q_nstep_td_data, q_nstep_td_error, q_nstep_td_error_per_sample
from nervex.rl_utils.value_rescale import (
    q_nstep_td_error_with_rescale,
    q_nstep_td_error_with_rescale_per_sample,
    value_inv_transform,
    value_transform,
)
from nervex.utils.errors import SpecError

NUMBERS = [0.0, 1e-8, -1e-4, 0.3, -1.0, 3.0, -24.0, 99.0, 5e3, -1e6, 1e12]


def identity(x):
    return x


def huber(prediction, target):
    return huber_loss(prediction, target, reduction="none")


class TestTransforms:
    def test_by_hand(self):
        x = torch.tensor([0.0, 3.0, -8.0, 99.0])  # √4 − 1 + 0.03, −(√9 − 1) − 0.08, √100 − 1 + 0.99
        assert value_transform(x).tolist() == pytest.approx([0.0, 1.03, -2.08, 9.99])
        assert value_inv_transform(torch.tensor([0.0, 1.03, -2.08, 9.99])).tolist() == pytest.approx([0, 3, -8, 99])

    @pytest.mark.parametrize("eps", [1e-3, 1e-2, 0.5])
    def test_against_the_definition_and_a_bisection(self, eps):
        x = torch.tensor(NUMBERS, dtype=torch.float64)
        assert value_transform(x, eps).tolist() == pytest.approx([values.rescale(v, eps) for v in NUMBERS], rel=1e-12)
        found = [values.inverse_rescale(v, eps) for v in NUMBERS]
        assert value_inv_transform(x, eps).tolist() == pytest.approx(found, rel=1e-12, abs=1e-15)

    def test_the_printed_inverse(self):
        x = torch.linspace(-50, 50, 101, dtype=torch.float64)
        inner = (torch.sqrt(1 + 4 * 0.01 * (x.abs() + 1 + 0.01)) - 1) / (2 * 0.01)
        assert value_inv_transform(x).allclose(x.sign() * (inner**2 - 1), rtol=1e-11, atol=1e-12)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_there_and_back_loses_only_rounding(self, dtype):
        x = torch.tensor(NUMBERS, dtype=dtype)
        back = value_inv_transform(value_transform(x))
        assert back.dtype == dtype
        assert ((back - x).abs() <= 16 * torch.finfo(dtype).eps * x.abs()).all()  # of a small x, too

    def test_epsilon_of_zero(self):
        assert value_transform(torch.tensor([3.0, -8.0]), 0.0).tolist() == [1.0, -2.0]
        assert value_inv_transform(torch.tensor([1.0, -2.0]), 0.0).tolist() == [3.0, -8.0]

    def test_odd_and_increasing(self):
        x = torch.linspace(-20, 20, 401, dtype=torch.float64)
        for fn in (value_transform, value_inv_transform):
            assert fn(-x).equal(-fn(x)) and (fn(x).diff() > 0).all()

    def test_slopes(self):
        x = torch.tensor([0.0, 3.0, -8.0], requires_grad=True)
        slope = torch.tensor([1 / 2, 1 / 4, 1 / 6]) + 0.01
        value_transform(x).sum().backward()
        assert x.grad.tolist() == pytest.approx(slope.tolist())
        y = value_transform(x).detach().requires_grad_()
        value_inv_transform(y).sum().backward()
        assert y.grad.tolist() == pytest.approx((1 / slope).tolist(), rel=1e-5)

    def test_any_shape(self):
        assert value_inv_transform(value_transform(torch.ones(2, 3, 4))).shape == (2, 3, 4)


class TestLoss:
    """Without ε, h(3) = 1 and h(8) = 2: Q' = 2 is worth 8, so 1 + 8/4 = 3 is the target 1; done: 8 is 2; 15 is 3."""

    data = q_nstep_td_data(
        q=torch.tensor([[0.5, 9.0], [9.0, 0.0], [1.0, 9.0]]),
        next_n_q=torch.tensor([[2.0, 1.0], [5.0, 5.0], [1.0, 0.0]]),
        action=torch.tensor([0, 1, 0]),
        next_n_action=None,
        reward=torch.tensor([[1.0, 7.0, 4.25], [0.0, 2.0, 20.0]]),
        done=torch.tensor([False, True, False]),
        weight=torch.tensor([1.0, 0.5, 2.0]),
    )
    transforms = (lambda x: value_transform(x, 0.0), lambda x: value_inv_transform(x, 0.0))

    def test_by_hand(self):
        loss, error = q_nstep_td_error_with_rescale_per_sample(self.data, 0.5, 2, trans_fn=self.transforms[0],
                                                               inv_trans_fn=self.transforms[1])  # fmt: skip
        assert error.tolist() == pytest.approx([1 - 0.5, 2 - 0, 3 - 1])
        assert loss.item() == pytest.approx((0.25 + 0.5 * 4 + 2 * 4) / 3)
        assert q_nstep_td_error_with_rescale(
            self.data, 0.5, 2, huber, *self.transforms
        ).item() == pytest.approx((0.125 + 0.5 * 1.5 + 2 * 1.5) / 3)  # fmt: skip

    def test_factor_of_a_cut_window(self):
        factor = torch.tensor([0.875, 1.0, 0.25])  # 1 + 7 = 8
        _, error = q_nstep_td_error_with_rescale_per_sample(
            self.data, 0.5, 2, trans_fn=self.transforms[0], inv_trans_fn=self.transforms[1], value_gamma=factor
        )
        assert error.tolist() == pytest.approx([2 - 0.5, 2, 2])

    def test_identity_is_the_plain_loss(self):
        plain = q_nstep_td_error_per_sample(self.data, 0.5, 2)
        loss, error = q_nstep_td_error_with_rescale_per_sample(
            self.data, 0.5, 2, trans_fn=identity, inv_trans_fn=identity
        )
        assert loss.item() == plain[0].item() and error.tolist() == pytest.approx(plain[1].tolist())

    def test_gamma_of_zero_is_the_rescaled_reward(self):
        _, error = q_nstep_td_error_with_rescale_per_sample(self.data, 0.0, 2)
        taken = self.data.q.gather(1, self.data.action[:, None])[:, 0]
        assert error.tolist() == pytest.approx((value_transform(self.data.reward[0]) - taken).tolist())

    @pytest.mark.parametrize("nstep", [1, 3])
    @pytest.mark.parametrize("double", [True, False])
    def test_against_the_oracle(self, nstep, double):
        rng = np.random.default_rng(nstep)
        q, next_q = rng.normal(size=(2, 6, 3)) * 4
        action, next_action = rng.integers(3, size=(2, 6))
        reward, done, weight, factor = rng.normal(size=(6, nstep)) * 9, rng.random(6) < 0.4, *rng.random((2, 6))
        for own in (None, factor):
            expected = []
            for b in range(6):
                chosen = next_action[b] if double else int(np.argmax(next_q[b]))
                after = values.inverse_rescale(next_q[b][chosen], 0.01)
                total = returns.nstep_return(reward[b], after, done[b], 0.9, None if own is None else own[b])
                expected.append(values.rescale(total, 0.01) - q[b][action[b]])
            data = q_nstep_td_data(*[None if x is None else torch.from_numpy(x) for x in (
                q, next_q, action, next_action if double else None, reward.T, done, weight)])  # fmt: skip
            value_gamma = None if own is None else torch.from_numpy(own)
            loss, error = q_nstep_td_error_with_rescale_per_sample(data, 0.9, nstep, value_gamma=value_gamma)
            assert error.dtype == torch.float64 and error.tolist() == pytest.approx(expected, rel=1e-10, abs=1e-12)
            assert loss.item() == pytest.approx(float(np.mean(weight * np.square(expected))), rel=1e-10)
            assert q_nstep_td_error_with_rescale(data, 0.9, nstep, value_gamma=value_gamma).item() == loss.item()

    def test_rescaled_optimal_values_are_a_fixed_point(self):
        q_star = torch.tensor([*returns.optimal_q(4, 2, returns.corridor(5), 0.9), [0.0, 0.0]], dtype=torch.float64)
        q_value = value_transform(q_star)
        data = q_nstep_td_data(q_value[:4], q_value[1:], torch.ones(4).long(), None,
                               torch.tensor([[0.0, 0, 0, 1]]).double(), torch.tensor([0, 0, 0, 1]), None)  # fmt: skip
        assert q_nstep_td_error_with_rescale(data, 0.9).item() == pytest.approx(0, abs=1e-24)
        assert q_nstep_td_error(data, 0.9).item() > 1e-3  # without rescaling it is none

    def test_gradient_reaches_only_the_prediction(self):
        q, next_q = self.data.q.clone().requires_grad_(), self.data.next_n_q.clone().requires_grad_()
        loss, error = q_nstep_td_error_with_rescale_per_sample(self.data._replace(q=q, next_n_q=next_q), 0.5, 2)
        loss.backward()
        assert next_q.grad is None and not error.requires_grad
        expected = torch.zeros(3, 2)
        expected[torch.arange(3), self.data.action] = -2 * error * self.data.weight / 3
        assert q.grad.allclose(expected)

    def test_int32_actions(self):
        loss = q_nstep_td_error_with_rescale(self.data._replace(action=self.data.action.int()), 0.5, 2)
        assert loss.item() == q_nstep_td_error_with_rescale(self.data, 0.5, 2).item()

    def test_one_step_by_default(self):
        data = self.data._replace(reward=self.data.reward[:1])
        one, default = (q_nstep_td_error_with_rescale_per_sample(data, 0.5, *n)[0].item() for n in ((1,), ()))
        assert one == default == q_nstep_td_error_with_rescale(data, 0.5).item()

    def test_a_wrong_shape_is_said(self):
        with pytest.raises(SpecError, match=r"^q_nstep_td_error: 'next_n_q' has shape \[2, 2\], expected \[3, 2\]$"):
            q_nstep_td_error_with_rescale(self.data._replace(next_n_q=self.data.next_n_q[:2]), 0.5, 2)
        with pytest.raises(SpecError, match=r"^nstep_return: 'reward' has shape \[2, 3\], expected \[1, 'any'\]$"):
            q_nstep_td_error_with_rescale(self.data, 0.5)
