"""Heads: distributions of returns, noise, continuous actions, and the options that they take."""

import math

import pytest
import torch

from nervex.model.head import (
    DiscreteHead,
    DistributionHead,
    DuelingHead,
    RegressionHead,
    ReparameterizationHead,
    build_value_head,
)
from nervex.torch_utils.noisy import NoisyLinear
from nervex.utils.errors import ConfigError

OPTIONS = {"dueling": True, "distribution": False, "v_min": -1.0, "v_max": 3.0, "n_atom": 5}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


class TestDistribution:
    @pytest.mark.parametrize("dueling", [True, False])
    @pytest.mark.parametrize("lead", [(7,), (3, 7)])
    def test_values_are_the_means(self, dueling, lead):
        head = build_value_head(6, 4, {**OPTIONS, "dueling": dueling, "distribution": True})
        q, p = head(torch.randn(*lead, 6))
        assert q.shape == (*lead, 4) and p.shape == (*lead, 4, 5)
        assert torch.allclose(p.sum(-1), torch.ones(*lead, 4)) and (p > 0).all()
        assert torch.allclose(q, (p * torch.tensor([-1.0, 0, 1, 2, 3])).sum(-1), atol=1e-6)

    def test_scores_of_one_action(self):
        """Two atoms whose scores differ by log 3 have probabilities 1/4 and 3/4."""
        head = DistributionHead(torch.nn.Identity(), 0.0, 8.0, 2)
        q, p = head(torch.tensor([[[7.0, 7.0 + math.log(3)]]]))
        assert p.flatten().tolist() == pytest.approx([0.25, 0.75]) and q.item() == pytest.approx(6)

    def test_dueling_streams_are_joined_per_atom(self):
        head, x = DuelingHead(6, 4, n_atom=5), torch.randn(7, 6)
        scores, value, advantage = head(x), head.value(x), head.advantage(x)
        assert advantage.shape == (7, 4, 5) and value.shape == (7, 1, 5)
        assert torch.allclose(scores.mean(dim=1, keepdim=True), value, atol=1e-6)
        assert torch.allclose(scores, value + advantage - advantage.mean(dim=1, keepdim=True), atol=1e-6)

    def test_atoms_are_no_weights(self):
        head = DistributionHead(DiscreteHead(6, 4, n_atom=5), -1.0, 3.0, 5)
        assert not any("support" in name for name in head.state_dict())
        assert head.double().support.dtype == torch.float64

    @pytest.mark.parametrize("bad", [{"v_min": 3.0}, {"v_max": -1.0}, {"n_atom": 1}, {"v_min": float("nan")}])
    def test_refusals(self, bad):
        with pytest.raises(ConfigError, match=r"a distribution over n_atom = .* values from v_min = .*; expected at "
                                              "least 2, and v_min below v_max"):  # fmt: skip
            build_value_head(6, 4, {**OPTIONS, "distribution": True, **bad})


class TestOptions:
    def test_classes(self):
        assert isinstance(build_value_head(6, 4, OPTIONS), DuelingHead)
        assert isinstance(build_value_head(6, 4, {**OPTIONS, "dueling": False, "layer_num": 2}), DiscreteHead)

    @pytest.mark.parametrize(
        "dueling, layers", [(True, {"a_layer_num": 2, "v_layer_num": 0}), (False, {"layer_num": 3})]
    )
    def test_noise_is_in_every_layer(self, dueling, layers):
        head = build_value_head(6, 4, {**OPTIONS, "dueling": dueling, "noise": True, **layers})
        kinds = [type(m) for m in head.modules() if isinstance(m, torch.nn.Linear | NoisyLinear)]
        assert kinds == [NoisyLinear] * 4

    def test_activation(self):
        head = build_value_head(6, 4, {**OPTIONS, "activation": "tanh"})
        assert {type(m) for m in head.modules()} >= {torch.nn.Tanh} and not any(
            isinstance(m, torch.nn.ReLU) for m in head.modules()
        )

    @pytest.mark.parametrize(
        "options, message",
        [
            ({"a_layer_nm": 2}, "head_kwargs has 'a_layer_nm', which a head with dueling does not take; did you mean "
                                "'a_layer_num'"),
            ({"layer_num": 2}, r"'layer_num', which a head with dueling does not.*\(it takes: dueling, distribution"),
            ({"dueling": False, "a_layer_num": 2}, "'a_layer_num', which a head without dueling does not take; did you "
                                                   "mean 'layer_num'"),
            ({"v_layer_num": -1}, "head_kwargs.v_layer_num is -1; expected at least 0"),
        ],
    )  # fmt: skip
    def test_refusals(self, options, message):
        with pytest.raises(ConfigError, match=message):
            build_value_head(6, 4, {**OPTIONS, **options})


class TestRegression:
    def test_tanh_or_not(self):
        head = RegressionHead(6, 3, [8], tanh=True)
        x = 100 * torch.randn(7, 6)
        raw = head.main(x)
        assert raw.abs().max() > 1 and torch.equal(head(x), torch.tanh(raw))
        head = RegressionHead(6, 3)
        assert torch.equal(head(x), head.main[0](x)) and head(x).shape == (7, 3)


class TestReparameterization:
    def test_sigma_of_its_own(self):
        head = ReparameterizationHead(6, 3, [8], log_sigma_init=-0.5)
        out = head(torch.randn(4, 7, 6))
        assert out["mu"].shape == out["sigma"].shape == (4, 7, 3)
        assert torch.allclose(out["sigma"], torch.full((4, 7, 3), -0.5).exp())
        (out["sigma"] ** 2).sum().backward()
        assert head.log_sigma.grad.tolist() == pytest.approx([28 * 2 * torch.tensor(-1.0).exp().item()] * 3)

    def test_sigma_of_the_state(self):
        head, x = ReparameterizationHead(6, 3, [8], sigma_type="conditioned"), torch.randn(7, 6)
        out = head(x)
        raw = head.main(x)
        assert torch.equal(out["mu"], raw[:, :3]) and torch.allclose(out["sigma"], raw[:, 3:].exp())
        assert not torch.allclose(out["sigma"][0], out["sigma"][1]) and head.log_sigma is None

    @pytest.mark.parametrize("kind", ["independent", "conditioned"])
    def test_log_sigma_is_clamped(self, kind):
        head = ReparameterizationHead(6, 1, sigma_type=kind, log_sigma_range=(-2.0, 1.0))
        for value, expected in ((5.0, 1.0), (-9.0, -2.0), (0.3, 0.3)):
            if kind == "independent":
                head.log_sigma.data.fill_(value)
            else:
                head.main[-1].weight.data.zero_()
                head.main[-1].bias.data.fill_(value)
            assert head(torch.randn(1, 6))["sigma"].item() == pytest.approx(torch.tensor(expected).exp().item())

    @pytest.mark.parametrize(
        "kwargs, message",
        [
            ({"sigma_type": "conditionned"}, "unknown sigma_type 'conditionned'; did you mean 'conditioned'"),
            ({"log_sigma_range": (2.0, -2.0)}, r"log_sigma_range \[2.0, -2.0\]; expected a value within an increasing"),
            ({"log_sigma_init": 3.0}, "log_sigma_init is 3.0, log_sigma_range"),
        ],
    )
    def test_refusals(self, kwargs, message):
        with pytest.raises(ConfigError, match=message):
            ReparameterizationHead(6, 3, **kwargs)
