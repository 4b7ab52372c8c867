"""Errors of state values and λ-returns: numbers by hand, slow oracles, known values, limits, gradients, refusals."""

import numpy as np
import pytest
import torch
from oracles import mdp, values
from torch.nn.functional import huber_loss, mse_loss

from nervex.rl_utils.value_td import (
    generalized_lambda_returns,
    multistep_forward_view,
    td_lambda_data,
    td_lambda_error,
    v_1step_td_data,
    v_1step_td_error,
    v_1step_td_error_per_sample,
    v_nstep_td_data,
    v_nstep_td_error,
    v_nstep_td_error_per_sample,
)
from nervex.utils.errors import SpecError

V = torch.tensor([1.0, 2.0, 3.0])
NEXT_V = torch.tensor([4.0, 6.0, 8.0])
REWARD = torch.tensor([1.0, 2.0, 3.0])
REWARD_2 = torch.tensor([[1.0, 2.0, 3.0], [4.0, 0.0, 6.0]])  # [n, B]
DONE = torch.tensor([False, True, False])
WEIGHT = torch.tensor([1.0, 0.5, 0.0])
MASKS = ("terminated", "truncated", "valid")


def huber(prediction, target):
    return huber_loss(prediction, target, reduction="none")


def lanes(seed, row_num=13, lane_num=6):
    rng = np.random.default_rng(seed)
    rows = values.random_lanes(rng, row_num, lane_num, gaps=True)
    rows["value"] = rng.normal(size=(row_num + 1, lane_num))
    return rows, rng


def masks_of(rows):
    return tuple(rows[k] for k in MASKS)


def tensors(*arrays):
    return [torch.from_numpy(x) for x in arrays]


class TestOneStep:
    """Targets 1 + 4/2, 2, 3 + 8/2 against 1, 2, 3: errors 2, 0, 4."""

    def test_by_hand(self):
        data = v_1step_td_data(V, NEXT_V, REWARD, DONE, None)
        assert v_1step_td_error(data, 0.5).item() == pytest.approx(20 / 3)
        loss, error = v_1step_td_error_per_sample(data, 0.5)
        assert error.tolist() == [2.0, 0.0, 4.0] and loss.item() == pytest.approx(20 / 3)
        assert not error.requires_grad

    def test_the_weight_multiplies_the_error_and_not_the_target(self):
        # v = 2, r = 1, γ·v' = 0, weights 1 and 0: ((1 − 2)²·1 + (1 − 2)²·0) / 2; a weighted target gives 2.5
        data = v_1step_td_data(torch.full((2,), 2.0), torch.zeros(2), torch.ones(2), None, torch.tensor([1.0, 0.0]))
        assert v_1step_td_error(data, 0.9).item() == 0.5
        assert v_1step_td_error(v_1step_td_data(V, NEXT_V, REWARD, DONE, WEIGHT), 0.5).item() == pytest.approx(4 / 3)

    def test_done_of_none_bootstraps_always(self):
        error = v_1step_td_error_per_sample(v_1step_td_data(V, NEXT_V, REWARD), 0.5)[1]
        assert error.tolist() == [2.0, 3.0, 4.0]

    def test_what_follows_the_end_does_not_matter(self):
        next_v = torch.tensor([4.0, torch.nan, 8.0])
        for done in (DONE, DONE.float()):
            assert v_1step_td_error_per_sample(v_1step_td_data(V, next_v, REWARD, done), 0.5)[1].tolist() == [2, 0, 4]

    @pytest.mark.parametrize("shape", [(3, 1), (1, 3), (3, 1, 1)])
    def test_any_equal_shapes(self, shape):
        data = v_1step_td_data(*[x.reshape(shape) for x in (V, NEXT_V, REWARD, DONE, WEIGHT)])
        loss, error = v_1step_td_error_per_sample(data, 0.5)
        assert loss.item() == pytest.approx(4 / 3) and error.shape == shape

    def test_criterion(self):
        data = v_1step_td_data(V, NEXT_V, REWARD, DONE)
        assert v_1step_td_error(data, 0.5, huber).item() == pytest.approx((1.5 + 0 + 3.5) / 3)

    def test_gamma_of_zero_is_the_reward(self):
        data = v_1step_td_data(V, NEXT_V, REWARD)
        assert v_1step_td_error_per_sample(data, 0.0)[1].tolist() == (REWARD - V).tolist()


class TestNStep:
    """n = 2, γ = 1/2: rewards 1 + 4/2, 2, 3 + 6/2; bootstraps 4/4, 0, 8/4; errors 3, 0, 5."""

    def test_by_hand(self):
        data = v_nstep_td_data(V, NEXT_V, REWARD_2, DONE, None, None)
        loss, error = v_nstep_td_error_per_sample(data, 0.5, 2)
        assert error.tolist() == [3.0, 0.0, 5.0] and loss.item() == pytest.approx(34 / 3)
        assert v_nstep_td_error(data, 0.5, 2).item() == loss.item()

    def test_factor_of_a_window_that_a_time_limit_cut(self):
        data = v_nstep_td_data(V, NEXT_V, REWARD_2, DONE, WEIGHT, torch.tensor([0.5, 0.5, 0.25]))
        loss, error = v_nstep_td_error_per_sample(data, 0.5, 2)
        assert error.tolist() == [4.0, 0.0, 5.0] and loss.item() == pytest.approx(16 / 3)

    def test_criterion(self):
        assert v_nstep_td_error(v_nstep_td_data(V, NEXT_V, REWARD_2, DONE), 0.5, 2, huber).item() == pytest.approx(
            7 / 3
        )

    def test_one_step_is_the_one_step_error(self):
        one = v_1step_td_error(v_1step_td_data(V, NEXT_V, REWARD, DONE, WEIGHT), 0.9)
        data = v_nstep_td_data(V, NEXT_V, REWARD[None], DONE, WEIGHT)
        assert v_nstep_td_error(data, 0.9).item() == v_nstep_td_error_per_sample(data, 0.9)[0].item() == one.item()

    @pytest.mark.parametrize("nstep", [1, 3, 5])
    @pytest.mark.parametrize("seed", range(3))
    def test_against_the_oracle(self, seed, nstep):
        rng = np.random.default_rng(seed)
        v, next_v, factor, weight = rng.normal(size=(4, 7))
        reward, done = rng.normal(size=(nstep, 7)), rng.random(7) < 0.4
        for own in (None, factor):
            expected = values.td_errors(v, next_v, reward, done, 0.9, own)
            data = v_nstep_td_data(
                *tensors(v, next_v, reward, done, weight), None if own is None else torch.tensor(own)
            )
            loss, error = v_nstep_td_error_per_sample(data, 0.9, nstep)
            assert error.dtype == torch.float64 and error.numpy() == pytest.approx(expected, abs=1e-13)
            assert loss.item() == pytest.approx((weight * expected**2).mean(), abs=1e-13)
        if nstep == 1:
            one = v_1step_td_data(*tensors(v, next_v, reward[0], done))
            assert v_1step_td_error_per_sample(one, 0.9)[1].numpy() == pytest.approx(
                values.td_errors(v, next_v, reward, done, 0.9), abs=1e-13
            )


class TestLambdaReturnsByHand:
    """γ = 1/2, λ = 1/2; one lane of rewards 1, 2, 4, 8 and values 16, 8, 4, 2, 32."""

    reward = torch.tensor([[1.0], [2.0], [4.0], [8.0]])
    value = torch.tensor([[16.0], [8.0], [4.0], [2.0], [32.0]])

    def returns(self, **masks):
        masks = {k: torch.tensor(v, dtype=torch.bool)[:, None] for k, v in masks.items()}
        return generalized_lambda_returns(self.value, self.reward, 0.5, 0.5, **masks).flatten().tolist()

    def test_no_end(self):
        # G_3 = 8 + 16; G_2 = 4 + (2 + 24) / 4; G_1 = 2 + (4 + 10.5) / 4; G_0 = 1 + (8 + 5.625) / 4
        assert self.returns() == [4.40625, 5.625, 10.5, 24.0]

    def test_terminated_in_row_1_and_its_dummy(self):
        # G_1 = 2; row 2 is the dummy; G_0 = 1 + (8 + 2) / 4
        assert self.returns(terminated=[0, 1, 0, 0], valid=[1, 1, 0, 1]) == [3.5, 2.0, 0.0, 24.0]

    def test_truncated_in_row_1_bootstraps_from_its_dummy(self):
        # G_1 = 2 + 4 / 2; G_0 = 1 + (8 + 4) / 4
        assert self.returns(truncated=[0, 1, 0, 0], valid=[1, 1, 0, 1]) == [4.0, 4.0, 0.0, 24.0]

    def test_ends_without_a_dummy(self):
        assert self.returns(terminated=[0, 1, 0, 0]) == [3.5, 2.0, 10.5, 24.0]
        assert self.returns(truncated=[0, 1, 0, 0]) == [4.0, 4.0, 10.5, 24.0]  # the next values are the caller's

    def test_one_row(self):
        assert generalized_lambda_returns(self.value[:2], self.reward[:1], 0.5, 0.5).tolist() == [[1 + 8 / 2]]

    def test_terminated_in_the_last_row(self):
        assert self.returns(terminated=[0, 0, 0, 1])[2:] == [4 + (2 + 8) / 4, 8.0]

    def test_a_row_before_an_invalid_one_bootstraps_fully(self):
        assert self.returns(valid=[1, 1, 0, 1])[:3] == [1 + (8 + 4) / 4, 2 + 4 / 2, 0.0]

    def test_the_forward_view_takes_the_next_values(self):
        forward = multistep_forward_view(self.value[1:], self.reward, 0.5, 0.5)
        assert forward.flatten().tolist() == [4.40625, 5.625, 10.5, 24.0]

    def test_loss(self):
        error = [4.40625 - 16, 5.625 - 8, 10.5 - 4, 24 - 2]
        loss = td_lambda_error(td_lambda_data(self.value, self.reward), 0.5, 0.5)
        assert loss.item() == pytest.approx(0.5 * sum(e * e for e in error) / 4)

    def test_defaults_of_the_loss(self):
        given = td_lambda_error(td_lambda_data(self.value, self.reward), 0.9, 0.8)
        assert td_lambda_error(td_lambda_data(self.value, self.reward, None)).item() == given.item()


@pytest.mark.parametrize("seed", range(15))
class TestLambdaReturnsAgainstTheOracles:
    def test_gamma_and_lambda_of_each_row(self, seed):
        rows, rng = lanes(seed)
        gamma, lambda_ = rng.random((2, 13, 6))
        expected = values.lambda_returns(rows["value"][1:], rows["reward"], gamma, lambda_, masks_of(rows))
        got = generalized_lambda_returns(
            *tensors(rows["value"], rows["reward"], gamma, lambda_), *tensors(*masks_of(rows))
        )
        assert got.dtype == torch.float64 and got.numpy() == pytest.approx(expected, rel=1e-12, abs=1e-12)

    @pytest.mark.parametrize("lambda_", [0.0, 0.7, 1.0])
    def test_the_mixture_of_nstep_returns(self, seed, lambda_):
        rows, _ = lanes(seed)
        expected = values.lambda_mixture(rows["value"][1:], rows["reward"], 0.9, lambda_, masks_of(rows))
        masks = tensors(*masks_of(rows))
        value, reward = tensors(rows["value"], rows["reward"])
        got = generalized_lambda_returns(value, reward, 0.9, lambda_, *masks)
        assert got.numpy() == pytest.approx(expected, rel=1e-12, abs=1e-12)
        single = generalized_lambda_returns(value.float(), reward.float(), 0.9, lambda_, *masks)
        assert single.dtype == torch.float32 and single.numpy() == pytest.approx(expected, rel=1e-5, abs=1e-4)

    def test_loss_is_the_mean_over_valid_rows(self, seed):
        rows, rng = lanes(seed)
        valid = rows["valid"]
        returns = values.lambda_mixture(rows["value"][1:], rows["reward"], 0.9, 0.8, masks_of(rows))
        square = 0.5 * (returns - rows["value"][:-1]) ** 2
        value, reward = tensors(rows["value"], rows["reward"])
        masks = dict(zip(MASKS, tensors(*masks_of(rows)), strict=True))
        expected = square[valid].mean()
        assert td_lambda_error(td_lambda_data(value, reward, **masks)).item() == pytest.approx(expected)
        numbers = {k: v.double() for k, v in masks.items()}
        assert td_lambda_error(td_lambda_data(value, reward, **numbers)).item() == pytest.approx(expected)
        weight = torch.from_numpy(valid / valid.mean())
        assert td_lambda_error(td_lambda_data(value, reward, weight, **masks)).item() == pytest.approx(expected)
        per_lane = rng.random(6)
        expected = (square * valid * per_lane).mean()
        weighted = td_lambda_data(value, reward, torch.from_numpy(per_lane), **masks)
        assert td_lambda_error(weighted).item() == pytest.approx(expected)

    def test_invalid_rows_and_what_follows_an_end_do_not_matter(self, seed):
        rows, _ = lanes(seed)
        masks = dict(zip(MASKS, tensors(*masks_of(rows)), strict=True))
        value, reward = tensors(rows["value"], rows["reward"])
        value.requires_grad_()
        clean = td_lambda_error(td_lambda_data(value, reward, **masks))
        poisoned = reward.masked_fill(~masks["valid"], torch.nan)
        loss = td_lambda_error(td_lambda_data(value, poisoned, **masks))
        loss.backward()
        assert loss.item() == clean.item()
        assert value.grad.isfinite().all() and not value.grad[:-1][~masks["valid"]].any()


class TestLimits:
    def test_lambda_of_zero_is_the_one_step_target(self):
        rows, _ = lanes(0)
        masks = tensors(*masks_of(rows))
        value, reward = tensors(rows["value"], rows["reward"])
        one = torch.where(masks[2], reward + 0.9 * torch.where(masks[0], 0, value[1:]), 0)
        assert generalized_lambda_returns(value, reward, 0.9, 0.0, *masks).allclose(one, rtol=1e-14)

    def test_gamma_of_zero_is_the_reward(self):
        rows, _ = lanes(1)
        value, reward = tensors(rows["value"], rows["reward"])
        assert generalized_lambda_returns(value, reward, 0.0, 0.8).equal(reward)

    def test_lambda_of_one_is_the_discounted_sum(self):
        reward = torch.tensor([[1.0], [2.0], [4.0]], dtype=torch.float64)
        value = torch.full((4, 1), 8.0, dtype=torch.float64)
        returns = generalized_lambda_returns(value, reward, 0.5, 1.0)
        assert returns.flatten().tolist() == [1 + 1 + 1 + 1, 2 + 2 + 2, 4 + 4]

    def test_a_tensor_without_dimensions(self):
        rows, _ = lanes(2)
        value, reward = tensors(rows["value"], rows["reward"])
        got = generalized_lambda_returns(value, reward, torch.tensor(0.9).double(), torch.tensor(0.8).double())
        assert got.allclose(generalized_lambda_returns(value, reward, 0.9, 0.8), rtol=1e-6)

    def test_no_valid_row_gives_no_loss(self):
        nothing = torch.zeros(3, 2, dtype=torch.bool)
        data = td_lambda_data(torch.ones(4, 2), torch.full((3, 2), torch.nan), valid=nothing)
        assert td_lambda_error(data).item() == 0


class TestKnownValues:
    """With a policy's true values every target is that value, wherever time limits cut the episodes."""

    @pytest.mark.parametrize("time_limit", [1, 3, 7, np.inf])
    @pytest.mark.parametrize("lambda_", [0.0, 0.6, 1.0])
    def test_ring_that_only_time_limits_cut(self, lambda_, time_limit):
        task, gamma = mdp.ring(3), 0.9
        true = mdp.values(task, np.ones((3, 1)), gamma)[0]
        assert true[0] == pytest.approx((1 + 2 * gamma + 3 * gamma**2) / (1 - gamma**3))
        self.check(task, np.ones((3, 1)), true, gamma, lambda_, time_limit)

    @pytest.mark.parametrize("time_limit", [2, 4, np.inf])
    @pytest.mark.parametrize("lambda_", [0.0, 0.6, 1.0])
    def test_corridor_along_the_best_path(self, lambda_, time_limit):
        task, gamma = mdp.corridor(5), 0.9
        true, q_value = mdp.optimal_values(task, gamma)
        assert true == pytest.approx([gamma ** (4 - s) for s in range(5)])
        assert q_value[:, 0] == pytest.approx([gamma * true[max(s - 1, 0)] for s in range(5)])
        self.check(task, np.eye(2)[np.ones(5, int)], true, gamma, lambda_, time_limit)

    def check(self, task, policy, true, gamma, lambda_, time_limit):
        rows = mdp.play(task, policy, np.random.default_rng(0), 40, time_limit)
        assert rows["truncated"].any() == (time_limit < 10)
        value = torch.tensor([*true, torch.nan], dtype=torch.float64)[rows["state"]]  # NaN after a termination
        masks = [torch.from_numpy(rows[k])[:, None] for k in MASKS]
        reward = torch.from_numpy(rows["reward"])[:, None]
        returns = generalized_lambda_returns(value[:, None], reward, gamma, lambda_, *masks)[:, 0]
        valid = rows["valid"]
        assert returns[valid].numpy() == pytest.approx(value[:-1][valid].numpy(), rel=1e-12)

    def test_one_step_loss_of_a_random_chain_is_least_at_its_values(self):
        """Each transition weighted by its probability: Σ_s' P(s'|s)·2·(V(s) − r − γ·V(s')) is 0 for each s."""
        task, gamma = mdp.two_state_chain(stay=0.25, end=0.5), 0.8
        true = mdp.values(task, np.ones((2, 1)), gamma)[0]
        first = (1 - 2 * gamma * 0.75) / (1 - gamma * 0.25 - gamma**2 * 0.75 * 0.5)
        assert true == pytest.approx([first, -2 + gamma * 0.5 * first])
        table = torch.tensor(true, requires_grad=True)
        state, after = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 0])
        reward, done = torch.tensor([1.0, 1, -2, -2]).double(), torch.tensor([False, False, False, True])
        weight = torch.tensor([0.25, 0.75, 0.5, 0.5]).double()
        v_1step_td_error(v_1step_td_data(table[state], table[after], reward, done, weight), gamma).backward()
        assert table.grad.numpy() == pytest.approx([0, 0], abs=1e-12)


class TestGradients:
    def test_one_and_n_steps_reach_the_prediction_only(self):
        for fn, data in (
            (v_1step_td_error_per_sample, [V, NEXT_V, REWARD, None, WEIGHT]),
            (v_nstep_td_error_per_sample, [V, NEXT_V, REWARD[None], None, WEIGHT, torch.ones(3)]),
        ):
            leaves = [None if x is None else x.clone().requires_grad_() for x in data]
            kind = v_1step_td_data if fn is v_1step_td_error_per_sample else v_nstep_td_data
            loss, error = fn(kind(*leaves), 1.0)
            loss.backward()
            assert not error.requires_grad
            assert leaves[0].grad.tolist() == pytest.approx([-2 * 4 / 3, -2 * 6 * 0.5 / 3, 0])
            assert all(x is None or x.grad is None for x in leaves[1:])

    def test_td_lambda_reaches_the_values_of_its_rows_only(self):
        value = TestLambdaReturnsByHand.value.clone().requires_grad_()
        reward = TestLambdaReturnsByHand.reward.clone().requires_grad_()
        weight = torch.tensor([[1.0], [2.0], [0.0], [1.0]], requires_grad=True)
        td_lambda_error(td_lambda_data(value, reward, weight), 0.5, 0.5).backward()
        assert value.grad.flatten().tolist() == pytest.approx(
            [(16 - 4.40625) / 4, 2 * (8 - 5.625) / 4, 0, (2 - 24) / 4, 0]
        )
        assert reward.grad is None and weight.grad is None

    def test_returns_are_differentiable_for_those_who_want_it(self):
        rows, _ = lanes(3, 7, 2)
        masks = tensors(*masks_of(rows))
        value, reward = (x.requires_grad_() for x in tensors(rows["value"], rows["reward"]))
        assert torch.autograd.gradcheck(
            lambda v, r: generalized_lambda_returns(v, r, 0.9, 0.8, *masks), (value, reward)
        )


R, R_NEXT = torch.ones(3, 2), torch.ones(4, 2)
ERRORS = [
    (lambda: v_1step_td_error(v_1step_td_data(V, NEXT_V[:2], REWARD), 1),
     "v_1step_td_error: 'next_v' has shape [2], expected [3]"),
    (lambda: v_1step_td_error(v_1step_td_data(V, NEXT_V, REWARD[:, None]), 1),
     "v_1step_td_error: 'reward' has shape [3, 1], expected [3]"),
    (lambda: v_1step_td_error(v_1step_td_data(V, NEXT_V, REWARD, DONE[:1]), 1),
     "v_1step_td_error: 'done' has shape [1], expected [3]"),
    (lambda: v_1step_td_error(v_1step_td_data(V.long(), NEXT_V, REWARD), 1),
     "v_1step_td_error: 'v' is torch.int64, expected a floating tensor; cast it with .float()"),
    (lambda: v_1step_td_error(v_1step_td_data(V, NEXT_V, REWARD), 1, mse_loss),
     "v_1step_td_error: 'criterion' returned shape [], expected [3]; it must be elementwise (reduction='none')"),
    (lambda: v_1step_td_error(v_1step_td_data(R, R, R, None, R[0]), 1),
     "v_1step_td_error: 'weight' has shape [2], expected [3, 2]"),
    (lambda: v_nstep_td_error(v_nstep_td_data(V.long(), NEXT_V, REWARD_2), 1, 2),
     "v_nstep_td_error: 'v' is torch.int64, expected a floating tensor; cast it with .float()"),
    (lambda: v_nstep_td_error(v_nstep_td_data(V[None], NEXT_V, REWARD_2), 1, 2),
     "v_nstep_td_error: 'v' has shape [1, 3], expected ['any']"),
    (lambda: v_nstep_td_error(v_nstep_td_data(V, NEXT_V[:2], REWARD_2), 1, 2),
     "v_nstep_td_error: 'next_n_v' has shape [2], expected [3]"),
    (lambda: v_nstep_td_error(v_nstep_td_data(V, NEXT_V, REWARD_2, DONE, WEIGHT[:2]), 1, 2),
     "v_nstep_td_error: 'weight' has shape [2], expected [3]"),
    (lambda: td_lambda_error(td_lambda_data(R, R)), "td_lambda_error: 'value' has shape [3, 2], expected [4, 2]"),
    (lambda: td_lambda_error(td_lambda_data(R_NEXT, R[0])),
     "td_lambda_error: 'reward' has shape [2], expected ['any', 'any']"),
    (lambda: td_lambda_error(td_lambda_data(R_NEXT, R, R[:, 0])),
     "td_lambda_error: 'weight' has shape [3], expected [3, 2]"),
    (lambda: td_lambda_error(td_lambda_data(R_NEXT, R, valid=R_NEXT)),
     "td_lambda_error: 'valid' has shape [4, 2], expected [3, 2]"),
    (lambda: generalized_lambda_returns(R, R[0], 1, 1),
     "generalized_lambda_returns: 'rewards' has shape [2], expected ['any', 'any']"),
    (lambda: multistep_forward_view(R[0], R[0], 1, 1),
     "multistep_forward_view: 'rewards' has shape [2], expected ['any', 'any']"),
    (lambda: generalized_lambda_returns(R, R, 1, 1),
     "generalized_lambda_returns: 'bootstrap_values' has shape [3, 2], expected [4, 2]"),
    (lambda: multistep_forward_view(R_NEXT, R, 1, 1),
     "multistep_forward_view: 'bootstrap_values' has shape [4, 2], expected [3, 2]"),
    (lambda: multistep_forward_view(R, R, R[0], 1), "multistep_forward_view: 'gammas' has shape [2], expected [3, 2]"),
    (lambda: multistep_forward_view(R, R, 1, R[:1]),
     "multistep_forward_view: 'lambda_' has shape [1, 2], expected [3, 2]"),
    (lambda: multistep_forward_view(R, R, 1, 1, terminated=R[0]),
     "multistep_forward_view: 'terminated' has shape [2], expected [3, 2]"),
    (lambda: multistep_forward_view(R, R, 1, 1, truncated=R[0]),
     "multistep_forward_view: 'truncated' has shape [2], expected [3, 2]"),
    (lambda: multistep_forward_view(R, R.long(), 1, 1),
     "multistep_forward_view: 'rewards' is torch.int64, expected a floating tensor; cast it with .float()"),
]  # fmt: skip


@pytest.mark.parametrize("call, message", ERRORS, ids=[m.split("'")[0][:-2] + "-" + m.split("'")[1] for _, m in ERRORS])
def test_a_wrong_shape_or_dtype_is_said(call, message):
    with pytest.raises(SpecError) as e:
        call()
    assert str(e.value) == message
