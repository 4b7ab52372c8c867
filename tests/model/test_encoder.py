"""Encoders: which one serves which observation, what it computes, and what is refused."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nervex.model.encoder import (
    ConvEncoder,
    DictEncoder,
    FCEncoder,
    ImpalaEncoder,
    ResidualBlock,
    VectorEncoder,
    build_encoder,
)
from nervex.utils.errors import ConfigError


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


class TestChoice:
    @pytest.mark.parametrize(
        "obs_dim, hidden, encoder_type, kind",
        [
            (4, (8,), None, FCEncoder),
            ([4], (8,), "fc", FCEncoder),
            (4, None, None, VectorEncoder),
            ([3, 36, 36], (8,), None, ConvEncoder),
            ((3, 36, 36), None, "conv2d", ConvEncoder),
            ((3, 7, 7), (8,), "impala", ImpalaEncoder),
            ({"a": 4, "b": [3, 36, 36]}, (8,), None, DictEncoder),
        ],
    )
    def test_by_type_and_shape(self, obs_dim, hidden, encoder_type, kind):
        encoder = build_encoder(obs_dim, 16, hidden, encoder_type)
        assert isinstance(encoder, kind)

    @pytest.mark.parametrize(
        "obs_dim, encoder_type, message",
        [
            (4, "imapla", r"unknown encoder 'imapla'; did you mean 'impala'\? \(known: fc, conv2d, impala\)"),
            ([3, 20, 20], None, r"takes images \[C, H, W\] of at least 36x36, obs_dim is \[3, 20, 20\]; use an fc "
                                "encoder for vectors, encoder_type: impala for smaller images"),
            ([3, 3, 9], "impala", r"impala encoder takes images \[C, H, W\] of at least 4x4, obs_dim is \[3, 3, 9\]"),
            (4, "impala", r"an impala encoder takes images .* obs_dim is \[4\]; use an fc encoder"),
            ([3, 84, 84], "fc", r"a fully connected encoder takes vectors, obs_dim is \[3, 84, 84\]; use a conv2d"),
            ([84, 84], None, r"a fully connected encoder takes vectors, obs_dim is \[84, 84\]"),
            ({"image": [3, 84, 84]}, "fc", "a fully connected encoder takes vectors"),
            ({"action_mask": 3}, None, "no part to encode; obs_dim needs a key besides 'action_mask'"),
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("hidden", [None, (8,)])
    def test_refusals(self, obs_dim, encoder_type, message, hidden):
        with pytest.raises(ConfigError, match=message):
            build_encoder(obs_dim, 16, hidden, encoder_type)


class TestVectors:
    def test_passed_on_as_floats(self):
        encoder = build_encoder(3, 16, None)
        x = torch.randn(2, 3)
        assert encoder.out_dim == 3 and encoder(x) is x
        assert torch.equal(encoder(torch.tensor([[1, 2, 3]])), torch.tensor([[1.0, 2.0, 3.0]]))

    def test_activation_and_norm(self):
        encoder = build_encoder(3, 16, (8,), norm_type="LN", activation="tanh")
        assert [type(m) for m in encoder.main] == [nn.Linear, nn.LayerNorm, nn.Tanh] * 2
        assert encoder.out_dim == 16 and encoder(torch.randn(2, 3)).abs().max() < 1


class TestImpala:
    def test_layers_of_the_figure(self):
        """15 convolutions: 3 sections of 1 + 2 blocks of 2."""
        encoder = ImpalaEncoder([4, 84, 84], 256)
        widths = [(m.in_channels, m.out_channels) for m in encoder.modules() if isinstance(m, nn.Conv2d)]
        section = lambda a, b: [(a, b)] + [(b, b)] * 4  # noqa: E731
        assert widths == section(4, 16) + section(16, 32) + section(32, 32)
        assert encoder.linear[0].in_features == 32 * 11 * 11  # 84 -> 42 -> 21 -> 11
        assert encoder(torch.rand(2, 4, 84, 84)).shape == (2, 256)

    def test_forward_from_its_weights(self):
        encoder, x = ImpalaEncoder([2, 9, 8], 5, channels=[3]), torch.rand(4, 2, 9, 8)
        conv, _, first, second, *_ = encoder.conv
        y = F.max_pool2d(conv(x), 3, 2, padding=1)
        for block in (first, second):
            y = y + block.conv2(torch.relu(block.conv1(torch.relu(y))))
        expected = torch.relu(torch.relu(y).flatten(1) @ encoder.linear[0].weight.T + encoder.linear[0].bias)
        assert torch.allclose(encoder(x), expected, atol=1e-5)

    def test_a_block_keeps_its_input(self):
        block, x = ResidualBlock(3), torch.randn(1, 3, 5, 5)
        block.conv2.weight.data.zero_()
        block.conv2.bias.data.zero_()
        assert torch.equal(block(x), x)

    @pytest.mark.parametrize("size", [(4, 4), (7, 7), (4, 9)])
    def test_small_images(self, size):
        assert ImpalaEncoder([1, *size], 6)(torch.rand(2, 1, *size)).shape == (2, 6)


@pytest.mark.parametrize("build", [lambda: ConvEncoder((2, 36, 38), 8), lambda: ImpalaEncoder((2, 36, 38), 8)])
class TestImages:
    def test_bytes_are_divided_by_255(self, build):
        encoder = build()
        image = torch.randint(256, (3, 2, 36, 38), dtype=torch.uint8)
        held = image.clone()
        assert torch.allclose(encoder(image), encoder(image.float() / 255), atol=1e-6)
        assert torch.equal(image, held)

    def test_the_input_is_left_as_it_is(self, build):
        encoder, image = build(), torch.rand(3, 2, 36, 38)
        held = image.clone()
        encoder(image).sum().backward()
        assert torch.equal(image, held)

    def test_layout_in_memory_changes_nothing(self, build):
        encoder, image = build(), torch.rand(3, 2, 36, 38)
        expected = encoder.linear(encoder.conv(image))
        assert torch.allclose(encoder(image), expected, atol=1e-5)
        assert torch.allclose(encoder(image.contiguous(memory_format=torch.channels_last)), expected, atol=1e-5)

    def test_every_weight_gets_a_gradient(self, build):
        encoder = build()
        (encoder(torch.rand(3, 2, 36, 38)) * torch.randn(3, 8)).sum().backward()
        assert all(p.grad.abs().sum() > 0 for p in encoder.parameters())


class TestMappings:
    def test_embeddings_side_by_side_in_the_order_of_the_keys(self):
        encoder = build_encoder({"z": 3, "a": [1, 36, 36], "action_mask": 5}, 16, (8,))
        obs = {"a": torch.rand(2, 1, 36, 36), "z": torch.randn(2, 3), "action_mask": torch.ones(2, 5, dtype=torch.bool)}
        assert encoder.keys == ["a", "z"] and encoder.out_dim == 32
        assert isinstance(encoder.encoders[0], ConvEncoder) and isinstance(encoder.encoders[1], FCEncoder)
        expected = torch.cat([encoder.encoders[0](obs["a"]), encoder.encoders[1](obs["z"])], dim=1)
        assert torch.equal(encoder(obs), expected)

    def test_weights_do_not_depend_on_the_order_of_obs_dim(self):
        one, other = (build_encoder(d, 16, (8,)).state_dict() for d in ({"a": 3, "b": 4}, {"b": 4, "a": 3}))
        assert {k: v.shape for k, v in one.items()} == {k: v.shape for k, v in other.items()}

    def test_impala_is_for_the_images(self):
        encoder = build_encoder({"a": 3, "b": [1, 9, 9]}, 16, (8,), "impala")
        assert [type(e) for e in encoder.encoders] == [FCEncoder, ImpalaEncoder]

    def test_vectors_passed_on(self):
        encoder = build_encoder({"goal": 2, "position": 3}, 16, None)
        obs = {"position": torch.randn(4, 3), "goal": torch.tensor([[1, 2]] * 4)}
        assert encoder.out_dim == 5
        assert torch.equal(encoder(obs), torch.cat([obs["goal"].float(), obs["position"]], dim=1))

    @pytest.mark.parametrize("key", ["items", "forward", "a.b", "keys"])
    def test_any_key(self, key):
        encoder = build_encoder({key: 2}, 16, None)
        assert torch.equal(encoder({key: torch.ones(1, 2)}), torch.ones(1, 2))


@pytest.mark.parametrize("norm_type", [None, "LN"])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_vectors_go_through_linear_layers_norms_and_activations(norm_type, activation):
    encoder, x = FCEncoder(3, (5, 6), 4, norm_type, activation), torch.randint(9, (7, 3))
    y = x.float()
    for layer in [m for m in encoder.main if isinstance(m, nn.Linear)]:
        y = y @ layer.weight.T + layer.bias
        y = getattr(torch, activation)(F.layer_norm(y, y.shape[1:]) if norm_type else y)
    assert encoder(x).shape == (7, 4) and torch.allclose(encoder(x), y, atol=1e-5) and y.abs().max() > 0
