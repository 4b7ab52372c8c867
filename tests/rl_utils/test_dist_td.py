"""Categorical return distributions: the projection keeps all mass, the loss is the cross-entropy with its target."""

import math

import numpy as np
import pytest
import torch
from oracles import distributional, mdp

from nervex.rl_utils.dist_td import (
    _gathered,
    _moved,
    categorical_projection,
    dist_1step_td_data,
    dist_1step_td_error,
    dist_nstep_td_data,
    dist_nstep_td_error,
    dist_nstep_td_error_per_sample,
)
from nervex.utils.errors import ConfigError, SpecError

UNIFORM = torch.full((1, 1, 5), 0.2)
ATOM_0 = torch.zeros(1, dtype=torch.long)


def one_hot(*place, n_atom=5):
    return torch.eye(n_atom)[list(place)].unsqueeze(1)  # [B, 1, n_atom]


def problem(seed, nstep, batch=7, actions=3, n_atom=6):
    rng = np.random.default_rng(seed)
    dist, next_dist = rng.dirichlet(np.ones(n_atom), (2, batch, actions))
    act, next_act = rng.integers(actions, size=(2, batch))
    reward, done, weight = rng.normal(size=(nstep, batch)) * 2, rng.random(batch) < 0.3, rng.random(batch)
    reward[:, 0], done[0] = 0.0, True  # everything on the atom 0 of [-2, 3]
    return dist, next_dist, act, next_act, reward, done, weight


class TestProjectionByHand:
    """Atoms −2, −1, 0, 1, 2."""

    def project(self, *places):
        support = torch.tensor([[*places]])
        return categorical_projection(torch.full((1, len(places)), 1 / len(places)), support, -2.0, 2.0)[0].tolist()

    def test_a_mass_on_an_atom_stays_there_whole(self):
        assert self.project(1.0, 1.0, 1.0, 1.0, 1.0) == pytest.approx([0, 0, 0, 1, 0])
        assert self.project(-2.0, -1.0, 0.0, 1.0, 2.0) == pytest.approx([0.2] * 5)

    def test_a_mass_between_two_atoms_is_shared_by_distance(self):
        assert self.project(0.25, 0.25, 0.25, 0.25, 0.25) == pytest.approx([0, 0, 0.75, 0.25, 0])

    def test_masses_outside_go_to_the_ends(self):
        assert self.project(-7.0, -2.5, 2.0, 2.5, 1e6) == pytest.approx([0.4, 0, 0, 0, 0.6])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_mass_is_lost_wherever_it_falls(dtype):
    rng = np.random.default_rng(0)
    for n_atom, v_min, v_max in ((2, 0.0, 1.0), (51, -10.0, 10.0), (51, -0.3, 17.1), (7, -1e-3, 1e3)):
        atoms = torch.linspace(v_min, v_max, n_atom, dtype=dtype)
        prob = torch.from_numpy(rng.dirichlet(np.ones(n_atom), 200)).to(dtype)
        support = torch.cat([
            atoms[torch.from_numpy(rng.integers(n_atom, size=(100, n_atom)))],
            torch.from_numpy(rng.uniform(1.5 * v_min - 1, 1.5 * v_max, (100, n_atom))).to(dtype),
        ])  # fmt: skip
        out = categorical_projection(prob, support, v_min, v_max)
        assert out.dtype == dtype and (out >= 0).all()
        assert (out.sum(1) - prob.sum(1)).abs().max() < 20 * torch.finfo(dtype).eps
        expected = [distributional.project(*x, v_min, v_max) for x in zip(prob.tolist(), support.tolist(), strict=True)]
        assert out.numpy() == pytest.approx(np.array(expected), abs=2e-4 if dtype == torch.float32 else 1e-11)
        inside = support[100:].clamp(v_min, v_max)
        assert (out[100:] @ atoms).numpy() == pytest.approx(
            (prob[100:] * inside).sum(1).numpy(), abs=1e-5 * v_max
        )  # the mean


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("n_atom", [2, 3, 51])
def test_moving_masses_and_gathering_them_are_the_same(dtype, tolerance, n_atom):
    generator = torch.Generator().manual_seed(n_atom)
    position = (torch.rand(300, n_atom, generator=generator, dtype=dtype) * 1.4 - 0.2).clamp(0, 1) * (n_atom - 1)
    position[::2] = position[::2].round()
    prob = torch.rand(300, n_atom, generator=generator, dtype=dtype).softmax(1)
    sides = []
    for project in (_moved, _gathered):
        leaf = prob.clone().requires_grad_()
        out = project(leaf, position)
        assert out.dtype == dtype
        sides.append((out, *torch.autograd.grad(out.square().sum(), leaf)))
    for a, b in zip(*sides, strict=True):
        assert (a - b).abs().max() < tolerance


def test_a_return_that_is_no_number_makes_the_loss_none():
    support = torch.full((2, 5), 0.5)
    support[1, 3] = torch.nan
    out = categorical_projection(torch.full((2, 5), 0.2), support, -2.0, 2.0)
    assert out[0].isfinite().all() and out[1].sum().isnan()


class TestLossByHand:
    def test_a_target_exactly_on_an_atom(self):
        """r = 1 and the end: the target is all on the atom 1; a uniform prediction has loss log 5, not 0."""
        data = dist_1step_td_data(UNIFORM, UNIFORM, ATOM_0, ATOM_0, torch.ones(1), torch.ones(1), None)
        assert dist_1step_td_error(data, 0.9, -2, 2, 5).item() == pytest.approx(math.log(5))

    def test_every_atom_on_an_atom(self):
        """γ = 1 and r = 1 move the distribution by one atom; what was at 2 stays there."""
        next_dist = torch.tensor([[[0.1, 0.2, 0.3, 0.15, 0.25]]])
        data = dist_1step_td_data(UNIFORM, next_dist, ATOM_0, ATOM_0, torch.ones(1))
        assert dist_1step_td_error(data, 1.0, -2, 2, 5).item() == pytest.approx(math.log(5))
        prediction = torch.tensor([[[0.1, 0.1, 0.2, 0.3, 0.3]]])
        loss, priority = dist_nstep_td_error_per_sample(
            dist_nstep_td_data(prediction, next_dist, ATOM_0, ATOM_0, torch.ones(1, 1)), 1.0, -2, 2, 5
        )
        target = [0, 0.1, 0.2, 0.3, 0.4]
        expected = -sum(m * math.log(p) for m, p in zip(target, prediction.flatten().tolist(), strict=True))
        assert loss.item() == pytest.approx(expected)
        assert priority.item() == pytest.approx(expected + sum(m * math.log(m) for m in target[1:]))

    def test_two_steps_and_the_factor_of_a_cut_window(self):
        """r = 1/2, 1: G = 1; the bootstrapping mass at 2 goes to 1 + 2/4 = 1.5, or to 1 + 2/2 = 2."""
        data = dist_nstep_td_data(UNIFORM, one_hot(4), ATOM_0, ATOM_0, torch.tensor([[0.5], [1.0]]))
        for factor, target in ((None, [0, 0, 0, 0.5, 0.5]), (torch.tensor([0.5]), [0, 0, 0, 0, 1.0])):
            prediction = torch.tensor([[target]]) * 0.9 + 0.02
            loss = dist_nstep_td_error(data._replace(dist=prediction), 0.5, -2, 2, 5, 2, factor)
            assert loss.item() == pytest.approx(distributional.cross_entropy(target, prediction.flatten().tolist()))

    def test_greedy_next_action_by_the_mean(self):
        """Action 0 has mean 1, action 1 mean 0 though its likeliest atom is 2."""
        next_dist = torch.stack([one_hot(3)[:, 0], torch.tensor([[0.45, 0.0, 0.05, 0.0, 0.5]])], dim=1)
        data = dist_1step_td_data(0.1 + next_dist[:, :1].expand(1, 2, 5) / 2, next_dist, ATOM_0, None, torch.zeros(1))
        greedy, first, second = (
            dist_1step_td_error(data._replace(next_act=act), 1.0, -2, 2, 5).item() for act in (None, ATOM_0, ATOM_0 + 1)
        )
        assert greedy == first != second

    def test_a_prediction_that_rules_the_target_out_is_finite(self):
        dist = one_hot(0).requires_grad_()
        data = dist_1step_td_data(dist, UNIFORM, ATOM_0, ATOM_0, torch.ones(1), torch.ones(1))
        loss = dist_1step_td_error(data, 0.9, -2, 2, 5)
        loss.backward()
        assert 80 < loss.item() < 1000 and dist.grad.isfinite().all()

    def test_an_atom_of_a_tiny_probability_still_learns(self):
        logit = torch.tensor([[[40.0, 0.0, 0.0, 0.0, 0.0]]], requires_grad=True)
        data = dist_1step_td_data(logit.softmax(-1), UNIFORM, ATOM_0, ATOM_0, torch.ones(1), torch.ones(1))
        dist_1step_td_error(data, 0.9, -2, 2, 5).backward()
        assert logit.grad.flatten().tolist() == pytest.approx([1, 0, 0, -1, 0], abs=1e-6)


@pytest.mark.parametrize("nstep", [1, 3])
@pytest.mark.parametrize("seed", range(5))
def test_against_the_oracle(seed, nstep):
    dist, next_dist, act, next_act, reward, done, weight = problem(seed, nstep)
    factor = np.random.default_rng(seed).random(7)
    samples = np.arange(7)
    for own, given in ((None, next_act), (factor, next_act), (factor, None)):
        action = distributional.greedy(next_dist, -2, 3) if given is None else given
        target = distributional.targets(next_dist[samples, action], reward, done, 0.9, -2, 3, own)
        taken = dist[samples, act]
        loss = [weight[b] * distributional.cross_entropy(target[b], taken[b]) for b in samples]
        kl = [distributional.kl_divergence(target[b], taken[b]) for b in samples]
        data = dist_nstep_td_data(*[None if x is None else torch.from_numpy(x) for x in
                                    (dist, next_dist, act, given, reward, done, weight)])  # fmt: skip
        value_gamma = None if own is None else torch.from_numpy(own)
        got, priority = dist_nstep_td_error_per_sample(data, 0.9, -2, 3, 6, nstep, value_gamma)
        assert got.dtype == priority.dtype == torch.float64
        assert got.item() == pytest.approx(np.mean(loss), rel=1e-12)
        assert priority.numpy() == pytest.approx(kl, rel=1e-10, abs=1e-12)
        assert dist_nstep_td_error(data, 0.9, -2, 3, 6, nstep, value_gamma).item() == got.item()
        single = dist_nstep_td_data(*[None if x is None else x.float() if x.is_floating_point() else x for x in data])
        assert dist_nstep_td_error(
            single, 0.9, -2, 3, 6, nstep, None if own is None else value_gamma.float()
        ).item() == pytest.approx(got.item(), rel=1e-5)
        if nstep == 1 and own is None:
            one = dist_1step_td_data(*data._replace(reward=data.reward[0]))
            assert dist_1step_td_error(one, 0.9, -2, 3, 6).item() == got.item()


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8])
def test_actions_of_other_integers(dtype):
    data = dist_nstep_td_data(*[torch.from_numpy(x) for x in problem(0, 1)])
    other = data._replace(act=data.act.to(dtype), next_act=data.next_act.to(dtype))
    assert dist_nstep_td_error(other, 0.9, -2, 3, 6).item() == dist_nstep_td_error(data, 0.9, -2, 3, 6).item()


class TestLimits:
    def test_done_ignores_the_next_distribution(self):
        data = dist_nstep_td_data(*[torch.from_numpy(x) for x in problem(0, 1)])
        data = data._replace(done=torch.ones(7))
        loss = dist_nstep_td_error(data, 0.9, -2, 3, 6)
        assert loss.item() == dist_nstep_td_error(data._replace(next_dist=data.dist), 0.9, -2, 3, 6).item()
        assert loss.item() == dist_nstep_td_error(data._replace(done=None), 0.0, -2, 3, 6).item()

    def test_the_priority_is_0_where_prediction_and_target_agree(self):
        dist = torch.from_numpy(problem(1, 1)[0])
        data = dist_nstep_td_data(dist, dist, torch.zeros(7).long(), torch.zeros(7).long(), torch.zeros(1, 7))
        assert dist_nstep_td_error_per_sample(data, 1.0, -2, 3, 6)[1].numpy() == pytest.approx(np.zeros(7), abs=1e-12)

    def test_the_priority_is_never_negative(self):
        dist = torch.from_numpy(np.random.default_rng(0).dirichlet(np.ones(51), (500, 1))).float()
        none = torch.zeros(500).long()
        data = dist_nstep_td_data(dist, dist, none, none, torch.zeros(1, 500))
        assert (dist_nstep_td_error_per_sample(data, 1.0, -10, 10, 51)[1] >= 0).all()


def test_the_returns_of_a_corridor_are_a_fixed_point():
    """γ = 1/2: the return of going right from s is 2^(s − 3), which is an atom."""
    true = mdp.optimal_values(mdp.corridor(4), 0.5)[0]
    assert true == pytest.approx([1 / 8, 1 / 4, 1 / 2, 1])
    place = [int(8 * v) for v in true]
    dist = torch.eye(9)[place].unsqueeze(1).expand(4, 2, 9)  # atoms 0, 1/8, .. 1
    after, done = torch.tensor([1, 2, 3, 0]), torch.tensor([False, False, False, True])
    right = torch.ones(4, dtype=torch.long)
    data = dist_1step_td_data(dist, dist[after], right, None, torch.tensor([0.0, 0, 0, 1]), done)
    assert dist_1step_td_error(data, 0.5, 0, 1, 9).item() == pytest.approx(0, abs=1e-6)


def test_gradient_reaches_only_the_prediction_of_the_action_taken():
    dist, next_dist, act, next_act, reward, done, weight = (torch.from_numpy(x) for x in problem(3, 2))
    leaves = [x.requires_grad_() for x in (dist, next_dist, reward, weight)]
    data = dist_nstep_td_data(dist, next_dist, act, next_act, reward, done, weight)
    loss, priority = dist_nstep_td_error_per_sample(data, 0.9, -2, 3, 6, 2)
    loss.backward()
    assert not priority.requires_grad and all(x.grad is None for x in leaves[1:])
    target = distributional.targets(next_dist.detach().numpy()[np.arange(7), next_act], reward.detach().numpy(),
                                    done.numpy(), 0.9, -2, 3)  # fmt: skip
    expected = torch.zeros_like(dist)
    expected[torch.arange(7), act] = -(weight.detach() / 7)[:, None] * torch.from_numpy(target)
    expected = expected / dist.detach()
    assert dist.grad.allclose(expected, rtol=1e-10)


GOOD = dist_nstep_td_data(
    torch.rand(3, 2, 5), torch.rand(3, 2, 5), torch.tensor([0, 1, 0]), torch.tensor([0, 1, 0]), torch.rand(2, 3)
)
ERRORS = [
    ({"dist": GOOD.dist[0]}, "'dist' has shape [2, 5], expected ['any', 'any', 5]"),
    ({"dist": GOOD.dist.long()}, "'dist' is torch.int64, expected a floating tensor; cast it with .float()"),
    ({"next_dist": GOOD.dist[:2]}, "'next_dist' has shape [2, 2, 5], expected [3, 2, 5]"),
    ({"act": GOOD.act[:2]}, "'act' has shape [2], expected [3]"),
    ({"act": GOOD.act.float()}, "'act' is torch.float32, expected an integer tensor; cast it with .long()"),
    ({"next_act": GOOD.act[:, None]}, "'next_act' has shape [3, 1], expected [3]"),
    ({"reward": GOOD.reward.T}, "'reward' has shape [3, 2], expected ['any', 3]"),
    ({"weight": torch.ones(3, 1)}, "'weight' has shape [3, 1], expected [3]"),
]  # fmt: skip


@pytest.mark.parametrize("changed, message", ERRORS, ids=[m.split("'")[1] + m.split("'")[2][:4] for _, m in ERRORS])
def test_a_wrong_shape_or_dtype_is_said(changed, message):
    with pytest.raises(SpecError) as e:
        dist_nstep_td_error(GOOD._replace(**changed), 0.9, -2, 2, 5, 2)
    assert str(e.value) == "dist_nstep_td_error: " + message


def test_other_mistakes_are_said():
    with pytest.raises(SpecError, match=r"nstep_return: 'reward' has shape \[2, 3\], expected \[3, 'any'\]"):
        dist_nstep_td_error(GOOD, 0.9, -2, 2, 5, 3)
    with pytest.raises(SpecError, match=r"dist_nstep_td_error: 'value_gamma' has shape \[1\], expected \[3\]"):
        dist_nstep_td_error(GOOD, 0.9, -2, 2, 5, 2, torch.ones(1))
    with pytest.raises(SpecError, match=r"dist_1step_td_error: 'reward' has shape \[2, 3\], expected \[3\]"):
        dist_1step_td_error(dist_1step_td_data(*GOOD), 0.9, -2, 2, 5)
    with pytest.raises(
        SpecError, match=r"dist_nstep_td_error: 'dist' has shape \[3, 2, 5\], expected \['any', 'any', 51"
    ):
        dist_nstep_td_error(GOOD, 0.9, -2, 2, 51, 2)
    with pytest.raises(ConfigError, match=r"^dist_nstep_td_error: v_min is 2 and v_max 2, expected v_min < v_max$"):
        dist_nstep_td_error(GOOD, 0.9, 2, 2, 5, 2)
    for prob, name in ((torch.ones(5), "prob"), (torch.ones(2, 5), "support")):
        with pytest.raises(SpecError, match=f"^categorical_projection: '{name}' has shape"):
            categorical_projection(prob, torch.ones(3, 5), 0, 1)
    with pytest.raises(ConfigError, match=r"^categorical_projection: n_atom is 1, expected at least 2$"):
        categorical_projection(torch.ones(3, 1), torch.ones(3, 1), 0, 1)
