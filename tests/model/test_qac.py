"""Networks of DDPG, TD3 and SAC: modes, twin critics, what shares nothing, images and mappings."""

import math

import pytest
import torch
from torch import nn

from nervex.model import QAC, SAC, DiscreteSACNet, QValueAC, SACNet
from nervex.model.encoder import ConvEncoder, ImpalaEncoder
from nervex.model.mlp import perceptron
from nervex.utils.errors import ConfigError

OBS = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
ACTION = torch.rand(5, 2, generator=torch.Generator().manual_seed(1)) * 2 - 1
FAMILY = [QAC, SACNet, DiscreteSACNet]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def q_value(net, obs=OBS, action=ACTION):
    return net({"obs": obs, "action": action}, mode="compute_q")["q_value"]


class TestQAC:
    def test_actions(self):
        net = QAC(4, 2)
        output = net({"obs": 1e4 * OBS})
        assert list(output) == ["action"] and output["action"].shape == (5, 2)
        assert output["action"].abs().max() <= 1 and output["action"].abs().max() > 0.9
        assert torch.equal(net({"obs": OBS}, mode="compute_action")["action"], net(OBS)["action"])

    @pytest.mark.parametrize("twin, shape", [(False, (5,)), (True, (2, 5))])
    def test_values(self, twin, shape):
        assert q_value(QAC(4, 2, use_twin_critic=twin)).shape == shape

    def test_twins_are_two_networks_on_observation_and_action(self):
        torch.manual_seed(3)
        net = QAC(4, 2, use_twin_critic=True)
        torch.manual_seed(3)
        perceptron(4, (256, 256), 2)  # the actor comes first
        critics = [perceptron(6, (256, 256), 1) for _ in range(2)]
        expected = torch.stack([c(torch.cat([OBS, ACTION], dim=1)).squeeze(1) for c in critics])
        assert torch.allclose(q_value(net), expected, atol=1e-6)
        assert not torch.allclose(expected[0], expected[1], atol=1e-3)

    def test_one_of_the_twins_may_be_asked(self):
        net = QAC(4, 2, use_twin_critic=True)
        first = net({"obs": OBS, "action": ACTION, "critic_num": 1}, mode="compute_q")["q_value"]
        assert first.shape == (1, 5) and torch.allclose(first[0], q_value(net)[0], atol=1e-6)

    def test_layers_of_the_actor(self):
        net = QAC(4, 2, hidden_dim_list=[7, 6], activation="tanh")
        sizes = [(m.in_features, m.out_features) for m in net.actor.modules() if isinstance(m, nn.Linear)]
        assert sizes == [(4, 7), (7, 6), (6, 2)]
        assert [tuple(w.shape) for w in net.critic.main.weight] == [(1, 6, 7), (1, 7, 6), (1, 6, 1)]

    def test_the_policys_gradient_goes_through_the_critic(self):
        net = QAC(4, 2)
        action = net(OBS)["action"]
        net({"obs": OBS, "action": action}, mode="compute_q")["q_value"].sum().backward()
        assert all(p.grad.abs().sum() > 0 for p in net.actor.parameters())

    def test_the_tutorials_name(self):
        assert QValueAC is QAC


class TestSAC:
    def test_policy(self):
        logit = SACNet(4, 2)({"obs": OBS})["logit"]
        assert set(logit) == {"mu", "sigma"} and logit["mu"].shape == logit["sigma"].shape == (5, 2)
        assert not torch.allclose(logit["sigma"][0], logit["sigma"][1], atol=1e-5)

    def test_log_sigma_is_from_minus_20_to_2(self):
        net = SACNet(4, 2)
        net.actor.head.main[-1].bias.data[2:] = torch.tensor([-100.0, 100.0])
        sigma = net(OBS)["logit"]["sigma"]
        assert sigma[:, 0].log().tolist() == pytest.approx([-20] * 5)
        assert sigma[:, 1].tolist() == pytest.approx([math.exp(2)] * 5)

    @pytest.mark.parametrize("twin, shape", [(False, (1, 5)), (True, (2, 5))])
    def test_values(self, twin, shape):
        assert q_value(SACNet(4, 2, use_twin_critic=twin)).shape == shape

    def test_two_critics_unless_told_otherwise(self):
        assert q_value(SAC(4, 2)).shape == (2, 5) and SAC is SACNet


class TestDiscreteSAC:
    def test_outputs(self):
        net = DiscreteSACNet(4, 3)
        assert net(OBS)["logit"].shape == (5, 3)
        assert net({"obs": OBS}, mode="compute_q")["q_value"].shape == (2, 5, 3)
        assert DiscreteSACNet(4, 3, use_twin_critic=False)(OBS, mode="compute_q")["q_value"].shape == (1, 5, 3)

    def test_masks(self):
        net, mask = DiscreteSACNet({"state": 4, "action_mask": 3}, 3), torch.tensor([[True, False, True]] * 5)
        obs = {"state": OBS, "action_mask": mask}
        free, logit = net({"state": OBS})["logit"], net(obs)["logit"]
        assert torch.equal(logit[mask], free[mask]) and (logit[~mask] == -1e8).all()
        assert net(obs, mode="compute_q")["q_value"].abs().max() < 1e3


@pytest.mark.parametrize("build", FAMILY)
class TestFamily:
    def test_actor_and_critic_share_nothing_and_are_all(self, build):
        net = build((1, 36, 36), 2)
        actor, critic = ({id(p) for p in part.parameters()} for part in (net.actor, net.critic))
        assert not actor & critic and actor | critic == {id(p) for p in net.parameters()}

    @pytest.mark.parametrize(
        "obs_dim, encoder_type, kind", [((1, 36, 36), None, ConvEncoder), ((1, 9, 9), "impala", ImpalaEncoder)]
    )
    def test_images(self, build, obs_dim, encoder_type, kind):
        net = build(obs_dim, 2, encoder_type=encoder_type, embedding_dim=8)
        image = torch.randint(256, (5, *obs_dim), dtype=torch.uint8)
        assert isinstance(net.actor.encoder, kind) and isinstance(net.critic.encoder, kind)
        loss = q_value(net, image).square().sum() + sum(
            (x * torch.randn_like(x)).sum()
            for out in net(image).values()
            for x in (out.values() if isinstance(out, dict) else [out])
        )
        loss.backward()
        assert all(p.grad.abs().sum() > 0 for p in net.parameters())

    def test_mappings_of_vectors_are_vectors(self, build):
        torch.manual_seed(3)
        one = build(4, 2)
        torch.manual_seed(3)
        several = build({"b": 3, "a": 1}, 2)
        obs = {"a": OBS[:, :1], "b": OBS[:, 1:]}
        assert torch.equal(q_value(several, obs), q_value(one))

    def test_rows_do_not_mix(self, build):
        net = build(4, 2)
        one = torch.cat(
            [q_value(net, OBS[i : i + 1], ACTION[i : i + 1]) for i in range(5)], dim=0 if build is QAC else 1
        )
        assert torch.allclose(q_value(net), one, atol=1e-6)

    def test_unknown_mode(self, build):
        with pytest.raises(ConfigError, match=f"{build.__name__} has no mode 'compute_v'; did you mean 'compute_q'"):
            build(4, 2)(OBS, mode="compute_v")

    def test_refused_actions(self, build):
        with pytest.raises(ConfigError, match=r"takes an int as action_dim, got \[2, 2\]"):
            build(4, [2, 2])

    def test_refused_observations(self, build):
        with pytest.raises(ConfigError, match="a conv2d encoder takes images"):
            build((3, 20, 20), 2)
        with pytest.raises(ConfigError, match="a fully connected encoder takes vectors"):
            build((3, 84, 84), 2, encoder_type="fc")
