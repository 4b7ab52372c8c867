"""Errors of action values: numbers by hand, a slow oracle, limits, gradients, and what they refuse."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import returns
from torch.nn.functional import huber_loss, mse_loss

from nervex.rl_utils import (
    nstep_return,
    nstep_return_data,
    q_1step_td_data,
    q_1step_td_error,
    q_nstep_td_data,
    q_nstep_td_error,
    q_nstep_td_error_per_sample,
)
from nervex.utils.errors import SpecError

Q = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 0.0]])
NEXT_Q = torch.tensor([[10.0, 20.0], [30.0, 5.0], [7.0, 8.0]])
ACTION = torch.tensor([0, 1, 0])
NEXT_ACTION = torch.tensor([0, 0, 1])
REWARD = torch.tensor([1.0, 2.0, 3.0])
DONE = torch.tensor([False, True, False])
WEIGHT = torch.tensor([1.0, 0.5, 0.0])
REWARD_2 = torch.tensor([[1.0, 2.0, 3.0], [4.0, 0.0, 6.0]])  # [n, B]


def two_step(**changed):
    fields = {
        "q": Q, "next_n_q": NEXT_Q, "action": ACTION, "next_n_action": None, "reward": REWARD_2, "done": DONE,
        "weight": None,
    }  # fmt: skip
    return q_nstep_td_data(**{**fields, **changed})


def huber(prediction, target):
    return huber_loss(prediction, target, reduction="none")


class TestOneStepByHand:
    """Targets 1 + 20/2, 2, 3 + 8/2 against 1, 4, 5: errors 10, −2, 2."""

    def test_five_positional_fields_bootstrap_greedily(self):
        assert q_1step_td_error(q_1step_td_data(Q, NEXT_Q, ACTION, REWARD, DONE.float()), 0.5).item() == 36.0

    def test_seven_positional_fields_bootstrap_with_the_given_action(self):
        # targets 1 + 10/2, 2, 3 + 8/2
        data = q_1step_td_data(Q, NEXT_Q, ACTION, NEXT_ACTION, REWARD, DONE, None)
        assert q_1step_td_error(data, 0.5).item() == 11.0

    def test_keyword_fields(self):
        data = q_1step_td_data(q=Q, next_q=NEXT_Q, act=ACTION, reward=REWARD, done=DONE)
        assert data.next_act is None and data.weight is None
        assert q_1step_td_error(data, 0.5).item() == 36.0

    def test_fields_come_back_by_name_and_position(self):
        five = q_1step_td_data(Q, NEXT_Q, ACTION, REWARD, DONE)
        assert five.reward is REWARD and five.done is DONE and five.next_act is None and five.weight is None
        seven = q_1step_td_data(Q, NEXT_Q, ACTION, NEXT_ACTION, REWARD, DONE, WEIGHT)
        assert tuple(seven) == (Q, NEXT_Q, ACTION, NEXT_ACTION, REWARD, DONE, WEIGHT)
        mixed = q_1step_td_data(Q, NEXT_Q, ACTION, NEXT_ACTION, REWARD, done=DONE)
        assert mixed.next_act is NEXT_ACTION and mixed.reward is REWARD and mixed.done is DONE
        both = q_1step_td_data(Q, NEXT_Q, ACTION, REWARD, DONE, next_act=NEXT_ACTION, weight=WEIGHT)
        assert both.next_act is NEXT_ACTION and both.reward is REWARD and both.weight is WEIGHT

    def test_weights_as_the_third_argument(self):
        data = q_1step_td_data(Q, NEXT_Q, ACTION, REWARD, DONE)
        assert q_1step_td_error(data, 0.5, WEIGHT).item() == 34.0  # (100 + 4/2 + 0) / 3

    def test_the_weights_of_the_data_go_first(self):
        data = q_1step_td_data(Q, NEXT_Q, ACTION, None, REWARD, DONE, WEIGHT)
        assert q_1step_td_error(data, 0.5).item() == 34.0
        assert q_1step_td_error(data, 0.5, torch.ones(3)).item() == 34.0

    def test_criterion(self):
        loss = q_1step_td_error(q_1step_td_data(Q, NEXT_Q, ACTION, REWARD, DONE), 0.5, criterion=huber)
        assert loss.item() == pytest.approx((9.5 + 1.5 + 1.5) / 3)

    @pytest.mark.parametrize(
        "args, fields",
        [
            ((Q, NEXT_Q, ACTION, NEXT_ACTION, REWARD, DONE, None, None), {}),
            ((Q, NEXT_Q, ACTION, REWARD, DONE), {"wieght": WEIGHT}),
            ((Q, NEXT_Q, ACTION, NEXT_ACTION, REWARD, DONE, None), {"weight": WEIGHT}),
            ((Q, NEXT_Q, ACTION), {}),
        ],
        ids=["eight", "misspelled", "twice", "three"],
    )
    def test_nothing_is_taken_in_silence(self, args, fields):
        with pytest.raises(TypeError):
            q_1step_td_data(*args, **fields)


class TestNStepByHand:
    """n = 2, γ = 1/2: rewards 1 + 4/2, 2, 3 + 6/2; bootstrap 20/4, 0, 8/4; predictions 1, 4, 5."""

    def test_scalar_loss(self):
        loss = q_nstep_td_error(two_step(), 0.5, nstep=2)
        assert loss.shape == () and loss.item() == pytest.approx((49 + 4 + 9) / 3)

    def test_errors_of_the_samples(self):
        loss, error = q_nstep_td_error_per_sample(two_step(), 0.5, nstep=2)
        assert error.tolist() == [7.0, -2.0, 3.0]
        assert loss.item() == pytest.approx(62 / 3)
        assert not error.requires_grad

    def test_next_action_of_the_online_network(self):
        _, error = q_nstep_td_error_per_sample(two_step(next_n_action=NEXT_ACTION), 0.5, nstep=2)
        assert error.tolist() == [3 + 10 / 4 - 1, -2.0, 3.0]

    def test_factor_of_a_window_that_a_time_limit_cut(self):
        factor = torch.tensor([0.5, 0.5, 0.25])
        _, error = q_nstep_td_error_per_sample(two_step(), 0.5, nstep=2, value_gamma=factor)
        assert error.tolist() == [3 + 20 / 2 - 1, -2.0, 3.0]

    def test_weights_and_criterion(self):
        assert q_nstep_td_error(two_step(weight=WEIGHT), 0.5, 2).item() == pytest.approx((49 + 4 / 2) / 3)
        loss, error = q_nstep_td_error_per_sample(two_step(weight=WEIGHT), 0.5, 2, criterion=huber)
        assert loss.item() == pytest.approx((6.5 + 1.5 / 2) / 3)
        assert error.tolist() == [7.0, -2.0, 3.0]  # whatever the criterion

    @pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.float64, torch.int64, torch.uint8])
    def test_done_of_any_dtype(self, dtype):
        assert q_nstep_td_error(two_step(done=DONE.to(dtype)), 0.5, 2).item() == pytest.approx(62 / 3)

    def test_done_of_none_bootstraps_always(self):
        _, error = q_nstep_td_error_per_sample(two_step(done=None), 0.5, 2)
        assert error.tolist() == [7.0, 2 + 30 / 4 - 4, 3.0]

    def test_int32_actions(self):
        loss = q_nstep_td_error(two_step(action=ACTION.int(), next_n_action=NEXT_ACTION.int()), 0.5, 2)
        assert loss.item() == q_nstep_td_error(two_step(next_n_action=NEXT_ACTION), 0.5, 2).item()


class TestNStepReturn:
    def test_by_hand(self):
        data = nstep_return_data(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([8.0]), torch.tensor([0.0]))
        assert nstep_return(data, 0.5, 3).tolist() == [1 + 1 + 1 + 1]

    def test_gamma_of_zero_is_the_first_reward(self):
        data = nstep_return_data(REWARD_2, torch.full((3,), 100.0), None)
        assert nstep_return(data, 0.0, 2).tolist() == REWARD_2[0].tolist()

    def test_gamma_of_one_is_the_sum(self):
        data = nstep_return_data(REWARD_2, torch.full((3,), 100.0), None)
        assert nstep_return(data, 1.0, 2).tolist() == [105.0, 102.0, 109.0]

    def test_one_step_is_the_one_step_target(self):
        value = torch.tensor([4.0, 6.0, 8.0])
        assert nstep_return(nstep_return_data(REWARD[None], value, DONE), 0.5, 1).tolist() == [3.0, 2.0, 7.0]

    def test_all_done_ignores_the_value(self):
        for value in (torch.zeros(3), torch.full((3,), 1e6)):
            data = nstep_return_data(REWARD_2, value, torch.ones(3, dtype=torch.bool))
            assert nstep_return(data, 0.5, 2).tolist() == [3.0, 2.0, 6.0]

    def test_value_gamma_replaces_the_power(self):
        data = nstep_return_data(REWARD_2, torch.tensor([8.0, 8.0, 8.0]), DONE)
        factor = torch.tensor([0.5, 0.5, 0.0])
        assert nstep_return(data, 0.5, 2, factor).tolist() == [7.0, 2.0, 6.0]


@st.composite
def problems(draw):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    batch, actions, nstep = draw(st.integers(1, 5)), draw(st.integers(1, 4)), draw(st.integers(1, 5))

    def random(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def optional(value):
        return value if draw(st.booleans()) else None

    data = q_nstep_td_data(
        random(batch, actions),
        random(batch, actions),
        torch.randint(actions, (batch,), generator=generator),
        optional(torch.randint(actions, (batch,), generator=generator)),
        random(nstep, batch),
        optional(random(batch) > 0),
        optional(random(batch).abs()),
    )
    return data, draw(st.floats(0, 1)), nstep, optional(random(batch).abs())


def plain(x):
    return None if x is None else x.tolist()


@settings(max_examples=60, deadline=None)
@given(problems())
def test_against_the_oracle(problem):
    data, gamma, nstep, value_gamma = problem
    done = [0.0] * len(data.q) if data.done is None else data.done.double().tolist()
    expected = returns.td_errors(
        plain(data.q), plain(data.next_n_q), plain(data.action), plain(data.next_n_action), plain(data.reward.T), done,
        gamma, plain(value_gamma),
    )  # fmt: skip
    loss, error = q_nstep_td_error_per_sample(data, gamma, nstep, value_gamma=value_gamma)
    assert loss.dtype == error.dtype == torch.float64
    assert error.tolist() == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert loss.item() == pytest.approx(
        returns.weighted_mean_square(expected, plain(data.weight)), rel=1e-12, abs=1e-12
    )
    assert q_nstep_td_error(data, gamma, nstep, value_gamma=value_gamma).item() == loss.item()
    if nstep == 1 and value_gamma is None:
        one = q_1step_td_data(
            data.q, data.next_n_q, data.action, data.next_n_action, data.reward[0], data.done, data.weight
        )
        assert q_1step_td_error(one, gamma).item() == pytest.approx(loss.item(), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("nstep", [1, 2])
def test_gradient_reaches_only_the_chosen_action_values(nstep):
    q, next_q = Q.clone().requires_grad_(), NEXT_Q.clone().requires_grad_()
    weight, reward = WEIGHT.clone().requires_grad_(), REWARD_2[:nstep].clone().requires_grad_()
    loss, error = q_nstep_td_error_per_sample(two_step(q=q, next_n_q=next_q, weight=weight, reward=reward), 0.5, nstep)
    loss.backward()
    assert next_q.grad is None and weight.grad is None and reward.grad is None
    expected = torch.zeros(3, 2)
    expected[torch.arange(3), ACTION] = -2 * error * WEIGHT / 3
    assert torch.allclose(q.grad, expected) and (q.grad == 0).equal(expected == 0)


def test_gradient_of_one_network_on_both_sides_is_that_of_the_prediction():
    weights = torch.tensor([[1.0, 2.0]], requires_grad=True)
    obs, next_obs = torch.tensor([[1.0]]), torch.tensor([[3.0]])
    data = q_1step_td_data(obs @ weights, next_obs @ weights, torch.tensor([0]), torch.tensor([1.0]), torch.zeros(1))
    q_1step_td_error(data, 0.5).backward()
    assert weights.grad.tolist() == [[-2 * (1 + 3.0 - 1), 0.0]]


class TestOptimalValuesAreAFixedPoint:
    """A corridor of five states: Q*(s, right) = γ^(3−s), Q*(s, left) = γ·V*(max(s − 1, 0))."""

    gamma = 0.9

    def table(self):
        right = [self.gamma ** (3 - s) for s in range(4)]
        q = [[self.gamma * right[max(s - 1, 0)], right[s]] for s in range(4)] + [[0.0, 0.0]]
        return torch.tensor(q, dtype=torch.float64)

    def test_the_closed_form_is_what_value_iteration_finds(self):
        found = returns.optimal_q(4, 2, returns.corridor(5), self.gamma)
        assert torch.tensor(found, dtype=torch.float64).allclose(self.table()[:4], atol=1e-12)

    def test_one_step(self):
        q, step = self.table(), returns.corridor(5)
        pairs = [(s, a) for s in range(4) for a in (0, 1)]
        after = [step(s, a) for s, a in pairs]
        next_q = q[[n for n, _, _ in after]].clone()
        next_q[torch.tensor([end for _, _, end in after])] = 1e9  # what follows the end does not matter
        data = q_1step_td_data(
            q[[s for s, _ in pairs]],
            next_q,
            torch.tensor([a for _, a in pairs]),
            torch.tensor([r for _, r, _ in after], dtype=torch.float64),
            torch.tensor([end for _, _, end in after]),
        )
        assert q_1step_td_error(data, self.gamma).item() == pytest.approx(0, abs=1e-24)

    @pytest.mark.parametrize("nstep", [2, 3, 5])
    def test_nstep_along_the_best_path(self, nstep):
        q = self.table()
        reward = torch.zeros(nstep, 4, dtype=torch.float64)
        for s in range(4):
            if 3 - s < nstep:
                reward[3 - s, s] = 1
        after = torch.tensor([min(s + nstep, 4) for s in range(4)])
        data = q_nstep_td_data(q[:4], q[after] + 1e9 * (after == 4)[:, None], torch.ones(4, dtype=torch.long), None,
                               reward, after == 4, None)  # fmt: skip
        _, error = q_nstep_td_error_per_sample(data, self.gamma, nstep)
        assert error.abs().max() < 1e-12


ERRORS = [
    ({"q": Q[0]}, "q_nstep_td_error: 'q' has shape [2], expected ['any', 'any']"),
    ({"next_n_q": NEXT_Q[:, :1]}, "q_nstep_td_error: 'next_n_q' has shape [3, 1], expected [3, 2]"),
    ({"next_n_q": NEXT_Q[:1]}, "q_nstep_td_error: 'next_n_q' has shape [1, 2], expected [3, 2]"),
    ({"action": ACTION[:, None]}, "q_nstep_td_error: 'action' has shape [3, 1], expected [3]"),
    (
        {"action": ACTION.float()},
        "q_nstep_td_error: 'action' is torch.float32, expected an integer tensor; cast it with .long()",
    ),
    ({"next_n_action": ACTION[:2]}, "q_nstep_td_error: 'next_n_action' has shape [2], expected [3]"),
    ({"weight": WEIGHT[:, None]}, "q_nstep_td_error: 'weight' has shape [3, 1], expected [3]"),
    ({"reward": REWARD_2.T}, "nstep_return: 'reward' has shape [3, 2], expected [2, 'any']"),
    ({"reward": REWARD}, "nstep_return: 'reward' has shape [3], expected [2, 'any']"),
    ({"done": DONE[:, None]}, "nstep_return: 'done' has shape [3, 1], expected [3]"),
]


@pytest.mark.parametrize("changed, message", ERRORS, ids=[message.split("'")[1] for _, message in ERRORS])
def test_a_wrong_shape_or_dtype_is_said(changed, message):
    with pytest.raises(SpecError) as e:
        q_nstep_td_error(two_step(**changed), 0.5, 2)
    assert str(e.value) == message


def test_a_factor_of_a_wrong_shape_is_said():
    with pytest.raises(SpecError, match=r"nstep_return: 'value_gamma' has shape \[3, 1\], expected \[3\]"):
        q_nstep_td_error(two_step(), 0.5, 2, value_gamma=torch.ones(3, 1))


def test_a_criterion_that_averages_is_said():
    with pytest.raises(SpecError, match=r"q_nstep_td_error: 'criterion' returned shape \[\], expected \[3\]"):
        q_nstep_td_error(two_step(weight=WEIGHT), 0.5, 2, criterion=mse_loss)


def test_one_step_rewards_of_a_wrong_shape_are_said():
    with pytest.raises(SpecError, match=r"q_1step_td_error: 'reward' has shape \[1, 3\], expected \[3\]"):
        q_1step_td_error(q_1step_td_data(Q, NEXT_Q, ACTION, REWARD[None], DONE), 0.5)
