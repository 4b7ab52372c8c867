"""Stacks of fully connected layers, and how they are initialized."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from nervex.utils.errors import ConfigError, did_you_mean

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}
HIDDEN_GAIN = math.sqrt(2)


def activation_class(name: str) -> type[nn.Module]:
    """Returns the module of an activation.

    Raises:
        ConfigError: no such activation.
    """
    if name not in ACTIVATIONS:
        raise ConfigError(f"unknown activation '{name}'{did_you_mean(name, ACTIVATIONS)} (known: relu, tanh)")
    return ACTIVATIONS[name]


def mlp(
    sizes: Sequence[int],
    norm_type: str | None = None,
    activation: str = "relu",
    linear: Callable[[int, int], nn.Module] = nn.Linear,
) -> nn.Sequential:
    """Returns linear layers of the given sizes, each followed by an activation, with a layer norm between the two on
    request.

    Args:
        sizes: of the input and of each layer.
        norm_type: ``'LN'`` for layer norms (Ba et al. 2016, https://arxiv.org/abs/1607.06450); None: none.
        activation: ``'relu'`` or ``'tanh'``.
        linear: builds a layer from its two sizes.

    Raises:
        ConfigError: unknown ``norm_type`` or ``activation``.
    """
    if norm_type not in (None, "LN"):
        raise ConfigError(f"unknown norm_type '{norm_type}'; expected 'LN' or null")
    act = activation_class(activation)
    layers: list[nn.Module] = []
    for size_in, size_out in pairwise(sizes):
        layers += [linear(size_in, size_out), *([nn.LayerNorm(size_out)] if norm_type else []), act()]
    return nn.Sequential(*layers)


class OutputLinear(nn.Linear):
    """The last layer of a network, in float32 under ``torch.autocast`` too: the 8 bits of bfloat16 are enough for
    features, and too few for values and logits."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps float [..., in] to float [..., out]."""
        kind = x.device.type
        if not torch.is_autocast_enabled(kind):
            return super().forward(x)
        with torch.autocast(kind, enabled=False):
            return super().forward(x.float())


def perceptron(
    size_in: int,
    hidden_dim_list: Sequence[int],
    size_out: int,
    activation: str = "relu",
    norm_type: str | None = None,
    linear: Callable[[int, int], nn.Module] = nn.Linear,
) -> nn.Sequential:
    """Returns hidden layers as :func:`mlp` makes them, then one linear layer without activation."""
    sizes = [size_in, *hidden_dim_list]
    last = OutputLinear if linear is nn.Linear else linear
    return nn.Sequential(*mlp(sizes, norm_type, activation, linear), last(sizes[-1], size_out))


def init_orthogonal(module: nn.Module, gain: float = HIDDEN_GAIN) -> None:
    """Makes the weights of linear and convolutional layers orthogonal with ``gain`` and their biases zero, and weights
    of recurrent layers orthogonal with gain 1.

    Saxe et al. 2014, https://arxiv.org/abs/1312.6120; for policy gradients √2 in hidden layers, 0.01 in the last layer
    of the policy and 1 in that of the value: Engstrom et al. 2020, https://arxiv.org/abs/2005.12729; Andrychowicz et
    al. 2021, https://arxiv.org/abs/2006.05990.
    """
    for part in module.modules():
        recurrent = isinstance(part, nn.RNNBase)
        if recurrent or isinstance(part, nn.Linear | nn.Conv2d):
            for parameter in part.parameters(recurse=False):
                if parameter.dim() > 1:
                    nn.init.orthogonal_(parameter, 1.0 if recurrent else gain)
                elif not recurrent:
                    nn.init.zeros_(parameter)


class EnsembleMLP(nn.Module):
    """Independent networks of one shape on the same input, computed together.

    Each is a stack of linear layers as :func:`perceptron` makes it, with the same initialization and from the same
    random numbers as if they were made one after the other; a layer of all of them is one batched matrix product.

    Args:
        num: number K of networks.
        size_in, hidden_dim_list, size_out: sizes of the layers.
        activation: ``'relu'`` or ``'tanh'``.
    """

    def __init__(
        self, num: int, size_in: int, hidden_dim_list: Sequence[int], size_out: int, activation: str = "relu"
    ) -> None:
        super().__init__()
        networks = [perceptron(size_in, hidden_dim_list, size_out, activation) for _ in range(num)]
        layers = [[m for m in network if isinstance(m, nn.Linear)] for network in networks]
        with torch.no_grad():
            self.weight = nn.ParameterList(
                [torch.stack([m.weight.T for m in same]) for same in zip(*layers, strict=True)]
            )
            self.bias = nn.ParameterList(
                [torch.stack([m.bias for m in same])[:, None] for same in zip(*layers, strict=True)]
            )
        self._num = num
        self._activation = getattr(torch, activation)

    def forward(self, x: Tensor, num: int | None = None) -> Tensor:
        """Maps float [B, size_in] to [K, B, size_out], or by the first ``num`` networks to [num, B, size_out]."""
        layers = list(zip(self.weight, self.bias, strict=True))
        if num is not None and num < self._num:
            layers = [(weight[:num], bias[:num]) for weight, bias in layers]
        x = x.expand(len(layers[0][0]), -1, -1)  # [K, B, size_in]
        for weight, bias in layers[:-1]:
            x = self._activation(torch.baddbmm(bias, x, weight))
        if not torch.is_autocast_enabled(x.device.type):
            return _last_layer(x, *layers[-1])
        with torch.autocast(x.device.type, enabled=False):  # as OutputLinear
            return _last_layer(x.float(), *layers[-1])


def _last_layer(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Returns ``x @ weight + bias`` of float [K, B, in], [K, in, out] and [K, 1, out]. Batched products with a single
    column take a CPU four to ten times as long as the sum that they are, the more so in backward."""
    if weight.shape[-1] > 1:
        return torch.baddbmm(bias, x, weight)
    return (x * weight.transpose(1, 2)).sum(-1, keepdim=True) + bias
