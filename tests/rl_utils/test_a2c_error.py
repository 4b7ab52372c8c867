"""A2C's losses: by hand, the oracle's log-probabilities, the policy gradient of a small MDP, gradients, errors."""

import math

import numpy as np
import pytest
import torch
from oracles import policy_gradient as oracle

from nervex.rl_utils.a2c import a2c_data, a2c_error
from nervex.rl_utils.distribution import sample
from nervex.utils.errors import SpecError

LOGIT = torch.tensor([[1.0, 3.0, 4.0], [2.0, 2.0, 4.0]]).log()  # probabilities 1/8, 3/8, 1/2 and 1/4, 1/4, 1/2
DATA = a2c_data(LOGIT, torch.tensor([2, 0]), torch.tensor([1.0, 2.0]), torch.tensor([3.0, -1.0]),
                torch.tensor([2.0, 5.0]), None)  # fmt: skip


class TestByHand:
    def test_losses(self):
        loss = a2c_error(DATA)
        assert loss._fields == ("policy_loss", "value_loss", "entropy_loss")
        assert loss.policy_loss.item() == pytest.approx((3 * math.log(2) - math.log(4)) / 2)
        assert loss.value_loss.item() == pytest.approx(0.5 * (1 + 9) / 2)
        nats = [1 / 8 * math.log(8) + 3 / 8 * math.log(8 / 3) + math.log(2) / 2, 1.5 * math.log(2)]
        assert loss.entropy_loss.item() == pytest.approx(sum(nats) / 2)

    def test_weights(self):
        loss = a2c_error(DATA._replace(weight=torch.tensor([2.0, 0.0])))
        assert loss.policy_loss.item() == pytest.approx(3 * math.log(2))
        assert loss.value_loss.item() == pytest.approx(0.5)
        first = a2c_error(a2c_data(*(x[:1] for x in DATA[:-1]), None))
        assert loss.entropy_loss.item() == pytest.approx(first.entropy_loss.item())

    def test_gradient(self):
        logit = LOGIT.clone().requires_grad_()
        a2c_error(DATA._replace(logit=logit)).policy_loss.backward()
        # −A·(1[a] − p) / B
        expected = [[3 / 16, 9 / 16, -3 / 4], [3 / 8, -1 / 8, -1 / 4]]
        assert torch.allclose(logit.grad, torch.tensor(expected))


@pytest.mark.parametrize("shape", [(7,), (3, 4)])
@pytest.mark.parametrize("kind", ["multi", "normal"])
def test_other_actions_against_the_oracle(kind, shape):
    torch.manual_seed(0)
    logit = [torch.randn(*shape, n, dtype=torch.float64) for n in (2, 3)]
    if kind == "normal":
        logit = {"mu": torch.randn(*shape, 2, dtype=torch.float64), "sigma": torch.rand(*shape, 2).double() + 0.1}
    action = sample(logit)
    value, adv, return_, weight = torch.rand(4, *shape, dtype=torch.float64)
    loss = a2c_error(a2c_data(logit, action, value, adv, return_, weight))
    policy, entropies = [], []
    for at in np.ndindex(shape):
        row = {k: v[at].tolist() for k, v in logit.items()} if kind == "normal" else [x[at].tolist() for x in logit]
        policy.append(-adv[at].item() * oracle.log_prob(row, action[at].tolist()))
        entropies.append(oracle.entropy(row))
    weights = weight.flatten().tolist()
    assert loss.policy_loss.item() == pytest.approx(oracle.mean_of(policy, weights), rel=1e-11)
    assert loss.entropy_loss.item() == pytest.approx(oracle.mean_of(entropies, weights), rel=1e-11)
    errors = (0.5 * (value - return_).square()).flatten().tolist()
    assert loss.value_loss.item() == pytest.approx(oracle.mean_of(errors, weights), rel=1e-11)


def test_with_exact_advantages_the_gradient_is_that_of_the_performance():
    """Policy gradient theorem: ∂V(s0)/∂θ = Σ_s d(s)·Σ_a π(a|s)·A(s, a)·∂log π(a|s)/∂θ, d the discounted visits."""
    mdp, theta, start = oracle.SmallMDP(0.8), np.array([[0.2, -0.3], [0.0, 0.7], [1.0, -1.0]]), 0

    def policy_of(theta):
        return np.exp(theta) / np.exp(theta).sum(-1, keepdims=True)

    expected, eps = np.zeros((3, 2)), 1e-6
    for at in np.ndindex(3, 2):
        plus, minus = theta.copy(), theta.copy()
        plus[at] += eps
        minus[at] -= eps
        expected[at] = (mdp.values(policy_of(plus))[0] - mdp.values(policy_of(minus))[0])[start] / (2 * eps)
    policy = policy_of(theta)
    kernel = np.einsum("sa,sat->st", policy, mdp.P)
    visits = np.linalg.solve(np.eye(3) - mdp.gamma * kernel.T, np.eye(3)[start])
    value, q_value, advantage = mdp.values(policy)
    logit = torch.tensor(theta, requires_grad=True)
    state, action = torch.arange(3).repeat_interleave(2), torch.arange(2).repeat(3)  # every pair once
    weight = torch.from_numpy(6 * visits[:, None] * policy).flatten()
    data = a2c_data(logit[state], action, torch.from_numpy(value)[state], torch.from_numpy(advantage).flatten(),
                    torch.from_numpy(q_value).flatten(), weight)  # fmt: skip
    loss = a2c_error(data)
    loss.policy_loss.backward()
    np.testing.assert_allclose(-logit.grad, expected, rtol=1e-6, atol=1e-8)
    squared = (visits[:, None] * policy * (value[:, None] - q_value) ** 2).sum()
    assert loss.value_loss.item() == pytest.approx(0.5 * squared)


def test_gradients_reach_logits_and_values_only():
    columns = [x.clone().requires_grad_() if x.is_floating_point() else x for x in DATA[:-1]]
    weight = torch.ones(2, requires_grad=True)
    loss = a2c_error(a2c_data(*columns, weight))
    sum(loss).backward()
    logit, _, value, adv, return_ = columns
    assert logit.grad.abs().sum() > 0 and value.grad.tolist() == [-0.5, -1.5]
    assert adv.grad is None and return_.grad is None and weight.grad is None


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"action": torch.zeros(2)},
         "log_prob: 'action' is torch.float32, expected an integer tensor; cast it with .long()"),
        ({"value": torch.zeros(2, 1)}, "a2c_error: 'value' has shape [2, 1], expected [2]"),
        ({"adv": torch.zeros(3)}, "a2c_error: 'adv' has shape [3], expected [2]"),
        ({"return_": torch.zeros(2, 2)}, "a2c_error: 'return_' has shape [2, 2], expected [2]"),
        ({"weight": torch.zeros(1)}, "a2c_error: 'weight' has shape [1], expected [2]"),
    ],
)  # fmt: skip
def test_a_wrong_shape_is_said(changed, message):
    with pytest.raises(SpecError) as e:
        a2c_error(DATA._replace(**changed))
    assert str(e.value) == message
