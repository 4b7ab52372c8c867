"""PPO's losses: by hand, a slow oracle over all forms of logits, limits, gradients, exact gradients of a bandit."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import policy_gradient as oracle

from nervex.rl_utils.a2c import a2c_data, a2c_error
from nervex.rl_utils.distribution import entropy, log_prob, sample
from nervex.rl_utils.ppo import ppo_data, ppo_error, ppo_logp_data, ppo_logp_error
from nervex.utils.errors import ConfigError, SpecError

KINDS = ["categorical", "multi", "normal"]
INFINITE = math.inf


def random_logit(kind, shape, generator):
    def draw(n):
        return torch.randn(*shape, n, generator=generator, dtype=torch.float64)

    if kind == "categorical":
        return draw(3)
    return [draw(2), draw(4)] if kind == "multi" else {"mu": draw(2), "sigma": draw(2).exp()}


def near(logit, generator, scale=0.3):
    """A distribution like ``logit``."""
    if isinstance(logit, torch.Tensor):
        return logit + scale * torch.randn(logit.shape, generator=generator, dtype=logit.dtype)
    if isinstance(logit, dict):
        return {"mu": near(logit["mu"], generator), "sigma": logit["sigma"] * 1.1}
    return [near(head, generator) for head in logit]


def problem(kind, shape=(6,), seed=0, weighted=False):
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    old = random_logit(kind, shape, generator)
    numbers = torch.randn(4, *shape, generator=generator, dtype=torch.float64)
    weight = torch.rand(shape, generator=generator, dtype=torch.float64) if weighted else None
    return ppo_data(near(old, generator), old, sample(old), *numbers, weight)


def leaves(logit):
    if isinstance(logit, torch.Tensor):
        return [logit]
    return list(logit.values()) if isinstance(logit, dict) else list(logit)


class TestByHand:
    """Ratios 3/2, 3/2, 1/2, 1/2, 1 with advantages 2, −2, 2, −2, 4 and a clip ratio of 1/4."""

    ratio = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.0])
    adv = torch.tensor([2.0, -2.0, 2.0, -2.0, 4.0])

    def of(self, clip_ratio=0.25, use_value_clip=True, dual_clip=None, **changed):
        zero = torch.zeros(5)
        data = ppo_logp_data(self.ratio.log(), zero, zero, zero, zero, self.adv, zero, None)
        return ppo_logp_error(data._replace(**changed), clip_ratio, use_value_clip, dual_clip)

    def test_policy_loss(self):
        # 1.25·2, 1.5·(−2), 0.5·2, 0.75·(−2), 4
        assert self.of()[0].policy_loss.item() == pytest.approx(-(2.5 - 3 + 1 - 1.5 + 4) / 5)

    def test_weights(self):
        weight = torch.tensor([1.0, 0.0, 2.0, 1.0, 1.0])
        loss, info = self.of(weight=weight, entropy=torch.arange(5.0), return_=torch.ones(5))
        assert loss.policy_loss.item() == pytest.approx(-(2.5 + 2 - 1.5 + 4) / 5)
        assert loss.value_loss.item() == pytest.approx(0.5)
        assert loss.entropy_loss.item() == pytest.approx((4 + 3 + 4) / 5)
        assert info.clipfrac.item() == pytest.approx(4 / 5)

    def test_dual_clip_bounds_the_loss_of_bad_actions(self):
        ratio = torch.tensor([1.5, 9.0, 0.5, 2.5, 1.0])
        plain = self.of(logp_new=ratio.log())[0].policy_loss.item()
        assert plain == pytest.approx(-(2.5 - 18 + 1 - 5 + 4) / 5)
        dual = self.of(logp_new=ratio.log(), dual_clip=3.0)[0].policy_loss.item()
        assert dual == pytest.approx(-(2.5 - 6 + 1 - 5 + 4) / 5)

    def test_info(self):
        _, info = self.of()
        kl = sum(r - 1 - math.log(r) for r in self.ratio.tolist()) / 5
        assert info.approx_kl.item() == pytest.approx(kl) and info.clipfrac.item() == pytest.approx(4 / 5)
        assert isinstance(info.approx_kl, torch.Tensor) and info.approx_kl.shape == info.clipfrac.shape == ()

    def test_value_loss(self):
        # returns 1; new values 3, 0.5, from old ones 0, 0: clipped to 0.25, 0.25
        new, old, return_ = torch.tensor([3.0, 0.5]), torch.zeros(2), torch.ones(2)
        rest = [torch.zeros(2)] * 3
        data = ppo_logp_data(*rest, new, old, torch.zeros(2), return_, None)
        clipped, _ = ppo_logp_error(data, 0.25)
        assert clipped.value_loss.item() == pytest.approx(0.5 * (4 + 0.75**2) / 2)
        plain, _ = ppo_logp_error(data, 0.25, use_value_clip=False)
        assert plain.value_loss.item() == pytest.approx(0.5 * (4 + 0.25) / 2)

    def test_defaults(self):
        loss, info = ppo_error(problem("categorical"))
        same, _ = ppo_error(problem("categorical"), 0.2, True, None)
        assert loss == same and loss._fields == ("policy_loss", "value_loss", "entropy_loss")
        assert info._fields == ("approx_kl", "clipfrac")


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**31),
    st.sampled_from(KINDS),
    st.floats(0.01, 2),
    st.booleans(),
    st.sampled_from([None, 1.5, 3.0]),
    st.booleans(),
)
def test_against_the_oracle(seed, kind, clip_ratio, use_value_clip, dual_clip, weighted):
    data = problem(kind, (2, 3), seed, weighted)
    loss, info = ppo_error(data, clip_ratio, use_value_clip, dual_clip)
    logp_new, logp_old = [], []
    for t in range(2):
        for b in range(3):
            for logit, found in ((data.logit_new, logp_new), (data.logit_old, logp_old)):
                row = leaves(logit)
                plain = [x[t, b].tolist() for x in row]
                plain = plain[0] if kind == "categorical" else plain
                plain = dict(zip(logit, plain, strict=True)) if kind == "normal" else plain
                found.append(oracle.log_prob(plain, data.action[t, b].tolist()))
    numbers = [x.flatten().tolist() for x in data[3:7]]
    weight = None if data.weight is None else data.weight.flatten().tolist()
    expected = oracle.ppo_losses(logp_new, logp_old, *numbers, weight, clip_ratio, use_value_clip, dual_clip)
    found = {**loss._asdict(), **info._asdict()}
    assert all(x.dtype == torch.float64 and x.shape == () for x in found.values())
    for name, number in expected.items():
        assert found[name].item() == pytest.approx(number, rel=1e-10, abs=1e-10), name
    mean_entropy = (entropy(data.logit_new) * (1 if data.weight is None else data.weight)).mean()
    assert loss.entropy_loss.item() == pytest.approx(mean_entropy.item())
    stored = ppo_logp_data(*(torch.tensor(x, dtype=torch.float64).view(2, 3) for x in (logp_new, logp_old)),
                           entropy(data.logit_new), *data[3:])  # fmt: skip
    again, _ = ppo_logp_error(stored, clip_ratio, use_value_clip, dual_clip)
    assert torch.stack(again).tolist() == pytest.approx(torch.stack(loss).tolist(), rel=1e-10, abs=1e-10)


class TestGradients:
    @pytest.mark.parametrize("kind", KINDS)
    def test_they_reach_the_new_logits_and_values_only(self, kind):
        data = problem(kind, weighted=True)
        for x in [*leaves(data.logit_new), *leaves(data.logit_old), *data[3:]]:
            x.requires_grad_()
        loss, info = ppo_error(data)
        sum(loss).backward()
        assert all(x.grad is not None and x.grad.abs().sum() > 0 for x in leaves(data.logit_new))
        assert data.value_new.grad.abs().sum() > 0
        others = [*leaves(data.logit_old), data.value_old, data.adv, data.return_, data.weight]
        assert all(x.grad is None for x in others)
        assert not info.approx_kl.requires_grad and not info.clipfrac.requires_grad

    def test_stored_log_probabilities_have_none(self):
        columns = [torch.rand(4).requires_grad_() for _ in range(8)]
        data = ppo_logp_data(*columns)
        sum(ppo_logp_error(data)[0]).backward()
        assert [name for name in data._fields if getattr(data, name).grad is not None] == [
            "logp_new",
            "entropy",
            "value_new",
        ]

    def test_each_loss_reaches_its_own(self):
        data = problem("categorical")
        data.logit_new.requires_grad_(), data.value_new.requires_grad_()
        loss, _ = ppo_error(data)
        (of_policy,) = torch.autograd.grad(loss.policy_loss, data.logit_new, retain_graph=True)
        assert of_policy.abs().sum() > 0
        assert torch.autograd.grad(loss.policy_loss, data.value_new, allow_unused=True, retain_graph=True) == (None,)
        assert torch.autograd.grad(loss.value_loss, data.logit_new, allow_unused=True, retain_graph=True) == (None,)
        assert torch.autograd.grad(loss.entropy_loss, data.value_new, allow_unused=True) == (None,)

    def test_clipped_rows_have_none(self):
        ratio = torch.tensor([1.5, 1.5, 0.5, 0.5])
        adv, zero = torch.tensor([1.0, -1.0, 1.0, -1.0]), torch.zeros(4)
        logp = ratio.log().requires_grad_()
        loss, _ = ppo_logp_error(ppo_logp_data(logp, zero, zero, zero, zero, adv, zero, None), 0.2)
        loss.policy_loss.backward()
        assert logp.grad.tolist() == pytest.approx([0, 1.5 / 4, -0.5 / 4, 0])  # −ρ·A / 4 where it still matters

    def test_dual_clipped_rows_have_none(self):
        logp = torch.tensor([1.0, 2.0]).requires_grad_()
        zero = torch.zeros(2)
        data = ppo_logp_data(logp, zero, zero, zero, zero, torch.tensor([-1.0, -1.0]), zero, None)
        ppo_logp_error(data, 0.2, dual_clip=3.0)[0].policy_loss.backward()
        assert logp.grad.tolist() == pytest.approx([math.e / 2, 0])

    def test_value_clipped_rows_have_none_where_they_would_move_on(self):
        # old 0, return 1, clip 1/4: at 0.5 the clipped error is the larger one, at 3 and at −0.1 the plain one
        new = torch.tensor([0.5, 3.0, -0.1]).requires_grad_()
        zero = torch.zeros(3)
        data = ppo_logp_data(zero, zero, zero, new, zero, zero, torch.ones(3), None)
        ppo_logp_error(data, 0.25)[0].value_loss.backward()
        assert new.grad.tolist() == pytest.approx([0, 2 / 3, -1.1 / 3])

    @pytest.mark.parametrize("kind", KINDS)
    def test_finite_differences(self, kind):
        data = problem(kind, weighted=True)

        def losses(value_new, *parts):
            logit = parts[0] if kind == "categorical" else list(parts)
            logit = dict(zip(data.logit_new, parts, strict=True)) if kind == "normal" else logit
            return tuple(ppo_error(data._replace(logit_new=logit, value_new=value_new))[0])

        torch.autograd.gradcheck(losses, [x.requires_grad_() for x in (data.value_new, *leaves(data.logit_new))])


class TestLimits:
    @pytest.mark.parametrize("kind", KINDS)
    def test_without_clips_it_is_the_weighted_policy_gradient(self, kind):
        data = problem(kind)
        loss, _ = ppo_error(data, INFINITE)
        ratio = (log_prob(data.logit_new, data.action) - log_prob(data.logit_old, data.action)).exp()
        assert loss.policy_loss.item() == pytest.approx(-(ratio * data.adv).mean().item())
        assert loss.value_loss.item() == pytest.approx(0.5 * (data.value_new - data.return_).square().mean().item())

    @pytest.mark.parametrize("clip_ratio", [0.2, INFINITE])
    @pytest.mark.parametrize("kind", KINDS)
    def test_at_the_old_policy_the_gradient_is_that_of_a2c(self, kind, clip_ratio):
        data = problem(kind, weighted=True)
        data = data._replace(logit_new=data.logit_old)
        inputs = [x.requires_grad_() for x in (*leaves(data.logit_new), data.value_new)]
        loss, info = ppo_error(data, clip_ratio, use_value_clip=False, dual_clip=3.0)
        assert info.approx_kl.item() == info.clipfrac.item() == 0
        other = a2c_error(a2c_data(data.logit_new, data.action, data.value_new, data.adv, data.return_, data.weight))
        of_ppo = torch.autograd.grad(loss.policy_loss + loss.value_loss - loss.entropy_loss, inputs)
        of_a2c = torch.autograd.grad(other.policy_loss + other.value_loss - other.entropy_loss, inputs)
        assert all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(of_ppo, of_a2c, strict=True))

    def test_the_estimate_of_the_divergence_is_unbiased(self):
        """Weighted by the old policy's probabilities, over all actions, it is KL(old ‖ new)."""
        old, new = torch.tensor([0.2, 0.3, 0.5]), torch.tensor([0.4, 0.4, 0.2])
        zero = torch.zeros(3)
        _, info = ppo_logp_error(ppo_logp_data(new.log(), old.log(), *[zero] * 5, 3 * old))
        assert info.approx_kl.item() == pytest.approx((old * (old / new).log()).sum().item(), rel=1e-5)

    def test_many_steps_without_a_clip_find_the_best_arm_and_with_it_stay_near(self):
        """A bandit with three arms, exact expectations: the clip stops the probabilities near its edge."""
        found = {}
        for clip_ratio in (0.2, INFINITE):
            logit = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
            optimizer = torch.optim.SGD([logit], lr=1.0)
            adv, zero = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
            for _ in range(300):
                data = ppo_data(logit.expand(3, 3), torch.zeros(3, 3, dtype=torch.float64), torch.arange(3), zero, zero,
                                adv, zero, None)  # fmt: skip
                optimizer.zero_grad()
                ppo_error(data, clip_ratio)[0].policy_loss.backward()
                optimizer.step()
            found[clip_ratio] = logit.detach().softmax(-1)[0]
        assert found[INFINITE][2] > 0.99
        assert (found[0.2] * 3 - 1).abs().max() < 0.5 and found[0.2][2] * 3 > 1.15


def test_exact_policy_gradient_of_a_bandit():
    """∂/∂logit of Σ π(a)·r(a) is π(a)·(r(a) − Σ π·r): minus the gradient of the loss over all arms, weighted by π."""
    logit = torch.tensor([[0.1, -0.4, 0.9]], dtype=torch.float64, requires_grad=True)
    reward, prob = torch.tensor([1.0, 5.0, -2.0], dtype=torch.float64), logit.detach().softmax(-1)[0]
    zero = torch.zeros(3, dtype=torch.float64)
    rows = logit.expand(3, 3)
    data = ppo_data(rows, rows.detach(), torch.arange(3), zero, zero, reward - (prob * reward).sum(), zero, 3 * prob)
    ppo_error(data)[0].policy_loss.backward()
    assert torch.allclose(-logit.grad[0], prob * (reward - (prob * reward).sum()), rtol=1e-12)


def test_rows_of_weight_zero_change_nothing():
    data = problem("categorical", (8,))
    valid = torch.tensor([1, 1, 0, 1, 0, 1, 1, 1], dtype=torch.float64)
    weighted = ppo_error(data._replace(weight=valid / valid.mean()))
    kept = valid.bool()
    alone = ppo_error(ppo_data(*(x[kept] for x in data[:-1]), None))
    for a, b in zip(weighted, alone, strict=True):
        assert torch.stack(a).tolist() == pytest.approx(torch.stack(b).tolist(), rel=1e-12)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"action": torch.zeros(6, 1, dtype=torch.long)}, "log_prob: 'action' has shape [6, 1], expected [6]"),
        ({"logit_old": torch.zeros(5, 3)}, "log_prob: 'action' has shape [6], expected [5]"),
        ({"value_new": torch.zeros(6, 1)}, "ppo_error: 'value_new' has shape [6, 1], expected [6]"),
        ({"value_old": torch.zeros(6, 1)}, "ppo_error: 'value_old' has shape [6, 1], expected [6]"),
        ({"adv": torch.zeros(1)}, "ppo_error: 'adv' has shape [1], expected [6]"),
        ({"return_": torch.zeros(2, 3)}, "ppo_error: 'return_' has shape [2, 3], expected [6]"),
        ({"weight": torch.zeros(())}, "ppo_error: 'weight' has shape [], expected [6]"),
    ],
)
def test_a_wrong_shape_is_said(changed, message):
    with pytest.raises(SpecError) as e:
        ppo_error(problem("categorical")._replace(**changed))
    assert str(e.value) == message


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"clip_ratio": 0.0},
         "ppo_error: clip_ratio is 0.0, expected a positive number (0.1 to 0.3 are usual)"),
        ({"clip_ratio": math.nan},
         "ppo_error: clip_ratio is nan, expected a positive number (0.1 to 0.3 are usual)"),
        ({"dual_clip": 1.0}, "ppo_error: dual_clip is 1.0, expected a number above 1 (3 is usual), or null"),
        ({"dual_clip": 0.2}, "ppo_error: dual_clip is 0.2, expected a number above 1 (3 is usual), or null"),
    ],
)  # fmt: skip
def test_a_clip_out_of_range_is_said(arguments, message):
    with pytest.raises(ConfigError) as e:
        ppo_error(problem("categorical"), **arguments)
    assert str(e.value) == message


@pytest.mark.parametrize("huge", [1e4, -1e4, INFINITE, -INFINITE])
@pytest.mark.parametrize("dual_clip", [None, 3.0])
def test_rows_that_do_not_count_may_be_far_away(huge, dual_clip):
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(7, 6, generator=generator, dtype=torch.float64)
    weight = torch.tensor([1.5, 0.0, 1.5, 1.5, 0.0, 1.5], dtype=torch.float64)
    counts = weight > 0
    numbers[0] += torch.where(counts, 0.0, huge)
    logp_new = numbers[0].requires_grad_()
    loss, info = ppo_logp_error(ppo_logp_data(logp_new, *numbers[1:], weight), dual_clip=dual_clip)
    (grad,) = torch.autograd.grad(loss.policy_loss, logp_new)
    alone = numbers[:, counts].detach()
    first = alone[0].requires_grad_()
    expected, expected_info = ppo_logp_error(ppo_logp_data(first, *alone[1:], None), dual_clip=dual_clip)
    (expected_grad,) = torch.autograd.grad(expected.policy_loss, first)
    assert loss.policy_loss.item() == pytest.approx(expected.policy_loss.item())
    assert torch.allclose(grad[counts], expected_grad) and (grad[~counts] == 0).all()
    assert info.approx_kl == pytest.approx(expected_info.approx_kl)
    assert info.clipfrac == pytest.approx(expected_info.clipfrac)
