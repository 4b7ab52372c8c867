"""Normalization layers by name, against means and variances that are written out."""

import pytest
import torch
from torch import nn

from nervex.torch_utils import AdaptiveInstanceNorm2d, GroupSyncBatchNorm, build_normalization
from nervex.utils.errors import ConfigError, SpecError


def standardized(x, dims):
    mean, var = x.mean(dims, keepdim=True), x.var(dims, keepdim=True, unbiased=False)
    return (x - mean) / (var + 1e-5).sqrt()


def image():
    return 3 * torch.randn(4, 3, 5, 6, generator=torch.Generator().manual_seed(0)) + 2


@pytest.mark.parametrize(
    "name, dim, shape, dims",
    [
        ("BN", 1, (7, 3), (0,)),
        ("BN", 2, (4, 3, 5, 6), (0, 2, 3)),
        ("BN", 3, (4, 3, 2, 2, 2), (0, 2, 3, 4)),
        ("IN", 1, (4, 3, 9), (2,)),
        ("IN", 2, (4, 3, 5, 6), (2, 3)),
        ("IN", 3, (4, 3, 2, 2, 2), (2, 3, 4)),
        ("LN", None, (4, 3), (-1,)),
        ("SyncBN", None, (4, 3, 5, 6), (0, 2, 3)),
    ],
)
def test_each_name_normalizes_over_its_dimensions(name, dim, shape, dims):
    x = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(0)) + 2
    assert torch.allclose(build_normalization(name, dim)(3)(x), standardized(x, dims), atol=1e-4)


def test_adaptive_norm_takes_scale_and_shift_from_outside():
    x, weight, bias = image(), torch.randn(4, 3), torch.randn(4, 3)
    layer = build_normalization("AdaptiveIN")(3)
    assert type(layer) is AdaptiveInstanceNorm2d
    layer.set_style(weight, bias)
    expected = weight[:, :, None, None] * standardized(x, (2, 3)) + bias[:, :, None, None]
    assert torch.allclose(layer(x), expected, atol=1e-4)


def test_sync_norm_in_one_process_is_batch_norm():
    x = image()
    ours, torchs = GroupSyncBatchNorm(3, bn_group_size=1), nn.BatchNorm2d(3)
    for _ in range(3):
        assert torch.allclose(ours(x), torchs(x), atol=1e-6)
    assert torch.allclose(ours.running_mean, torchs.running_mean) and int(ours.num_batches_tracked) == 3
    assert torch.allclose(ours.eval()(x), torchs.eval()(x), atol=1e-6)


def test_wrong_arguments_are_told():
    with pytest.raises(ConfigError, match="unknown norm_type 'bn'"):
        build_normalization("bn", 2)
    with pytest.raises(ConfigError, match="'BN' got dim None, expected 1, 2 or 3"):
        build_normalization("BN")
    with pytest.raises(ConfigError, match=r"bn_group_size is 2 with 1 process\(es\), expected a divisor"):
        GroupSyncBatchNorm(3, bn_group_size=2)
    with pytest.raises(SpecError, match=r"GroupSyncBatchNorm: 'x' has shape \[4, 2\], expected \[B, 3, ...\]"):
        GroupSyncBatchNorm(3)(torch.ones(4, 2))
    layer = AdaptiveInstanceNorm2d(3)
    with pytest.raises(SpecError, match="there is no style yet; call set_style"):
        layer(image())
    with pytest.raises(SpecError, match=r"AdaptiveInstanceNorm2d: 'weight' has shape \[4, 2\], expected \['any', 3\]"):
        layer.set_style(torch.ones(4, 2), torch.ones(4, 2))
    layer.set_style(torch.ones(2, 3), torch.ones(2, 3))
    with pytest.raises(SpecError, match=r"'x' has shape \[4, 3, 5, 6\], expected \[2, 3, 'any', 'any'\]"):
        layer(image())
