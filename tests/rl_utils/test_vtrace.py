"""V-trace: by hand, a slow oracle on random ends, its fixed point on a small MDP, limits, gradients, errors."""

import inspect
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import policy_gradient as oracle

from nervex.rl_utils.advantage import gae, gae_data
from nervex.rl_utils.distribution import entropy, log_prob, sample
from nervex.rl_utils.vtrace import compute_importance_weights, vtrace_data, vtrace_error, vtrace_returns
from nervex.utils.errors import SpecError

MASKS = ("terminated", "truncated", "valid")
CLIPS = st.sampled_from([0.3, 1.0, 2.5, math.inf])


def column(*numbers, dtype=torch.float64):
    return torch.tensor(numbers, dtype=dtype).unsqueeze(1)


def flags(*numbers):
    return column(*numbers, dtype=torch.bool)


def listed(target):
    return [x.squeeze(1).tolist() for x in target]


class TestByHand:
    def test_the_last_step_counts(self):
        """Defect 4: the recursion left out the last step, and rewards 1, 1, 1 were worth 2, 1, 0."""
        data = column(1, 1, 1), column(0, 0, 0, 0), column(1, 1, 1)
        assert listed(vtrace_returns(*data, gamma=1.0)) == [[3, 2, 1], [3, 2, 1]]

    ratio, value, reward = column(2, 0.5, 4), column(8, 16, 32, 64), column(1, 2, 4)

    def of(self, **arguments):
        return listed(vtrace_returns(self.ratio, self.value, self.reward, gamma=0.5, **arguments))

    def test_one_episode_that_goes_on(self):
        # δ is 1, 1/2·2, 4, c is 1, 1/2, 1: v − V is 1 + 1/2·(1 + 1/2·1/2·4), 1 + 1/4·4, 4
        assert self.of() == [[8 + 2, 16 + 2, 32 + 4], [1 + 18 / 2 - 8, 0.5 * (2 + 36 / 2 - 16), 4 + 64 / 2 - 32]]

    def test_clips(self):
        # ρ is 2, 1/2, 3 and c 3/2, 1/2, 3/2: v − V is 2 + 3/4·4, 1 + 1/4·12, 12
        found = self.of(rho_clip_ratio=3.0, c_clip_ratio=1.5, rho_pg_clip_ratio=2.5)
        assert found == [[8 + 5, 16 + 4, 32 + 12], [2 * (1 + 10 - 8), 0.5 * (2 + 22 - 16), 2.5 * (4 + 32 - 32)]]

    def test_lambda(self):
        # c halves: v − V is 1 + 1/4·(1 + 1/8·4), 1 + 1/8·4, 4
        assert self.of(lambda_=0.5)[0] == [8 + 1.375, 16 + 1.5, 32 + 4]

    def test_terminated(self):
        # δ_1 = 1/2·(2 − 16)
        assert self.of(terminated=flags(0, 1, 0)) == [[8 + 1 - 3.5, 16 - 7, 36], [1 + 9 / 2 - 8, -7, 4]]

    def test_truncated_bootstraps_and_cuts(self):
        assert self.of(truncated=flags(0, 1, 0)) == [[8 + 1.5, 16 + 1, 36], [1 + 17 / 2 - 8, 1, 4]]

    def test_a_dummy_row_keeps_its_value_and_has_no_advantage(self):
        assert self.of(truncated=flags(1, 0, 0), valid=flags(1, 0, 1)) == [[9, 16, 36], [1, 0, 4]]


def test_a_truncated_episode_is_worth_what_it_would_go_on_to_be():
    """A reward of 1 for ever is worth 1/(1 − γ): with that value, a time limit changes no target, whatever the ρ."""
    rows = oracle.random_rows(np.random.default_rng(1), 60, 2)
    value = torch.full((61, 2), 10.0, dtype=torch.float64)
    truncated, valid = (torch.from_numpy(x) for x in (rows["truncated"] | rows["terminated"], rows["valid"]))
    assert truncated.sum() > 5
    found = vtrace_returns(torch.from_numpy(rows["ratio"]), value, valid.double(), None, truncated, valid, gamma=0.9)
    assert torch.allclose(found.return_, value[:-1], rtol=1e-12) and found.adv.abs().max() < 1e-12


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 2**31), st.integers(1, 20), st.integers(1, 4), st.floats(0, 1), st.floats(0, 1), CLIPS, CLIPS, CLIPS
)
def test_against_the_oracle(seed, total, batch, gamma, lambda_, rho_clip, c_clip, rho_pg_clip):
    rows = oracle.random_rows(np.random.default_rng(seed), total, batch)
    table = {k: torch.from_numpy(v) for k, v in rows.items()}
    masks = {k: rows[k] for k in MASKS}
    numbers = gamma, lambda_, rho_clip, c_clip, rho_pg_clip
    expected = oracle.vtrace(rows["ratio"], rows["value"], rows["reward"], *numbers, **masks)
    arguments = table["ratio"], table["value"], table["reward"], *(table[k] for k in MASKS)
    found = vtrace_returns(*arguments, *numbers)
    assert found.return_.dtype == found.adv.dtype == torch.float64
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9 * (1 + np.abs(b).max()))


def example(seed=0, masked=True, kind="categorical"):
    torch.manual_seed(seed)
    rows = oracle.random_rows(np.random.default_rng(seed), 12, 3)
    target, behaviour = torch.randn(2, 12, 3, 4, dtype=torch.float64)
    if kind == "multi":
        target, behaviour = [target, target[..., :2]], [behaviour, behaviour[..., :2]]
    elif kind == "normal":
        target, behaviour = ({"mu": x[..., :2], "sigma": x[..., 2:].exp()} for x in (target, behaviour))
    masks = (torch.from_numpy(rows[k]) for k in MASKS) if masked else [None] * 3
    return vtrace_data(target, behaviour, sample(behaviour), torch.from_numpy(rows["value"]),
                       torch.from_numpy(rows["reward"]), None, *masks)  # fmt: skip


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", ["categorical", "multi", "normal"])
def test_the_losses_are_means_over_valid_rows(kind, masked, weighted):
    data = example(masked=masked, kind=kind)
    valid = torch.ones(12, 3, dtype=torch.bool) if data.valid is None else data.valid
    weight = torch.rand(12, 3, dtype=torch.float64) if weighted else None
    loss = vtrace_error(data._replace(weight=weight), 0.9, 0.8, 2.0, 1.5, 3.0)
    logp = log_prob(data.target_output, data.action)
    ratio = (logp - log_prob(data.behaviour_output, data.action)).exp()
    masks = {k: None if getattr(data, k) is None else getattr(data, k).numpy() for k in MASKS}
    target, adv = oracle.vtrace(
        ratio.numpy(), data.value.numpy(), data.reward.numpy(), 0.9, 0.8, 2.0, 1.5, 3.0, **masks
    )
    factor = valid.double() / valid.sum() if weight is None else weight * valid / valid.numel()
    assert loss._fields == ("policy_loss", "value_loss", "entropy_loss")
    assert loss.policy_loss.item() == pytest.approx(-(factor * logp * torch.from_numpy(adv)).sum().item(), rel=1e-10)
    error = (data.value[:-1] - torch.from_numpy(target)).square()
    assert loss.value_loss.item() == pytest.approx(0.5 * (factor * error).sum().item(), rel=1e-10)
    assert loss.entropy_loss.item() == pytest.approx((factor * entropy(data.target_output)).sum().item(), rel=1e-10)


class TestExactValues:
    target = np.array([[0.3, 0.7], [0.5, 0.5], [0.9, 0.1]])
    behaviour = np.array([[0.6, 0.4], [0.2, 0.8], [0.7, 0.3]])

    def rows(self, mdp, value, start, length=4):
        paths = mdp.paths(self.behaviour, start, length)
        prob = torch.tensor([p["prob"] for p in paths], dtype=torch.float64)
        ratio = (self.target / self.behaviour)[
            np.array([p["state"][:-1] for p in paths]), np.array([p["action"] for p in paths])
        ]
        arguments = (
            torch.from_numpy(ratio.T),
            torch.tensor([[value[s] for s in p["state"]] for p in paths], dtype=torch.float64).T,
            *(torch.tensor([p[k] for p in paths]).T for k in ("reward", "terminated")),
            None,
            torch.tensor([p["valid"] for p in paths]).T,
        )
        return prob, torch.tensor([p["action"][0] for p in paths]), arguments

    @pytest.mark.parametrize("lambda_", [0.0, 0.6, 1.0])
    @pytest.mark.parametrize("c_clip", [0.5, 1.0])
    @pytest.mark.parametrize("rho_clip", [0.4, 1.0, 1.6, math.inf])
    def test_the_fixed_point(self, rho_clip, c_clip, lambda_):
        """Theorem 1: off-policy, the targets' fixed point is the value of π_ρ̄ ∝ min(ρ̄·μ, π)."""
        mdp = oracle.SmallMDP(0.8)
        policy = np.minimum(rho_clip * self.behaviour, self.target) if rho_clip < math.inf else self.target
        value, _, _ = mdp.values(policy / policy.sum(-1, keepdims=True))
        for start in range(3):
            prob, _, arguments = self.rows(mdp, value, start)
            clips = {"rho_clip_ratio": rho_clip, "c_clip_ratio": c_clip}
            found = vtrace_returns(*arguments, gamma=0.8, lambda_=lambda_, **clips)
            assert (prob * found.return_[0]).sum().item() == pytest.approx(value[start], abs=1e-12)

    def test_unclipped_advantages_are_those_of_the_target_policy(self):
        """E_μ[ρ·(r + γ·v' − V) | s, a] = ρ(a)·A^π(s, a), so the policy gradient is that of π."""
        mdp = oracle.SmallMDP(0.8)
        value, _, advantage = mdp.values(self.target)
        free = dict.fromkeys(("rho_clip_ratio", "c_clip_ratio", "rho_pg_clip_ratio"), math.inf)
        for start in range(3):
            prob, action, arguments = self.rows(mdp, value, start)
            adv = vtrace_returns(*arguments, gamma=0.8, **free).adv[0]
            for a in range(2):
                expected = (prob * adv)[action == a].sum()  # weighted by μ(a|s)
                assert expected.item() == pytest.approx(self.target[start, a] * advantage[start, a], abs=1e-12)


class TestLimits:
    def on_policy(self, seed=2):
        rows = oracle.random_rows(np.random.default_rng(seed), 15, 3)
        table = {k: torch.from_numpy(v) for k, v in rows.items()}
        return torch.ones(15, 3, dtype=torch.float64), table["value"], table["reward"], *(table[k] for k in MASKS)

    @pytest.mark.parametrize("lambda_", [0.0, 0.7, 1.0])
    def test_on_policy_the_target_is_the_lambda_return(self, lambda_):
        ratio, value, reward, *masks = self.on_policy()
        found = vtrace_returns(ratio, value, reward, *masks, gamma=0.9, lambda_=lambda_)
        adv = gae(gae_data(value, reward, *masks), 0.9, lambda_)
        assert torch.allclose(found.return_, value[:-1] + adv, rtol=1e-12)

    def test_on_policy_with_lambda_of_one_it_is_the_nstep_return(self):
        ratio, value, reward, *masks = self.on_policy()
        found = vtrace_returns(ratio, value, reward, *masks, gamma=0.9)
        rows = oracle.Rows(reward, *masks)
        for t, b in np.argwhere(masks[2].numpy()):
            expected = oracle.nstep_return(value, reward, 15, 0.9, t, b, rows)
            assert found.return_[t, b].item() == pytest.approx(expected, rel=1e-12)
        assert torch.allclose(found.adv, (found.return_ - value[:-1]) * masks[2])

    def test_ratios_of_zero_leave_the_values(self):
        ratio, value, *rest = self.on_policy()
        found = vtrace_returns(torch.zeros_like(ratio), value, *rest)
        assert torch.equal(found.return_, value[:-1]) and (found.adv == 0).all()

    def test_gamma_of_zero(self):
        ratio, value, reward, *masks = self.on_policy()
        found = vtrace_returns(ratio, value, reward, *masks, gamma=0.0)
        assert torch.allclose(found.return_, torch.where(masks[2], reward, value[:-1]))

    def test_ratios_above_the_clips_are_all_the_same(self):
        ratio, *rest = self.on_policy()
        for a, b in zip(vtrace_returns(5 * ratio, *rest), vtrace_returns(9e9 * ratio, *rest), strict=True):
            assert torch.equal(a, b)

    def test_the_default_lambda_is_one(self):
        """The paper's; the historical default of 1.9 does not converge."""
        for fn in (vtrace_error, vtrace_returns):
            assert inspect.signature(fn).parameters["lambda_"].default == 1.0
        data = example()
        assert vtrace_error(data) == vtrace_error(data, 0.99, 1.0, 1.0, 1.0, 1.0)


class TestGradients:
    def test_they_reach_the_target_policy_and_the_values_of_the_rows_only(self):
        data = example()
        for x in data[:2] + data[3:5]:
            x.requires_grad_()
        weight = torch.ones(12, 3, dtype=torch.float64, requires_grad=True)
        loss = vtrace_error(data._replace(weight=weight))
        sum(loss).backward()
        assert data.behaviour_output.grad is None and data.reward.grad is None and weight.grad is None
        assert (data.target_output.grad.abs().sum(-1) > 0).equal(data.valid)
        assert (data.value.grad[-1] == 0).all() and (data.value.grad[:-1][~data.valid] == 0).all()

    def test_of_the_value_is_the_difference_to_the_target(self):
        data = example(masked=False)
        data.value.requires_grad_()
        loss = vtrace_error(data, 0.9)
        loss.value_loss.backward()
        ratio = compute_importance_weights(*data[:3])
        target = vtrace_returns(ratio, data.value.detach(), data.reward, gamma=0.9).return_
        assert torch.allclose(data.value.grad[:-1], (data.value[:-1] - target).detach() / 36, rtol=1e-10)

    def test_of_the_policy_is_the_score_times_the_advantage(self):
        data = example(masked=False)
        data.target_output.requires_grad_()
        vtrace_error(data, 0.9).policy_loss.backward()
        adv = vtrace_returns(compute_importance_weights(*data[:3]), data.value, data.reward, gamma=0.9).adv
        score = torch.nn.functional.one_hot(data.action, 4) - data.target_output.detach().softmax(-1)
        assert torch.allclose(data.target_output.grad, -score * adv.unsqueeze(-1) / 36, rtol=1e-10)

    def test_targets_have_none(self):
        data = example()
        found = vtrace_returns(torch.ones(12, 3, requires_grad=True), data.value.requires_grad_(), data.reward)
        assert not found.return_.requires_grad and not found.adv.requires_grad


class TestImportanceWeights:
    def test_by_hand(self):
        target, behaviour = torch.tensor([[1.0, 3.0]]).log(), torch.tensor([[1.0, 1.0]]).log()
        for action, ratio in ((0, 0.5), (1, 1.5)):
            found = compute_importance_weights(target, behaviour, torch.tensor([action]))
            assert found.tolist() == pytest.approx([ratio])

    def test_several_heads_multiply(self):
        target, behaviour = torch.tensor([[1.0, 3.0]]).log(), torch.tensor([[1.0, 1.0]]).log()
        found = compute_importance_weights([target] * 2, [behaviour] * 2, torch.tensor([[1, 0]]))
        assert found.tolist() == pytest.approx([0.75])

    def test_gradient_on_request(self):
        data = example()
        data.target_output.requires_grad_()
        assert not compute_importance_weights(*data[:3]).requires_grad
        found = compute_importance_weights(*data[:3], requires_grad=True)
        (gradient,) = torch.autograd.grad(found.sum(), data.target_output)
        assert gradient.abs().sum() > 0
        with torch.no_grad():
            assert not compute_importance_weights(*data[:3], requires_grad=True).requires_grad

    def test_their_mean_under_the_behaviour_is_one(self):
        logit = torch.randn(2, 5, dtype=torch.float64)
        found = compute_importance_weights(*(x.expand(5, 5) for x in logit), torch.arange(5))
        assert (found * logit[1].softmax(-1)).sum().item() == pytest.approx(1)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"reward": torch.zeros(12)}, "vtrace: 'reward' has shape [12], expected ['any', 'any']"),
        ({"value": torch.zeros(12, 3)}, "vtrace: 'value' has shape [12, 3], expected [13, 3]"),
        ({"action": torch.zeros(11, 3, dtype=torch.long)}, "log_prob: 'action' has shape [11, 3], expected [12, 3]"),
        ({"reward": torch.zeros(11, 3), "value": torch.zeros(12, 3)},
         "vtrace: 'ratio' has shape [12, 3], expected [11, 3]"),
        ({"terminated": torch.zeros(12, 1)}, "vtrace: 'terminated' has shape [12, 1], expected [12, 3]"),
        ({"weight": torch.zeros(3)}, "vtrace: 'weight' has shape [3], expected [12, 3]"),
    ],
)  # fmt: skip
def test_a_wrong_shape_is_said(changed, message):
    with pytest.raises(SpecError) as e:
        vtrace_error(example()._replace(**changed))
    assert str(e.value) == message
