"""Encoders: observation to embedding."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nervex.model.mlp import mlp
from nervex.torch_utils.images import unit_images
from nervex.utils.errors import ConfigError, did_you_mean

ObsDim = int | Sequence[int] | Mapping[str, Any]

_ENCODERS = ("fc", "conv2d", "impala")
_MASK_KEY = "action_mask"


def as_shape(dim: Any) -> tuple[int, ...]:
    """Returns the shape of one observation: ``(4,)`` for 4."""
    return (dim,) if isinstance(dim, int) else tuple(dim)


class VectorEncoder(nn.Module):
    """Passes vectors on as floats.

    Attributes:
        out_dim: length of the vector.
    """

    def __init__(self, obs_dim: int | Sequence[int]) -> None:
        super().__init__()
        self.out_dim = _vector_length(obs_dim)

    def forward(self, obs: Tensor) -> Tensor:
        """Returns obs [B, obs_dim] as float."""
        return obs if obs.is_floating_point() else obs.float()


class FCEncoder(nn.Module):
    """Fully connected encoder of vector observations.

    Args:
        obs_dim: length of the observation.
        hidden_dim_list: sizes of the hidden layers.
        embedding_dim: size of the embedding.
        norm_type: ``'LN'`` for a layer norm before each activation; None: none.
        activation: ``'relu'`` or ``'tanh'``.
    """

    def __init__(
        self,
        obs_dim: int | Sequence[int],
        hidden_dim_list: Sequence[int],
        embedding_dim: int,
        norm_type: str | None = None,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        self.obs_dim = _vector_length(obs_dim)
        self.out_dim = embedding_dim
        self.main = mlp([self.obs_dim, *hidden_dim_list, embedding_dim], norm_type, activation)

    def forward(self, obs: Tensor) -> Tensor:
        """Maps obs [B, obs_dim] to an embedding float [B, embedding_dim]."""
        return self.main(obs if obs.is_floating_point() else obs.float())  # type: ignore[no-any-return]


class ConvEncoder(nn.Module):
    """The convolutional encoder of Mnih et al. 2015, https://doi.org/10.1038/nature14236: 32, 64, 64 channels, kernels
    8, 4, 3, strides 4, 2, 1, then one linear layer. Integer observations are divided by 255.

    Args:
        obs_dim: ``(C, H, W)``.
        embedding_dim: size of the embedding.
    """

    def __init__(self, obs_dim: int | Sequence[int], embedding_dim: int) -> None:
        super().__init__()
        shape = as_shape(obs_dim)
        if len(shape) != 3 or min(shape[1:]) < 36:
            raise ConfigError(
                f"a conv2d encoder takes images [C, H, W] of at least 36x36, obs_dim is {list(shape)}; use an fc "
                "encoder for vectors, encoder_type: impala for smaller images"
            )
        self.conv = nn.Sequential(
            nn.Conv2d(shape[0], 32, 8, 4), nn.ReLU(inplace=True),
            nn.Conv2d(32, 64, 4, 2), nn.ReLU(inplace=True),
            nn.Conv2d(64, 64, 3, 1), nn.ReLU(inplace=True),
            nn.Flatten(),
        )  # fmt: skip
        self.out_dim = embedding_dim
        self.linear = nn.Sequential(nn.Linear(_flat_size(self.conv, shape), embedding_dim), nn.ReLU())

    def forward(self, obs: Tensor) -> Tensor:
        """Maps obs [B, C, H, W] to an embedding float [B, embedding_dim]."""
        return self.linear(self.conv(_image(obs)))  # type: ignore[no-any-return]


class ResidualBlock(nn.Module):
    """``x + conv(relu(conv(relu(x))))`` with kernels of 3 and as many channels as the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, C, H, W] to the same shape."""
        return x + self.conv2(F.relu(self.conv1(F.relu(x)), inplace=True))


class ImpalaEncoder(nn.Module):
    """The residual convolutional encoder of Espeholt et al. 2018, https://arxiv.org/abs/1802.01561, figure 3 right: per
    section a convolution of kernel 3, a max pooling of kernel 3 and stride 2 and two residual blocks; then one linear
    layer. Integer observations are divided by 255.

    Args:
        obs_dim: ``(C, H, W)``.
        embedding_dim: size of the embedding.
        channels: of each section.
    """

    def __init__(
        self, obs_dim: int | Sequence[int], embedding_dim: int, channels: Sequence[int] = (16, 32, 32)
    ) -> None:
        super().__init__()
        shape = as_shape(obs_dim)
        if len(shape) != 3 or min(shape[1:]) < 4:
            raise ConfigError(
                f"an impala encoder takes images [C, H, W] of at least 4x4, obs_dim is {list(shape)}; use an fc encoder"
            )
        layers: list[nn.Module] = []
        size = shape[0]
        for width in channels:
            layers += [nn.Conv2d(size, width, 3, padding=1), nn.MaxPool2d(3, 2, padding=1),
                       ResidualBlock(width), ResidualBlock(width)]  # fmt: skip
            size = width
        self.conv = nn.Sequential(*layers, nn.ReLU(inplace=True), nn.Flatten())
        self.out_dim = embedding_dim
        self.linear = nn.Sequential(nn.Linear(_flat_size(self.conv, shape), embedding_dim), nn.ReLU())

    def forward(self, obs: Tensor) -> Tensor:
        """Maps obs [B, C, H, W] to an embedding float [B, embedding_dim]."""
        return self.linear(self.conv(_image(obs)))  # type: ignore[no-any-return]


class DictEncoder(nn.Module):
    """Encodes each part of a dict observation by an encoder of its own and puts the embeddings side by side, in the
    order of the sorted keys.

    Args:
        encoders: key -> module with the attribute ``out_dim``.
    """

    def __init__(self, encoders: Mapping[str, nn.Module]) -> None:
        super().__init__()
        if not encoders:
            raise ConfigError("a dict observation has no part to encode; obs_dim needs a key besides 'action_mask'")
        self.keys = sorted(encoders)
        self.encoders = nn.ModuleList([encoders[key] for key in self.keys])
        self.out_dim: int = sum(encoder.out_dim for encoder in encoders.values())  # type: ignore[misc]

    def forward(self, obs: Mapping[str, Tensor]) -> Tensor:
        """Maps key -> [B, ...] to an embedding float [B, out_dim]."""
        parts = [encoder(obs[key]) for key, encoder in zip(self.keys, self.encoders, strict=True)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def build_encoder(
    obs_dim: ObsDim,
    embedding_dim: int,
    hidden_dim_list: Sequence[int] | None,
    encoder_type: str | None = None,
    norm_type: str | None = None,
    activation: str = "relu",
) -> nn.Module:
    """Returns the encoder of an observation; its ``out_dim`` is the size of the embedding.

    Args:
        obs_dim: length of a vector, ``(C, H, W)`` of an image, or a mapping of them; ``action_mask`` is left out.
        embedding_dim: size of the embedding, of each part of a mapping.
        hidden_dim_list: hidden layers for vectors; None: vectors are passed on as they are.
        encoder_type: ``'fc'`` for vectors, ``'conv2d'`` or ``'impala'`` for images (and fc for the vectors of a
            mapping); None: fc for vectors, conv2d for images.
        norm_type, activation: of an fc encoder.

    Raises:
        ConfigError: unknown type, or one that does not take this shape.
    """
    if encoder_type is not None and encoder_type not in _ENCODERS:
        raise ConfigError(
            f"unknown encoder '{encoder_type}'{did_you_mean(encoder_type, _ENCODERS)} (known: {', '.join(_ENCODERS)})"
        )
    if isinstance(obs_dim, Mapping):
        encoders = {}
        for key, dim in obs_dim.items():
            if key != _MASK_KEY:
                kind = None if len(as_shape(dim)) == 1 else encoder_type
                encoders[key] = build_encoder(dim, embedding_dim, hidden_dim_list, kind, norm_type, activation)
        return DictEncoder(encoders)
    kind = encoder_type or ("conv2d" if len(as_shape(obs_dim)) == 3 else "fc")
    if kind == "fc":
        if hidden_dim_list is None:
            return VectorEncoder(obs_dim)
        return FCEncoder(obs_dim, hidden_dim_list, embedding_dim, norm_type, activation)
    return ConvEncoder(obs_dim, embedding_dim) if kind == "conv2d" else ImpalaEncoder(obs_dim, embedding_dim)


def _vector_length(obs_dim: int | Sequence[int]) -> int:
    shape = as_shape(obs_dim)
    if len(shape) != 1:
        raise ConfigError(
            f"a fully connected encoder takes vectors, obs_dim is {list(shape)}; use a conv2d encoder for images "
            "[C, H, W], or flatten the observation (env.wrappers: [FlattenObservation])"
        )
    return shape[0]


def _image(obs: Tensor) -> Tensor:
    """Returns images as floats; on a CPU with the channels innermost in memory, which its convolutions run up to twice
    as fast on."""
    on_cpu = obs.device.type == "cpu"
    layout = torch.channels_last if on_cpu else torch.contiguous_format
    if obs.is_floating_point():
        return obs.contiguous(memory_format=layout)
    if on_cpu and obs.dtype == torch.uint8 and not torch.compiler.is_compiling():
        return unit_images(obs)  # type: ignore[no-any-return]
    return obs.to(torch.float32, memory_format=layout).div_(255.0)


@torch.no_grad()
def _flat_size(conv: nn.Module, shape: Sequence[int]) -> int:
    return int(conv(torch.zeros(1, *shape)).shape[1])
