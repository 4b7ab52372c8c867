"""Blocks against torch's own layers with the same weights, and numbers by hand."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nervex.torch_utils import (
    BilinearUpsample,
    ChannelShuffle,
    NearestUpsample,
    NoiseLinearLayer,
    conv1d_block,
    conv2d_block,
    deconv2d_block,
    fc_block,
    noise_block,
    sequential_pack,
    weight_init_,
)
from nervex.utils.errors import ConfigError, SpecError


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def normalized(x, dims):
    return (x - x.mean(dims, keepdim=True)) / (x.var(dims, keepdim=True, unbiased=False) + 1e-5).sqrt()


def test_conv1d_block_is_convolution_norm_activation():
    block, x = conv1d_block(4, 6, 3, 2, 1, 1, 2, activation=nn.ReLU(), norm_type="BN"), torch.randn(5, 4, 9)
    y = F.conv1d(x, block[0].weight, block[0].bias, stride=2, padding=1, groups=2)
    assert torch.allclose(block(x), normalized(y, (0, 2)).relu(), atol=1e-5)
    assert len(conv1d_block(4, 6, 3)) == 1 and conv1d_block(4, 6, 3)(x).shape == (5, 6, 7)
    dilated = conv1d_block(4, 6, 3, dilation=3)
    assert torch.allclose(dilated(x), F.conv1d(x, dilated[0].weight, dilated[0].bias, dilation=3), atol=1e-6)


@pytest.mark.parametrize("pad_type, mode", [("zero", "constant"), ("reflect", "reflect"), ("replication", "replicate")])
def test_conv2d_block_pads_then_convolves(pad_type, mode):
    block, x = conv2d_block(3, 4, 3, padding=2, pad_type=pad_type, norm_type="IN"), torch.randn(2, 3, 5, 6)
    y = F.conv2d(F.pad(x, (2, 2, 2, 2), mode), block[0].weight, block[0].bias)
    assert torch.allclose(block(x), normalized(y, (2, 3)), atol=1e-4)


def test_conv2d_block_has_the_sizes_of_torch():
    x = torch.randn(2, 4, 8, 9)
    block = conv2d_block(4, 6, (3, 2), (2, 1), (1, 0), (1, 2), groups=2, activation=nn.Tanh())
    y = F.conv2d(x, block[0].weight, block[0].bias, (2, 1), (1, 0), (1, 2), 2)
    assert torch.allclose(block(x), y.tanh(), atol=1e-6) and block.out_channels == 6


def test_deconv2d_block_is_a_transposed_convolution():
    block, x = deconv2d_block(4, 6, 3, 2, 1, 1, groups=2, activation=nn.ReLU()), torch.randn(2, 4, 3, 5)
    y = F.conv_transpose2d(x, block[0].weight, block[0].bias, 2, 1, 1, 2)
    assert torch.allclose(block(x), y.relu(), atol=1e-6) and block(x).shape == (2, 6, 6, 10)


def test_fc_block_is_linear_norm_activation():
    block, x = fc_block(4, 6, nn.ReLU(), "LN"), torch.randn(5, 2, 4)
    y = x @ block[0].weight.T + block[0].bias
    assert torch.allclose(block(x), normalized(y, (-1,)).relu(), atol=1e-4)
    batch = fc_block(4, 6, norm_type="BN")
    y = x[:, 0] @ batch[0].weight.T + batch[0].bias
    assert torch.allclose(batch(x[:, 0]), normalized(y, (0,)), atol=1e-4)


def test_fc_block_drops_while_training_only():
    block, x = fc_block(4, 1000, use_dropout=True, dropout_probability=0.25), torch.ones(1, 4)
    y = F.linear(x, block[0].weight, block[0].bias)
    dropped = block(x)
    kept = dropped != 0
    assert 0.7 < kept.float().mean().item() < 0.8
    assert torch.allclose(dropped[kept], y[kept] / 0.75)
    assert torch.allclose(block.eval()(x), y) and len(fc_block(4, 6)) == 1


def test_noise_block_has_noise_while_training_only():
    block, x = noise_block(4, 6, nn.ReLU(), sigma0=0.8, norm_type="LN"), torch.randn(5, 4)
    layer = block[0]
    assert type(layer) is NoiseLinearLayer and torch.allclose(layer.weight_sigma, torch.full((6, 4), 0.8 / 2))
    noise_in, noise_out = layer.noise[:4], layer.noise[4:]
    weight = layer.weight_mu + layer.weight_sigma * torch.outer(noise_out, noise_in)
    y = x @ weight.T + layer.bias_mu + layer.bias_sigma * noise_out
    assert torch.allclose(block(x), normalized(y, (-1,)).relu(), atol=1e-4)
    y = x @ layer.weight_mu.T + layer.bias_mu
    assert torch.allclose(block.eval()(x), normalized(y, (-1,)).relu(), atol=1e-4)
    assert type(noise_block(2, 2, use_dropout=True, dropout_probability=0.3)[-1]) is nn.Dropout


def test_noise_layer_begins_with_its_sigma_and_draws_anew():
    layer, x = NoiseLinearLayer(100, 8), torch.randn(3, 100)
    assert torch.allclose(layer.weight_sigma, torch.full((8, 100), 0.04))
    noisy = layer(x)
    assert torch.equal(layer(x), noisy)
    layer.reset_noise()
    assert not torch.allclose(layer(x), noisy, atol=1e-3)
    assert torch.allclose(layer.eval()(x), x @ layer.weight_mu.T + layer.bias_mu, atol=1e-5)


def test_sequential_pack_runs_in_order_and_knows_its_size():
    packed = sequential_pack([nn.Linear(2, 3), nn.ReLU()])
    x = torch.randn(4, 2)
    assert torch.allclose(packed(x), (x @ packed[0].weight.T + packed[0].bias).relu())
    assert packed.out_features == 3 and sequential_pack([nn.Conv2d(1, 5, 1), nn.Conv2d(5, 7, 1)]).out_channels == 7


def test_weight_init_has_the_moments_of_the_papers():
    weight = torch.empty(300, 200)
    weight_init_(weight)
    bound = math.sqrt(6 / 500)
    assert weight.abs().max() <= bound and weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    weight_init_(weight, "xavier", "relu")
    assert weight.std().item() == pytest.approx(math.sqrt(2) * bound / math.sqrt(3), rel=0.02)
    weight_init_(weight, "kaiming", "relu")
    assert weight.std().item() == pytest.approx(math.sqrt(2 / 200), rel=0.02) and weight.abs().max() > 3 / math.sqrt(
        200
    )
    weight_init_(weight, "kaiming")
    assert weight.std().item() == pytest.approx(math.sqrt(1 / 200), rel=0.02)
    weight_init_(weight, "orthogonal", "relu")
    assert torch.allclose(weight.T @ weight, 2 * torch.eye(200), atol=1e-4)


def test_channel_shuffle_deals_the_groups_out():
    x = torch.arange(6.0).view(1, 6, 1, 1)
    assert ChannelShuffle(2)(x).flatten().tolist() == [0, 3, 1, 4, 2, 5]
    with pytest.raises(RuntimeError, match="5"):
        ChannelShuffle(2)(torch.ones(1, 5, 1, 1))


def test_upsampling_by_hand():
    x = torch.tensor([[[[0.0, 4.0], [8.0, 12.0]]]])
    assert NearestUpsample(2)(x)[0, 0].tolist() == [[0, 0, 4, 4], [0, 0, 4, 4], [8, 8, 12, 12], [8, 8, 12, 12]]
    rows = [[0, 1, 3, 4], [2, 3, 5, 6], [6, 7, 9, 10], [8, 9, 11, 12]]
    assert BilinearUpsample(2)(x)[0, 0].tolist() == rows
    assert NearestUpsample((1, 2))(x)[0, 0].tolist() == [[0, 0, 4, 4], [8, 8, 12, 12]]
    with pytest.raises(NotImplementedError, match="Got 3D input, but bilinear mode needs 4D input"):
        BilinearUpsample(2)(x[0])


def test_wrong_shapes_are_told():
    with pytest.raises(SpecError, match=r"Conv1d: 'x' has shape \[5, 3, 9\], expected \['any', 4, 'any'\]"):
        conv1d_block(4, 6, 3)(torch.ones(5, 3, 9))
    with pytest.raises(SpecError, match=r"Conv2d: 'x' has shape \[4, 5, 5\], expected \['any', 4, 'any', 'any'\]"):
        conv2d_block(4, 6, 3)(torch.ones(4, 5, 5))
    with pytest.raises(SpecError, match=r"ConvTranspose2d: 'x' has shape \[1, 3, 5, 5\], expected"):
        deconv2d_block(4, 6, 3)(torch.ones(1, 3, 5, 5))
    with pytest.raises(SpecError, match=r"Linear: 'x' has shape \[5, 3\], expected \[..., 4\]"):
        fc_block(4, 6)(torch.ones(5, 3))
    with pytest.raises(SpecError, match=r"NoiseLinearLayer: 'x' has shape \[5, 3\], expected \[..., 4\]"):
        noise_block(4, 6)(torch.ones(5, 3))


def test_wrong_arguments_are_told():
    with pytest.raises(ConfigError, match="unknown pad_type 'zeros'; did you mean 'zero'"):
        conv2d_block(1, 1, 1, pad_type="zeros")
    for make, norm_type in ((fc_block, "IN"), (noise_block, "AdaptiveIN"), (conv1d_block, "AdaptiveIN"),
                            (conv2d_block, "LN"), (deconv2d_block, "LN")):  # fmt: skip
        size = () if make in (fc_block, noise_block) else (1,)
        with pytest.raises(ConfigError, match=rf"unknown norm_type of a \w+ block '{norm_type}'.*known: None, BN"):
            make(1, 1, *size, norm_type=norm_type)
    with pytest.raises(ConfigError, match="unknown init_type 'xaver'; did you mean 'xavier'"):
        weight_init_(torch.empty(2, 2), "xaver")
    with pytest.raises(ConfigError, match="weight_init_: unknown activation 'swish'"):
        weight_init_(torch.empty(2, 2), "xavier", "swish")
    with pytest.raises(ConfigError, match=r"weight_init_: 'weight' has shape \[3\], expected \[out, in, ...\]"):
        weight_init_(torch.empty(3))
