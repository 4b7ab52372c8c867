"""The losses of COMA: counterfactual advantages, λ-returns of the critic, agents that are not there."""

import itertools

import numpy as np
import pytest
import torch
from oracles import multi_agent, values

from nervex.rl_utils.coma import coma_data, coma_error
from nervex.utils.errors import SpecError

MASKS = ("terminated", "truncated", "valid")


def problem(seed, total=9, batch=4, agents=3, actions=4):
    rng = np.random.default_rng(seed)
    rows = values.random_lanes(rng, total, batch, gaps=seed % 2 == 1)
    logit, q_value, target_q = rng.normal(size=(3, total, batch, agents, actions))
    logit[..., -1][rng.random((total, batch, agents)) < 0.3] = -1e8  # an action that is not available
    action = rng.integers(actions - 1, size=(total, batch, agents))
    agent_mask = rng.random((total, batch, agents)) < 0.7
    return logit, action, q_value, target_q * 9, rows["reward"], tuple(rows[k] for k in MASKS), agent_mask


def data_of(logit, action, q_value, target_q, reward, masks, agent_mask, weight=None):
    columns = [torch.from_numpy(x) for x in (logit, action, q_value, target_q, reward)]
    return coma_data(*columns, weight, *[torch.from_numpy(x) for x in masks], torch.from_numpy(agent_mask))


class TestByHand:
    """γ = λ = 1/2; one agent of two actions that are equally likely, two rows, the second terminates."""

    data = coma_data(
        logit=torch.zeros(2, 1, 1, 2),
        action=torch.tensor([[[1]], [[0]]]),
        q_value=torch.tensor([[[[1.0, 5.0]]], [[[4.0, 2.0]]]]),
        target_q_value=torch.tensor([[[[90.0, 91.0]]], [[[8.0, 93.0]]]]),
        reward=torch.tensor([[1.0], [2.0]]),
        terminated=torch.tensor([[False], [True]]),
    )

    def test_losses(self):
        loss = coma_error(self.data, 0.5, 0.5)
        # advantages 5 − 3 and 4 − 3; returns 1 + (8/2 + 2/2)/2 and 2; values 5 and 4
        assert loss.policy.item() == pytest.approx(np.log(2) * (2 + 1) / 2)
        assert loss.q_value.item() == pytest.approx(((5 - 3.5) ** 2 + (4 - 2) ** 2) / 2)
        assert loss.entropy.item() == pytest.approx(np.log(2))

    def test_a_last_row_without_successor_trains_the_policy_only(self):
        loss = coma_error(self.data._replace(terminated=None), 0.5, 0.5)
        assert loss.policy.item() == pytest.approx(np.log(2) * (2 + 1) / 2)
        assert loss.q_value.item() == pytest.approx((5 - (1 + 8 / 2)) ** 2)  # bootstraps fully at the last row
        truncated = coma_error(self.data._replace(terminated=None, truncated=self.data.terminated), 0.5, 0.5)
        assert truncated.q_value.item() == loss.q_value.item()

    def test_weights(self):
        weight = torch.tensor([[0.5], [3.0]])
        loss = coma_error(self.data._replace(weight=weight), 0.5, 0.5)
        assert loss.policy.item() == pytest.approx(np.log(2) * (2 * 0.5 + 1 * 3) / 2)
        assert loss.q_value.item() == pytest.approx((1.5**2 * 0.5 + 2**2 * 3) / 2)
        assert loss.entropy.item() == pytest.approx(np.log(2) * 3.5 / 2)
        assert coma_error(self.data._replace(weight=torch.tensor([0.5])), 0.5, 0.5).entropy.item() == pytest.approx(
            np.log(2) / 2
        )

    def test_lambda_of_zero_and_one(self):
        assert coma_error(self.data, 0.5, 0.0).q_value.item() == pytest.approx(((5 - 5) ** 2 + 4) / 2)
        assert coma_error(self.data, 0.5, 1.0).q_value.item() == pytest.approx(((5 - 2) ** 2 + 4) / 2)

    def test_gamma_of_zero(self):
        assert coma_error(self.data, 0.0, 0.7).q_value.item() == pytest.approx((16 + 4) / 2)


@pytest.mark.parametrize("lambda_", [0.0, 0.8, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_against_the_oracle(seed, lambda_):
    arrays = problem(seed)
    expected = multi_agent.coma_losses(*arrays, 0.9, lambda_)
    data = data_of(*arrays)
    poisoned = data.reward.masked_fill(~data.valid, torch.nan)
    loss = coma_error(data._replace(reward=poisoned), 0.9, lambda_)
    assert loss.q_value.dtype == torch.float64
    assert {k: v.item() for k, v in loss._asdict().items()} == pytest.approx(expected, rel=1e-12)
    single = {k: getattr(data, k).float() for k in ("logit", "q_value", "target_q_value", "reward")}
    loss = coma_error(data._replace(**single), 0.9, lambda_)
    assert {k: v.item() for k, v in loss._asdict().items()} == pytest.approx(expected, rel=1e-4)
    assert all(x.dtype == torch.float32 for x in loss)


def test_all_agents_are_there_without_a_mask():
    arrays = problem(2)
    everyone = np.ones_like(arrays[-1])
    expected = multi_agent.coma_losses(*arrays[:-1], everyone, 0.9, 0.8)
    loss = coma_error(data_of(*arrays)._replace(agent_mask=None), 0.9, 0.8)
    assert {k: v.item() for k, v in loss._asdict().items()} == pytest.approx(expected, rel=1e-12)


def test_int32_actions_and_masks_of_numbers():
    data = data_of(*problem(0))
    other = data._replace(action=data.action.int(), agent_mask=data.agent_mask.double(), valid=data.valid.double())
    assert coma_error(other, 0.9, 0.8) == coma_error(data, 0.9, 0.8)


def test_a_weight_of_valid_over_its_mean_is_the_mean_over_valid_rows():
    data = data_of(*problem(3))._replace(agent_mask=None)
    plain, weighted = (
        coma_error(data._replace(weight=w), 0.9, 0.8) for w in (None, data.valid / data.valid.double().mean())
    )
    assert weighted.policy.item() == pytest.approx(plain.policy.item())
    assert weighted.entropy.item() == pytest.approx(plain.entropy.item())


def test_the_expected_gradient_is_that_of_the_expected_reward():
    """A matrix game of two agents: over all joint actions, each as often as it is played, the policy loss has the
    gradient of −E[r] / A, and the critic that knows the payoffs has none."""
    payoff = torch.tensor([[3.0, -1.0, 0.5], [2.0, 7.0, -4.0]], dtype=torch.float64)  # [actions of 0, of 1]
    logits = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in ([0.3, -0.2], [0.1, 0.5, -0.9])]
    joint = torch.outer(logits[0].softmax(0), logits[1].softmax(0))
    expected = torch.autograd.grad(-(joint * payoff).sum() / 2, logits)
    plays = list(itertools.product(range(2), range(3)))
    padded = torch.cat([logits[0], torch.full((1,), -1e8, dtype=torch.float64)])  # its third action is not available
    payoff_padded = torch.cat([payoff, torch.full((1, 3), 99.0, dtype=torch.float64)])
    q_value = torch.stack([torch.stack([payoff_padded[:, j], payoff[i]]) for i, j in plays])[None].requires_grad_()
    data = coma_data(
        logit=torch.stack([padded, logits[1]]).expand(1, 6, 2, 3),
        action=torch.tensor(plays)[None],
        q_value=q_value,
        target_q_value=torch.full((1, 6, 2, 3), torch.nan, dtype=torch.float64),  # nothing follows
        reward=torch.tensor([[payoff[i, j].item() for i, j in plays]], dtype=torch.float64),
        weight=joint.detach().reshape(1, 6) * 6,
        terminated=torch.ones(1, 6, dtype=torch.bool),
    )
    loss = coma_error(data, 0.9, 0.8)
    found = torch.autograd.grad(loss.policy, logits, retain_graph=True)
    for got, want in zip(found, expected, strict=True):
        assert got.numpy() == pytest.approx(want.numpy(), abs=1e-12)
    loss.q_value.backward()
    assert loss.q_value.item() == 0 and not q_value.grad.any()


def test_gradients_reach_what_they_should():
    data = data_of(*problem(4), weight=torch.rand(9, 4).double())
    leaves = {k: getattr(data, k).requires_grad_() for k in ("logit", "q_value", "target_q_value", "reward", "weight")}
    loss = coma_error(data, 0.9, 0.8)
    counts = (data.valid.unsqueeze(-1) & data.agent_mask).unsqueeze(-1)

    def reached(scalar):
        grads = torch.autograd.grad(scalar, list(leaves.values()), retain_graph=True, allow_unused=True)
        for grad in grads:
            assert grad is None or (grad.isfinite().all() and not grad.masked_fill(counts, 0).any())
        return [k for k, grad in zip(leaves, grads, strict=True) if grad is not None]

    assert reached(loss.policy) == ["logit"] and reached(loss.entropy) == ["logit"]
    assert reached(loss.q_value) == ["q_value"]
    (grad,) = torch.autograd.grad(loss.q_value, leaves["q_value"])
    others = torch.ones_like(grad, dtype=torch.bool).scatter(-1, data.action.unsqueeze(-1), False)
    assert not grad[others].any()  # only the action taken


GOOD = coma_data(torch.rand(3, 2, 2, 4), torch.zeros(3, 2, 2).long(), torch.rand(3, 2, 2, 4), torch.rand(3, 2, 2, 4),
                 torch.rand(3, 2))  # fmt: skip
ERRORS = [
    ({"logit": GOOD.logit[0]}, "'logit' has shape [2, 2, 4], expected ['any', 'any', 'any', 'any']"),
    ({"logit": GOOD.logit.long()}, "'logit' is torch.int64, expected a floating tensor; cast it with .float()"),
    ({"action": GOOD.action[..., 0]}, "'action' has shape [3, 2], expected [3, 2, 2]"),
    ({"action": GOOD.action.float()}, "'action' is torch.float32, expected an integer tensor; cast it with .long()"),
    ({"q_value": GOOD.q_value[..., :3]}, "'q_value' has shape [3, 2, 2, 3], expected [3, 2, 2, 4]"),
    ({"target_q_value": GOOD.q_value[:2]}, "'target_q_value' has shape [2, 2, 2, 4], expected [3, 2, 2, 4]"),
    ({"reward": torch.rand(3, 2, 2)}, "'reward' has shape [3, 2, 2], expected [3, 2]"),
    ({"reward": GOOD.reward.long()}, "'reward' is torch.int64, expected a floating tensor; cast it with .float()"),
    ({"weight": torch.rand(3)}, "'weight' has shape [3], expected [3, 2]"),
    ({"terminated": torch.rand(3)}, "'terminated' has shape [3], expected [3, 2]"),
    ({"truncated": torch.rand(3)}, "'truncated' has shape [3], expected [3, 2]"),
    ({"valid": torch.rand(3)}, "'valid' has shape [3], expected [3, 2]"),
    ({"agent_mask": torch.rand(3, 2)}, "'agent_mask' has shape [3, 2], expected [3, 2, 2]"),
]


@pytest.mark.parametrize("changed, message", ERRORS, ids=[m.split("'")[1] + m.split("'")[2][:4] for _, m in ERRORS])
def test_a_wrong_shape_or_dtype_is_said(changed, message):
    with pytest.raises(SpecError) as e:
        coma_error(GOOD._replace(**changed), 0.9, 0.8)
    assert str(e.value) == "coma_error: " + message
