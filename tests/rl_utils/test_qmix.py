"""The loss of QMIX on rows with ends and gaps, and the maximum over available actions."""

import numpy as np
import pytest
import torch
from oracles import mdp, multi_agent, values
from torch.nn.functional import huber_loss, mse_loss

from nervex.rl_utils.qmix import max_available, qmix_td_data, qmix_td_error, qmix_td_error_per_row
from nervex.utils.errors import SpecError

MASKS = ("terminated", "truncated", "valid")


def huber(prediction, target):
    return huber_loss(prediction, target, reduction="none")


def problem(seed):
    rng = np.random.default_rng(seed)
    rows = values.random_lanes(rng, 11, 5, gaps=seed % 2 == 1)
    total_q, target_total_q = rng.normal(size=(2, 11, 5)) * 30
    return total_q, target_total_q, rows["reward"], tuple(rows[k] for k in MASKS)


def data_of(total_q, target_total_q, reward, masks, weight=None):
    columns = [torch.from_numpy(x) for x in (total_q, target_total_q, reward, *masks)]
    return qmix_td_data(*columns, weight)


class TestByHand:
    """γ = 1/2; one lane: a step, a terminating step, its dummy, a step, and a last row that has no successor."""

    data = qmix_td_data(
        total_q=torch.tensor([[4.0], [1.0], [0.0], [2.0], [9.0]]),
        target_total_q=torch.tensor([[50.0], [6.0], [70.0], [80.0], [10.0]]),
        reward=torch.tensor([[1.0], [3.0], [0.0], [2.0], [99.0]]),
        terminated=torch.tensor([[False], [True], [False], [False], [False]]),
        truncated=torch.zeros(5, 1, dtype=torch.bool),
        valid=torch.tensor([[True], [True], [False], [True], [True]]),
    )

    def test_one_step(self):
        # targets 1 + 6/2, 3, -, 2 + 10/2, -: errors 0, 2, 5
        loss, error, trainable = qmix_td_error_per_row(self.data, 0.5)
        assert error.flatten().tolist() == [0, 2, 0, 5, 0]
        assert trainable.flatten().tolist() == [True, True, False, True, False]
        assert loss.item() == pytest.approx(29 / 3)
        assert qmix_td_error(self.data, 0.5).item() == loss.item()

    def test_two_steps(self):
        # targets 1 + 3/2, 3, -, 2 + 10/2, -
        assert qmix_td_error_per_row(self.data, 0.5, 2)[1].flatten().tolist() == [-1.5, 2, 0, 5, 0]

    def test_truncated_bootstraps_from_the_dummy(self):
        data = self.data._replace(terminated=self.data.truncated, truncated=self.data.terminated)
        assert qmix_td_error_per_row(data, 0.5)[1].flatten().tolist() == [0, 3 + 70 / 2 - 1, 0, 5, 0]

    def test_criterion_and_weights(self):
        assert qmix_td_error(self.data, 0.5, criterion=huber).item() == pytest.approx((1.5 + 4.5) / 3)
        weight = torch.tensor([[1.0], [2.0], [3.0], [4.0], [5.0]])
        assert qmix_td_error(self.data._replace(weight=weight), 0.5).item() == pytest.approx((2 * 4 + 4 * 25) / 5)
        assert qmix_td_error(self.data._replace(weight=torch.tensor([0.5])), 0.5).item() == pytest.approx(29 / 10)

    def test_no_masks(self):
        data = qmix_td_data(*self.data[:3])
        assert qmix_td_error_per_row(data, 0.5)[1].flatten().tolist() == [0, 3 + 35 - 1, 40, 2 + 5 - 2, 0]


@pytest.mark.parametrize("nstep", [1, 3])
@pytest.mark.parametrize("seed", range(6))
def test_against_the_oracle(seed, nstep):
    total_q, target_total_q, reward, masks = problem(seed)
    expected, errors = multi_agent.qmix_error(total_q, target_total_q, reward, masks, 0.9, nstep)
    data = data_of(total_q, target_total_q, np.where(masks[2], reward, np.nan), masks)
    loss, error, _ = qmix_td_error_per_row(data, 0.9, nstep)
    assert loss.dtype == torch.float64 and loss.item() == pytest.approx(expected, rel=1e-12)
    assert error.numpy() == pytest.approx(errors, rel=1e-12, abs=1e-11)
    single = data._replace(**{k: getattr(data, k).float() for k in ("total_q", "target_total_q", "reward")})
    assert qmix_td_error(single, 0.9, nstep).item() == pytest.approx(expected, rel=1e-5)
    per_lane = np.random.default_rng(seed).random(5)
    weighted = qmix_td_error(data._replace(weight=torch.from_numpy(per_lane)), 0.9, nstep)
    assert weighted.item() == pytest.approx((per_lane * errors**2).mean(), rel=1e-12)


def test_gradient_reaches_only_the_values_of_rows_with_a_target():
    total_q, target_total_q, reward, masks = problem(1)
    data = data_of(total_q, target_total_q, reward, masks, torch.rand(11, 5).double())
    for name in ("total_q", "target_total_q", "reward", "weight"):
        getattr(data, name).requires_grad_()
    loss, error, trainable = qmix_td_error_per_row(data, 0.9)
    loss.backward()
    assert data.target_total_q.grad is None and data.reward.grad is None and data.weight.grad is None
    assert data.total_q.grad.allclose(-2 * error * data.weight.detach() / 55)
    assert not data.total_q.grad[~trainable].any() and not error.requires_grad


@pytest.mark.parametrize("time_limit", [6, np.inf])
def test_optimal_values_are_a_fixed_point(time_limit):
    """One agent, and a mixer that is the identity: a corridor walked at random has the error 0 everywhere."""
    task = mdp.corridor(4)
    q_star = mdp.optimal_values(task, 0.9)[1]
    rows = mdp.play(task, np.tile([0.3, 0.7], (4, 1)), np.random.default_rng(0), 90, time_limit)
    assert rows["terminated"].any() and rows["truncated"].any() == (time_limit == 6)
    table = torch.tensor(np.vstack([q_star, [np.nan, np.nan]]))[rows["state"][:-1]]  # [T, N]; NaN after the end
    total_q = table.gather(1, torch.from_numpy(rows["action"])[:, None])
    best, _ = max_available(table)
    columns = [torch.from_numpy(rows[k])[:, None] for k in ("reward", *MASKS)]
    total_q = torch.where(columns[3], total_q, 0.0)
    loss, error, trainable = qmix_td_error_per_row(qmix_td_data(total_q, best[:, None], *columns), 0.9)
    assert loss.item() == pytest.approx(0, abs=1e-24) and error.abs().max() < 1e-12
    assert trainable[:-1].equal(columns[3][:-1])


class TestMaxAvailable:
    def test_actions_that_are_not_available_are_left_out(self):
        """Two agents of three actions; the greatest values are those of actions that they cannot take."""
        q_value = torch.tensor([[1.0, 9.0, 2.0], [-3.0, -1.0, 8.0]])
        mask = torch.tensor([[True, False, True], [True, True, False]])
        value, action = max_available(q_value, mask)
        assert value.tolist() == [2.0, -1.0] and action.tolist() == [2, 1]
        assert max_available(q_value)[0].tolist() == [9.0, 8.0]
        assert max_available(q_value[None])[1].tolist() == [[1, 2]]

    def test_the_target_of_qmix_does_not_bootstrap_from_them(self):
        """A mixer that adds: 1 + γ·(2 − 1) with the mask; without, 1 + γ·17."""
        q_value = torch.tensor([[1.0, 9.0, 2.0], [-3.0, -1.0, 8.0]])
        mask = torch.tensor([[True, False, True], [True, True, False]])
        best = max_available(q_value, mask)[0].sum()
        target_total_q = torch.stack([torch.tensor(0.0), best])[:, None]
        data = qmix_td_data(torch.zeros(2, 1), target_total_q, torch.ones(2, 1))
        assert qmix_td_error_per_row(data, 0.5)[1].flatten().tolist() == [1.5, 0.0]

    def test_nothing_available(self):
        value, action = max_available(torch.full((2, 3), -5.0), torch.zeros(2, 3, dtype=torch.bool))
        assert value.tolist() == [0.0, 0.0] and action.tolist() == [0, 0]

    def test_double_q_gathers_what_the_online_network_chose(self):
        online, target = torch.tensor([[5.0, 6.0, 7.0]]), torch.tensor([[10.0, 20.0, 30.0]])
        _, action = max_available(online, torch.tensor([[True, True, False]]))
        assert target.gather(-1, action.unsqueeze(-1)).item() == 20.0

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_against_the_oracle(self, dtype):
        rng = np.random.default_rng(0)
        q_value = rng.integers(-4, 4, size=(7, 3, 4, 5)).astype(dtype)  # with ties
        mask = rng.random((7, 3, 4, 5)) < 0.4
        value, action = max_available(torch.from_numpy(q_value), torch.from_numpy(mask))
        expected = multi_agent.max_available(q_value, mask)
        assert (value.numpy() == expected[0]).all() and (action.numpy() == expected[1]).all()
        assert value.numpy().dtype == dtype

    def test_gradient_reaches_the_best_action_only(self):
        q_value = torch.tensor([[1.0, 9.0, 2.0], [1.0, 2.0, 3.0]], requires_grad=True)
        max_available(q_value, torch.tensor([[True, False, True], [False] * 3]))[0].sum().backward()
        assert q_value.grad.tolist() == [[0, 0, 1], [0, 0, 0]]

    def test_a_wrong_mask_is_said(self):
        with pytest.raises(SpecError, match=r"^max_available: 'action_mask' has shape \[3\], expected \[2, 3\]$"):
            max_available(torch.ones(2, 3), torch.ones(3, dtype=torch.bool))
        message = r"^max_available: 'action_mask' is torch.float32, expected torch.bool; cast it with .bool\(\)$"
        with pytest.raises(SpecError, match=message):
            max_available(torch.ones(2, 3), torch.ones(2, 3))


R = torch.ones(3, 2)
ERRORS = [
    ({"total_q": R[0]}, "'total_q' has shape [2], expected ['any', 'any']"),
    ({"total_q": R.long()}, "'total_q' is torch.int64, expected a floating tensor; cast it with .float()"),
    ({"target_total_q": R[:2]}, "'target_total_q' has shape [2, 2], expected [3, 2]"),
    ({"reward": R.T}, "'reward' has shape [2, 3], expected [3, 2]"),
    ({"weight": R[:, 0]}, "'weight' has shape [3], expected [3, 2]"),
    ({"terminated": R[0]}, "'terminated' has shape [2], expected [3, 2]"),
    ({"truncated": R[0]}, "'truncated' has shape [2], expected [3, 2]"),
    ({"valid": R[0]}, "'valid' has shape [2], expected [3, 2]"),
]


@pytest.mark.parametrize("changed, message", ERRORS, ids=[m.split("'")[1] + m.split("'")[2][:4] for _, m in ERRORS])
def test_a_wrong_shape_or_dtype_is_said(changed, message):
    with pytest.raises(SpecError) as e:
        qmix_td_error(qmix_td_data(R, R, R)._replace(**changed), 0.9)
    assert str(e.value) == "qmix_td_error: " + message


def test_a_criterion_that_averages_is_said():
    with pytest.raises(SpecError, match=r"^qmix_td_error: 'criterion' returned shape \[\], expected \[3, 2\]"):
        qmix_td_error(qmix_td_data(R, R, R), 0.9, criterion=mse_loss)
