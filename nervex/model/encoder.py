"""Encoders: observation to embedding."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from nervex.utils.errors import ConfigError


def mlp(sizes: Sequence[int], norm_type: str | None = None) -> nn.Sequential:
    """Returns linear layers of the given sizes, each followed by a ReLU, with a layer norm (``'LN'``) between the two
    on request (Ba et al. 2016, https://arxiv.org/abs/1607.06450)."""
    if norm_type not in (None, "LN"):
        raise ConfigError(f"unknown norm_type '{norm_type}'; expected 'LN' or null")
    layers: list[nn.Module] = []
    for size_in, size_out in pairwise(sizes):
        layers += [nn.Linear(size_in, size_out), *([nn.LayerNorm(size_out)] if norm_type else []), nn.ReLU()]
    return nn.Sequential(*layers)


class FCEncoder(nn.Module):
    """Fully connected encoder of vector observations.

    Args:
        obs_dim: length of the observation.
        hidden_dim_list: sizes of the hidden layers.
        embedding_dim: size of the embedding.
        norm_type: ``'LN'`` for a layer norm before each activation; None: none.
    """

    def __init__(
        self,
        obs_dim: int | Sequence[int],
        hidden_dim_list: Sequence[int],
        embedding_dim: int,
        norm_type: str | None = None,
    ) -> None:
        super().__init__()
        shape = (obs_dim,) if isinstance(obs_dim, int) else tuple(obs_dim)
        if len(shape) != 1:
            raise ConfigError(
                f"a fully connected encoder takes vectors, obs_dim is {list(shape)}; use a conv2d encoder for images "
                "[C, H, W], or flatten the observation (env.wrappers: [FlattenObservation])"
            )
        self.obs_dim = shape[0]
        self.main = mlp([self.obs_dim, *hidden_dim_list, embedding_dim], norm_type)

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

    def __init__(self, obs_dim: Sequence[int], embedding_dim: int) -> None:
        super().__init__()
        shape = (obs_dim,) if isinstance(obs_dim, int) else tuple(obs_dim)
        if len(shape) != 3 or min(shape[1:]) < 36:
            raise ConfigError(
                f"a conv2d encoder takes images [C, H, W] of at least 36x36, obs_dim is {list(shape)}; use an fc "
                "encoder"
            )
        self.conv = nn.Sequential(
            nn.Conv2d(shape[0], 32, 8, 4), nn.ReLU(),
            nn.Conv2d(32, 64, 4, 2), nn.ReLU(),
            nn.Conv2d(64, 64, 3, 1), nn.ReLU(),
            nn.Flatten(),
        )  # fmt: skip
        with torch.no_grad():
            flat = self.conv(torch.zeros(1, *shape)).shape[1]
        self.linear = nn.Sequential(nn.Linear(flat, embedding_dim), nn.ReLU())

    def forward(self, obs: Tensor) -> Tensor:
        """Maps obs [B, C, H, W] to an embedding float [B, embedding_dim]."""
        x = obs if obs.is_floating_point() else obs.float() / 255.0
        return self.linear(self.conv(x))  # type: ignore[no-any-return]
