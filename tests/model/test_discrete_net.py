"""Networks of discrete actions: shapes, the dueling identity, images, and what they refuse."""

import pytest
import torch
from torch import nn

from nervex.model import (
    FCDQN,
    ConvDiscreteNet,
    ConvDQN,
    ConvEncoder,
    DiscreteHead,
    DiscreteNet,
    DuelingHead,
    FCDiscreteNet,
    FCEncoder,
)
from nervex.utils.errors import ConfigError

OBS = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


class TestShapes:
    @pytest.mark.parametrize("dueling", [True, False])
    @pytest.mark.parametrize("batch", [1, 5])
    def test_vector_observations(self, dueling, batch):
        net = FCDiscreteNet(obs_dim=4, action_dim=3, embedding_dim=8, dueling=dueling)
        output = net({"obs": OBS[:batch]})
        assert list(output) == ["logit"] and output["logit"].shape == (batch, 3)

    def test_a_dict_or_the_observation_itself(self):
        net = FCDiscreteNet(4, 2)
        assert torch.equal(net({"obs": OBS})["logit"], net(OBS)["logit"])
        assert torch.equal(net({"obs": OBS, "prev_state": None}, {})["logit"], net(OBS)["logit"])

    @pytest.mark.parametrize("dim", [4, [4], (4,)])
    def test_obs_dim_of_a_vector(self, dim):
        assert FCDiscreteNet(dim, 2)(OBS)["logit"].shape == (5, 2)

    @pytest.mark.parametrize("dueling", [True, False])
    def test_several_heads(self, dueling):
        net = FCDiscreteNet(4, [2, 5, 3], dueling=dueling)
        assert [logit.shape for logit in net(OBS)["logit"]] == [(5, 2), (5, 5), (5, 3)]
        one = FCDiscreteNet(4, (2,))(OBS)["logit"]
        assert isinstance(one, list) and one[0].shape == (5, 2)

    def test_heads_have_weights_of_their_own(self):
        logit = FCDiscreteNet(4, [3, 3])(OBS)["logit"]
        assert not torch.allclose(logit[0], logit[1])

    def test_rows_do_not_mix(self):
        net = FCDiscreteNet(4, 3)
        assert torch.allclose(net(OBS)["logit"], torch.cat([net(row[None])["logit"] for row in OBS]), atol=1e-6)

    def test_layers(self):
        net = FCDiscreteNet(obs_dim=4, action_dim=3, embedding_dim=16, hidden_dim_list=[10, 12], dueling=False)
        sizes = [(m.in_features, m.out_features) for m in net.modules() if isinstance(m, nn.Linear)]
        assert sizes == [(4, 10), (10, 12), (12, 16), (16, 16), (16, 3)]

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
    def test_observations_that_are_no_floats(self, dtype):
        net, obs = FCDiscreteNet(4, 2), (OBS > 0).to(dtype)
        assert torch.equal(net(obs)["logit"], net(obs.float())["logit"])

    def test_float64(self):
        assert FCDiscreteNet(4, 2).double()(OBS.double())["logit"].dtype == torch.float64

    def test_every_weight_gets_a_gradient(self):
        net = FCDiscreteNet(4, [2, 3])
        sum((logit * torch.randn_like(logit)).sum() for logit in net(OBS)["logit"]).backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


class TestDueling:
    def test_the_mean_advantage_is_removed(self):
        head, x = DuelingHead(6, 4), torch.randn(7, 6)
        q, value, advantage = head(x), head.value(x), head.advantage(x)
        assert torch.allclose(
            q - q.mean(dim=1, keepdim=True), advantage - advantage.mean(dim=1, keepdim=True), atol=1e-6
        )
        assert torch.allclose(q.mean(dim=1, keepdim=True), value, atol=1e-6)
        assert torch.equal(q.argmax(dim=1), advantage.argmax(dim=1))

    def test_a_constant_added_to_the_advantages_changes_nothing(self):
        head, x = DuelingHead(6, 4), torch.randn(7, 6)
        before = head(x)
        head.advantage.main[-1].bias.data.add_(3.0)
        assert torch.allclose(head(x), before, atol=1e-5)

    def test_layers_of_the_streams(self):
        head = DuelingHead(6, 4, a_layer_num=2, v_layer_num=3)
        count = [sum(isinstance(m, nn.Linear) for m in stream.modules()) for stream in (head.advantage, head.value)]
        assert count == [3, 4]

    @pytest.mark.parametrize(
        "kwargs, dueling",
        [
            ({}, True),
            ({"dueling": False}, False),
            ({"head_kwargs": {"dueling": False}}, False),
            ({"head_kwargs": {"dueling": True}}, True),
            ({"dueling": False, "head_kwargs": {"dueling": True, "v_layer_num": 2}}, True),
        ],
    )
    def test_top_level_or_inside_head_kwargs(self, kwargs, dueling):
        assert isinstance(FCDQN(4, 2, **kwargs).head[0], DuelingHead if dueling else DiscreteHead)

    def test_head_kwargs_are_left_alone(self):
        head_kwargs = {"dueling": True, "a_layer_num": 2}
        FCDQN(4, 2, head_kwargs=head_kwargs)
        assert head_kwargs == {"dueling": True, "a_layer_num": 2}


class TestImages:
    def test_shapes(self):
        net = ConvDiscreteNet(obs_dim=[4, 84, 84], action_dim=6, embedding_dim=32)
        assert net(torch.rand(2, 4, 84, 84))["logit"].shape == (2, 6)
        assert net.encoder.linear[0].in_features == 64 * 7 * 7

    def test_bytes_are_divided_by_255(self):
        net = ConvDQN((1, 36, 40), 2)
        image = torch.randint(256, (3, 1, 36, 40), dtype=torch.uint8)
        assert torch.allclose(net(image)["logit"], net(image.float() / 255)["logit"], atol=1e-6)
        assert not torch.allclose(net(image)["logit"], net(image.float())["logit"], atol=1e-3)

    def test_the_smallest_image(self):
        assert ConvDQN((3, 36, 36), 2)(torch.rand(1, 3, 36, 36))["logit"].shape == (1, 2)

    @pytest.mark.parametrize("dim", [4, [84, 84], [3, 35, 84], [3, 84, 35], [1, 3, 84, 84], []])
    def test_what_is_no_image(self, dim):
        shape = r"\[4\]" if dim == 4 else str(dim).replace("[", r"\[").replace("]", r"\]")
        with pytest.raises(ConfigError, match=r"a conv2d encoder takes images \[C, H, W\] of at least 36x36, "
                                              rf"obs_dim is {shape}; use an fc encoder"):  # fmt: skip
            ConvDiscreteNet(dim, 2)


@pytest.mark.parametrize("dim", [[3, 84, 84], [4, 2], []])
def test_a_vector_network_refuses_other_shapes(dim):
    shape = str(dim).replace("[", r"\[").replace("]", r"\]")
    with pytest.raises(ConfigError, match=rf"a fully connected encoder takes vectors, obs_dim is {shape}; use a conv2d "
                                          r"encoder for images \[C, H, W\], or flatten"):  # fmt: skip
        FCDiscreteNet(dim, 2)


def test_unknown_encoder():
    with pytest.raises(ConfigError, match="unknown encoder 'conv'; did you mean 'conv2d'"):
        DiscreteNet(4, 2, encoder_type="conv")


def test_both_sets_of_names_are_one_family():
    assert isinstance(FCDQN(4, 2).encoder, FCEncoder) and isinstance(FCDiscreteNet(4, 2).encoder, FCEncoder)
    for build in (ConvDQN, ConvDiscreteNet):
        assert isinstance(build((1, 36, 36), 2).encoder, ConvEncoder)
    assert DiscreteNet(4, 2).state_dict().keys() == FCDQN(4, 2).state_dict().keys()


def test_the_tutorials_arguments():
    cfg = {"obs_dim": 4, "action_dim": 2, "embedding_dim": 64, "dueling": True}
    assert FCDiscreteNet(**cfg)(OBS)["logit"].shape == (5, 2)
