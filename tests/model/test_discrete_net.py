"""Networks of discrete actions: shapes, the dueling identity, images, memory, masks, and what they refuse."""

import hashlib

import pytest
import torch
from torch import nn

from nervex.model import (
    FCDQN,
    FCDRQN,
    ConvDiscreteNet,
    ConvDQN,
    ConvDRQN,
    ConvEncoder,
    ConvRDiscreteNet,
    DiscreteHead,
    DiscreteNet,
    DistributionHead,
    DuelingHead,
    FCDiscreteNet,
    FCEncoder,
    FCRDiscreteNet,
    ImpalaEncoder,
    NoiseConvDiscreteNet,
    NoiseDistributionConvDiscreteNet,
    NoiseDistributionFCDiscreteNet,
    NoiseFCDiscreteNet,
)
from nervex.torch_utils.noisy import NoisyLinear
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


def test_initial_weights_are_those_of_the_recorded_runs():
    """The digest of what the first release drew from seed 0 for CartPole."""
    torch.manual_seed(0)
    digest = hashlib.sha256()
    for name, value in FCDiscreteNet(obs_dim=4, action_dim=2).state_dict().items():
        digest.update(name.encode() + value.numpy().tobytes())
    assert digest.hexdigest()[:16] == "35309e201bc6c31c"
    assert torch.rand(1).item() == pytest.approx(0.9151819348335266)


class TestEncoders:
    @pytest.mark.parametrize(
        "obs_dim, encoder_type, kind",
        [(4, None, FCEncoder), ((1, 36, 36), None, ConvEncoder), ((1, 9, 9), "impala", ImpalaEncoder)],
    )
    def test_by_the_shape(self, obs_dim, encoder_type, kind):
        assert isinstance(DiscreteNet(obs_dim, 2, encoder_type=encoder_type).encoder, kind)

    @pytest.mark.parametrize("rnn_type", [None, "gru"])
    def test_mappings(self, rnn_type):
        net = DiscreteNet({"a": 4, "b": (1, 36, 36), "action_mask": 3}, 3, embedding_dim=8, rnn_type=rnn_type)
        obs = {"a": OBS[:2], "b": torch.rand(2, 1, 36, 36)}
        expected = net({"obs": obs})["logit"]
        assert expected.shape == (2, 3) and torch.equal(net(obs)["logit"], expected)
        assert not torch.allclose(net({**obs, "a": OBS[2:4]})["logit"], expected)

    def test_activation(self):
        net = FCDiscreteNet(4, 2, activation="tanh")
        assert not any(isinstance(m, nn.ReLU) for m in net.modules())


class TestMasks:
    DIM = {"state": 4, "action_mask": 3}

    @pytest.mark.parametrize("distribution", [False, True])
    def test_one_head(self, distribution):
        net = DiscreteNet(self.DIM, 3, distribution=distribution)
        mask = torch.tensor([[True, False, True]] * 4 + [[False, False, False]])
        free, held = net({"state": OBS})["logit"], net({"state": OBS, "action_mask": mask})
        assert torch.equal(held["logit"][mask], free[mask]) and (held["logit"][~mask] == -1e8).all()
        assert "action_mask" not in held and held["logit"].softmax(-1).isfinite().all()
        assert torch.equal(net({"state": OBS, "action_mask": mask.to(torch.int8)})["logit"], held["logit"])

    @pytest.mark.parametrize("joined", [False, True])
    def test_several_heads(self, joined):
        net = DiscreteNet({"state": 4}, [3, 2])
        masks = [torch.tensor([[True, False, True]] * 5), torch.tensor([[False, True]] * 5)]
        given = torch.cat(masks, dim=1) if joined else masks
        free, held = net({"state": OBS})["logit"], net({"state": OBS, "action_mask": given})
        for logit, expected, mask, passed in zip(held["logit"], free, masks, held["action_mask"], strict=True):
            assert torch.equal(logit[mask], expected[mask]) and (logit[~mask] == -1e8).all()
            assert torch.equal(passed, mask)

    def test_sequences(self):
        net = DiscreteNet(self.DIM, 3, rnn_type="gru")
        mask = torch.rand(6, 5, 3) < 0.5
        logit = net({"obs": {"state": torch.randn(6, 5, 4), "action_mask": mask}}, sequence=True)["logit"]
        assert torch.equal(logit == -1e8, ~mask)


class TestDistributions:
    def test_output(self):
        net = DiscreteNet(4, 3, distribution=True, v_min=0.0, v_max=4.0, n_atom=9)
        output = net(OBS)
        assert list(output) == ["logit", "distribution"] and output["distribution"].shape == (5, 3, 9)
        assert torch.allclose(output["logit"], (output["distribution"] * torch.linspace(0, 4, 9)).sum(-1), atol=1e-6)

    def test_several_heads(self):
        output = DiscreteNet(4, [3, 2], distribution=True, n_atom=9)(OBS)
        assert [d.shape for d in output["distribution"]] == [(5, 3, 9), (5, 2, 9)]
        assert [q.shape for q in output["logit"]] == [(5, 3), (5, 2)]

    def test_inside_head_kwargs(self):
        net = DiscreteNet(4, 3, head_kwargs={"distribution": True, "noise": True, "v_min": 0, "v_max": 1, "n_atom": 7})
        assert net(OBS)["distribution"].shape == (5, 3, 7)
        assert any(isinstance(m, NoisyLinear) for m in net.modules())

    def test_unknown_head_option(self):
        with pytest.raises(ConfigError, match=r"head_kwargs has 'a_layer_nm', .* did you mean 'a_layer_num'"):
            DiscreteNet(4, 3, head_kwargs={"a_layer_nm": 1})


class TestNoise:
    def test_drawn_on_request_and_absent_in_eval_mode(self):
        net = NoiseFCDiscreteNet(4, 3)
        first = net(OBS)["logit"]
        assert torch.equal(net(OBS)["logit"], first)
        net.reset_noise()
        assert not torch.allclose(net(OBS)["logit"], first, atol=1e-4)
        net.eval()
        first = net(OBS)["logit"]
        net.reset_noise()
        assert torch.equal(net(OBS)["logit"], first)

    def test_a_network_without_noise_has_the_method_too(self):
        net = FCDiscreteNet(4, 3)
        expected = net(OBS)["logit"]
        net.reset_noise()
        assert torch.equal(net(OBS)["logit"], expected)


@pytest.mark.parametrize("rnn_type", ["lstm", "gru"])
class TestMemory:
    @pytest.mark.parametrize("kwargs", [{}, {"distribution": True, "n_atom": 5}, {"dueling": False}])
    def test_a_sequence_is_single_steps(self, rnn_type, kwargs):
        net = FCRDiscreteNet(4, 3, rnn_type=rnn_type, rnn_hidden_dim=6, **kwargs).double()
        obs, begin = torch.randn(9, 5, 4, dtype=torch.float64), torch.rand(9, 5) < 0.3
        state = {k: torch.randn(5, 6, dtype=torch.float64) for k in ("h", "c")[: 1 + (rnn_type == "lstm")]}
        whole = net({"obs": obs, "prev_state": state, "begin": begin}, sequence=True)
        fast = net({"obs": obs, "prev_state": state, "begin": begin}, enable_fast_timestep=True)
        for t in range(9):
            step = net({"obs": obs[t], "prev_state": state, "begin": begin[t]})
            for key in whole.keys() - {"next_state"}:
                assert torch.allclose(whole[key][t], step[key], atol=1e-12) and torch.equal(fast[key], whole[key])
            state = step["next_state"]
        assert all(torch.allclose(whole["next_state"][k], state[k], atol=1e-12) for k in state)

    def test_memory_matters(self, rnn_type):
        net = FCRDiscreteNet(4, 3, rnn_type=rnn_type)
        first = net({"obs": OBS, "prev_state": None})
        second = net({"obs": OBS, "prev_state": first["next_state"]})
        assert not torch.allclose(first["logit"], second["logit"], atol=1e-4)
        assert first["next_state"]["h"].shape == (5, 64) and len(first["next_state"]) == 1 + (rnn_type == "lstm")

    def test_images(self, rnn_type):
        net = ConvRDiscreteNet((1, 36, 36), 3, embedding_dim=8, rnn_type=rnn_type)
        image = torch.randint(256, (4, 2, 1, 36, 36), dtype=torch.uint8)
        whole = net({"obs": image}, sequence=True)
        assert whole["logit"].shape == (4, 2, 3)
        assert torch.allclose(whole["logit"][0], net(image[0])["logit"], atol=1e-5)

    def test_every_weight_gets_a_gradient(self, rnn_type):
        net = FCRDiscreteNet(4, 3, rnn_type=rnn_type)
        (net({"obs": torch.randn(6, 5, 4)}, sequence=True)["logit"] * torch.randn(6, 5, 3)).sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_a_sequence_without_memory():
    net, obs = DiscreteNet((1, 36, 36), [3, 2]), torch.rand(4, 2, 1, 36, 36)
    logit = net({"obs": obs, "begin": torch.ones(4, 2, dtype=torch.bool), "prev_state": None}, sequence=True)["logit"]
    assert [x.shape for x in logit] == [(4, 2, 3), (4, 2, 2)]
    assert torch.allclose(logit[0][1], net(obs[1])["logit"][0], atol=1e-5)


@pytest.mark.parametrize("kwargs", [{"lstm_kwargs": {"lstm_type": "normal"}}, {"rnn_type": "lstm"}])
def test_two_ways_to_a_memory(kwargs):
    assert isinstance(FCDiscreteNet(4, 2, **kwargs).rnn.layer, nn.LSTM)


def test_unknown_memory():
    with pytest.raises(ConfigError, match="unknown rnn_type 'lsmt'; did you mean 'lstm'"):
        FCDiscreteNet(4, 2, rnn_type="lsmt")


@pytest.mark.parametrize(
    "build, image, memory, noise, distribution",
    [
        (FCDRQN, False, True, False, False),
        (FCRDiscreteNet, False, True, False, False),
        (ConvDRQN, True, True, False, False),
        (ConvRDiscreteNet, True, True, False, False),
        (NoiseFCDiscreteNet, False, False, True, False),
        (NoiseConvDiscreteNet, True, False, True, False),
        (NoiseDistributionFCDiscreteNet, False, False, True, True),
        (NoiseDistributionConvDiscreteNet, True, False, True, True),
    ],
)
def test_names_of_the_family(build, image, memory, noise, distribution):
    net = build((1, 36, 36) if image else 4, 2)
    modules = list(net.modules())
    assert isinstance(net.encoder, ConvEncoder if image else FCEncoder)
    assert any(isinstance(m, nn.LSTM) for m in modules) is memory
    assert any(isinstance(m, NoisyLinear) for m in modules) is noise
    assert any(isinstance(m, DistributionHead) for m in modules) is distribution
    assert any(isinstance(m, DuelingHead) for m in modules)
    other = DiscreteNet(
        (1, 36, 36) if image else 4,
        2,
        encoder_type="conv2d" if image else "fc",
        rnn_type="lstm" if memory else None,
        noise=noise,
        distribution=distribution,
    )
    other.load_state_dict(net.state_dict())
    x = torch.rand(3, 1, 36, 36) if image else OBS
    assert torch.equal(net(x)["logit"], other(x)["logit"]) and net(x)["logit"].abs().min() > 0
