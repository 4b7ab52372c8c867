"""Actor-critics: kinds of actions, shared and separate encoders, initialization, memory, masks."""

import math

import pytest
import torch
from torch import nn

from nervex.model import ConvValueAC, FCValueAC, ValueAC
from nervex.model.encoder import ConvEncoder, FCEncoder, ImpalaEncoder
from nervex.utils.errors import ConfigError

OBS = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
KINDS = [("discrete", 3), ("multi_discrete", [3, 2]), ("continuous", 2)]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def tensors(logit):
    """The tensors of a logit of any kind."""
    return list(logit.values()) if isinstance(logit, dict) else logit if isinstance(logit, list) else [logit]


@pytest.mark.parametrize("kind, action_dim", KINDS)
class TestKinds:
    @pytest.mark.parametrize("share", [True, False])
    @pytest.mark.parametrize("layers", [0, 1, 2])
    def test_shapes(self, kind, action_dim, share, layers):
        net = ValueAC(4, action_dim, kind, share_encoder=share, head_layer_num=layers)
        output = net({"obs": OBS})
        shapes = {"discrete": [(5, 3)], "multi_discrete": [(5, 3), (5, 2)], "continuous": [(5, 2), (5, 2)]}[kind]
        assert list(output) == ["logit", "value"] and output["value"].shape == (5,)
        assert [x.shape for x in tensors(output["logit"])] == shapes
        assert torch.equal(net(OBS)["value"], output["value"])

    def test_only_the_policy(self, kind, action_dim):
        net = ValueAC(4, action_dim, kind, share_encoder=False)
        both, one = net(OBS), net(OBS, mode="compute_action")
        assert list(one) == ["logit"]
        assert all(torch.equal(a, b) for a, b in zip(tensors(one["logit"]), tensors(both["logit"]), strict=True))

    @pytest.mark.parametrize("share", [True, False])
    def test_every_weight_gets_a_gradient(self, kind, action_dim, share):
        net = ValueAC(4, action_dim, kind, share_encoder=share)
        output = net(OBS)
        sum((x * torch.randn_like(x)).sum() for x in [*tensors(output["logit"]), output["value"]]).backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())

    @pytest.mark.parametrize("rnn_type", ["lstm", "gru"])
    @pytest.mark.parametrize("share", [True, False])
    def test_a_sequence_is_single_steps(self, kind, action_dim, rnn_type, share):
        net = ValueAC(4, action_dim, kind, share_encoder=share, rnn_type=rnn_type, rnn_hidden_dim=6).double()
        size = 6 if share else 12
        obs, begin = torch.randn(9, 5, 4, dtype=torch.float64), torch.rand(9, 5) < 0.3
        state = {k: torch.randn(5, size, dtype=torch.float64) for k in ("h", "c")[: 1 + (rnn_type == "lstm")]}
        whole = net({"obs": obs, "prev_state": state, "begin": begin}, sequence=True)
        assert whole["value"].shape == (9, 5)
        for t in range(9):
            step = net({"obs": obs[t], "prev_state": state, "begin": begin[t]})
            assert torch.allclose(whole["value"][t], step["value"], atol=1e-12)
            for many, one in zip(tensors(whole["logit"]), tensors(step["logit"]), strict=True):
                assert torch.allclose(many[t], one, atol=1e-12)
            state = step["next_state"]
            assert all(s.shape == (5, size) for s in state.values())
        assert all(torch.allclose(whole["next_state"][k], state[k], atol=1e-12) for k in state)


class TestEncoders:
    def test_shared(self):
        net = ValueAC(4, 3)
        net(OBS)["value"].sum().backward()
        assert net.critic_encoder is None and net.encoder.main[0].weight.grad.abs().sum() > 0

    def test_separate(self):
        net = ValueAC(4, 3, share_encoder=False)
        net(OBS)["value"].sum().backward()
        assert net.encoder.main[0].weight.grad is None and net.critic_encoder.main[0].weight.grad.abs().sum() > 0
        assert not torch.equal(net.encoder.main[0].weight, net.critic_encoder.main[0].weight)

    @pytest.mark.parametrize(
        "build, obs_dim, kwargs, kind",
        [
            (ValueAC, 4, {}, FCEncoder),
            (ValueAC, (1, 36, 36), {}, ConvEncoder),
            (FCValueAC, 4, {}, FCEncoder),
            (ConvValueAC, (1, 36, 36), {}, ConvEncoder),
            (ConvValueAC, (1, 9, 9), {"encoder_type": "impala"}, ImpalaEncoder),
        ],
    )
    def test_by_name_or_shape(self, build, obs_dim, kwargs, kind):
        net = build(obs_dim, 3, **kwargs)
        assert isinstance(net.encoder, kind)
        assert net(torch.zeros(2, *(obs_dim if isinstance(obs_dim, tuple) else [4])))["value"].shape == (2,)

    def test_images_in_sequence(self):
        net, image = ConvValueAC((1, 36, 36), 3), torch.randint(256, (3, 2, 1, 36, 36), dtype=torch.uint8)
        output = net({"obs": image}, sequence=True)
        assert output["logit"].shape == (3, 2, 3) and output["value"].shape == (3, 2)
        assert torch.allclose(output["value"][1], net(image[1])["value"], atol=1e-5)

    def test_mappings(self):
        net = ValueAC({"a": 4, "b": (1, 36, 36)}, 3, share_encoder=False, embedding_dim=8)
        obs = {"a": OBS[:2], "b": torch.rand(2, 1, 36, 36)}
        assert net(obs)["logit"].shape == (2, 3) and net.critic_encoder.out_dim == 16

    def test_layers_of_a_plain_mujoco_network(self):
        """Two hidden layers of 64 for each of the two, as in PPO's paper."""
        net = ValueAC(
            11, 3, "continuous", 64, [64], head_layer_num=0, share_encoder=False, activation="tanh"
        )  # fmt: skip
        sizes = [(m.in_features, m.out_features) for m in net.modules() if isinstance(m, nn.Linear)]
        assert sorted(sizes) == sorted([(11, 64), (64, 64)] * 2 + [(64, 3), (64, 1)])
        assert not any(isinstance(m, nn.ReLU) for m in net.modules())


class TestInitialization:
    @pytest.mark.parametrize("kind, action_dim", KINDS)
    @pytest.mark.parametrize("layers", [0, 1])
    def test_orthogonal(self, kind, action_dim, layers):
        net = ValueAC(4, action_dim, kind, head_layer_num=layers, share_encoder=False)
        actor = net.actor.main if kind == "continuous" else net.actor
        last = {id(actor[-1]): 0.01, id(net.critic[-1]): 1.0}
        for m in net.modules():
            if isinstance(m, nn.Linear):
                gain = last.get(id(m), math.sqrt(2))
                assert torch.linalg.svdvals(m.weight).tolist() == pytest.approx([gain] * min(m.weight.shape), rel=1e-4)
                assert m.bias.abs().sum() == 0

    def test_the_first_policy_is_nearly_uniform(self):
        assert ValueAC(4, 3)(100 * OBS)["logit"].softmax(-1).sub(1 / 3).abs().max() < 0.5
        output = ValueAC(4, 3)(OBS)["logit"]
        assert output.abs().max() < 0.1

    def test_memory(self):
        layer = ValueAC(4, 3, rnn_type="gru").rnn.layer
        assert torch.linalg.svdvals(layer.weight_hh_l0).tolist() == pytest.approx([1.0] * 64, rel=1e-4)
        assert layer.bias_hh_l0.abs().sum() == 0

    def test_that_of_torch(self):
        net = ValueAC(4, 3, ortho_init=False)
        assert net.critic[-1].bias.abs().sum() > 0 and net.encoder.main[0].bias.abs().sum() > 0


class TestSigma:
    def test_of_its_own(self):
        net = ValueAC(4, 2, "continuous", log_sigma_init=-1.0)
        sigma = net(OBS)["logit"]["sigma"]
        assert torch.allclose(sigma, torch.full((5, 2), math.exp(-1)))

    def test_of_the_state(self):
        net = ValueAC(4, 2, "continuous", sigma_type="conditioned", ortho_init=False)
        sigma = net(OBS)["logit"]["sigma"]
        assert not torch.allclose(sigma[0], sigma[1], atol=1e-4) and (sigma > 0).all()


class TestMasks:
    def test_one_head(self):
        net = ValueAC({"state": 4, "action_mask": 3}, 3)
        mask = torch.tensor([[True, False, True]] * 5)
        free, held = net({"state": OBS}), net({"obs": {"state": OBS, "action_mask": mask}})
        assert torch.equal(held["logit"][mask], free["logit"][mask]) and (held["logit"][~mask] == -1e8).all()
        assert torch.equal(held["value"], free["value"]) and list(held) == ["logit", "value"]

    @pytest.mark.parametrize("joined", [False, True])
    def test_several_heads(self, joined):
        net = ValueAC({"state": 4}, [3, 2])
        masks = [torch.tensor([[True, False, True]] * 5), torch.tensor([[False, True]] * 5)]
        given = torch.cat(masks, dim=1) if joined else masks
        free, held = net({"state": OBS})["logit"], net({"state": OBS, "action_mask": given})
        for logit, expected, mask, passed in zip(held["logit"], free, masks, held["action_mask"], strict=True):
            assert torch.equal(logit[mask], expected[mask]) and (logit[~mask] == -1e8).all()
            assert torch.equal(passed, mask)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"action_type": "continous"}, "unknown action_type 'continous'; did you mean 'continuous'"),
        ({"action_dim": [3, 2], "action_type": "discrete"}, r"action_type 'discrete' takes an int as action_dim"),
        ({"obs_dim": [3, 84, 84], "encoder_type": "fc"}, "a fully connected encoder takes vectors"),
        ({"obs_dim": [3, 20, 20]}, "a conv2d encoder takes images .* of at least 36x36"),
        ({"rnn_type": "rnn"}, "unknown rnn_type 'rnn'"),
        ({"activation": "rleu"}, "unknown activation 'rleu'; did you mean 'relu'"),
        ({"head_layer_num": -1}, "head_layer_num is -1; expected at least 0"),
        ({"action_type": "continuous", "sigma_type": "fixed"}, "unknown sigma_type 'fixed'"),
    ],
)
def test_refusals(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        ValueAC(**{"obs_dim": 4, "action_dim": 3, **kwargs})


def test_unknown_mode():
    with pytest.raises(ConfigError, match="ValueAC has no mode 'compute_actio'; did you mean 'compute_action'"):
        ValueAC(4, 3)(OBS, mode="compute_actio")


@pytest.mark.parametrize("build, obs_dim, encoder_type", [(FCValueAC, 4, "fc"), (ConvValueAC, (1, 36, 36), "conv2d")])
def test_names_of_the_family_compute_what_their_options_do(build, obs_dim, encoder_type):
    net, other = build(obs_dim, 3), ValueAC(obs_dim, 3, encoder_type=encoder_type)
    other.load_state_dict(net.state_dict())
    x = OBS if encoder_type == "fc" else torch.rand(3, 1, 36, 36)
    for key in ("logit", "value"):
        assert torch.equal(net(x)[key], other(x)[key]) and net(x)[key].abs().max() > 0
