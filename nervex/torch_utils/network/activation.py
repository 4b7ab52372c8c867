"""Activations by name, and a linear layer with a gate."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nervex.torch_utils.checks import check_name, check_shape
from nervex.utils.errors import SpecError

_NAMES = ("relu", "glu", "prelu")
_INPUT_TYPES = ("fc", "conv2d")


def build_activation(activation: str, inplace: bool = False) -> nn.Module:
    """Returns the module of an activation.

    Args:
        activation: ``'relu'``, ``'prelu'`` (one learned slope), or ``'glu'``, which halves the last dimension
            (``torch.nn.GLU``; with a context there is :class:`GLU`).
        inplace: overwrite the input, ``'relu'`` only.

    Raises:
        ConfigError: no such activation.
    """
    check_name("activation", activation, _NAMES)
    if activation == "relu":
        return nn.ReLU(inplace=inplace)
    return nn.PReLU() if activation == "prelu" else nn.GLU()


class GLU(nn.Module):
    """Linear layer whose input is gated by a context.

        y = W·(x ⊙ sigmoid(V·context + b)) + c

    Dauphin et al. 2017, https://arxiv.org/abs/1612.08083, with the gate of Vinyals et al. 2019,
    https://doi.org/10.1038/s41586-019-1724-z.

    Args:
        input_dim, output_dim, context_dim: features, or channels of images.
        input_type: ``'fc'`` for vectors, ``'conv2d'`` for images (kernels of 1).

    Raises:
        ConfigError: unknown ``input_type``.
    """

    def __init__(self, input_dim: int, output_dim: int, context_dim: int, input_type: str = "fc") -> None:
        super().__init__()
        check_name("input_type", input_type, _INPUT_TYPES)
        self._dim = -1 if input_type == "fc" else 1
        self.input_dim, self.context_dim = input_dim, context_dim
        if input_type == "fc":
            self.gate: nn.Module = nn.Linear(context_dim, input_dim)
            self.out: nn.Module = nn.Linear(input_dim, output_dim)
        else:
            self.gate = nn.Conv2d(context_dim, input_dim, 1)
            self.out = nn.Conv2d(input_dim, output_dim, 1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Maps x [..., input_dim] and context [..., context_dim] to [..., output_dim]; images are [B, C, H, W]."""
        self._check("x", x, self.input_dim)
        self._check("context", context, self.context_dim)
        rest = [list(t.shape[:-1]) if self._dim == -1 else [len(t), *t.shape[2:]] for t in (x, context)]
        if rest[0] != rest[1]:
            raise SpecError(
                f"GLU: 'context' has shape {list(context.shape)} beside 'x' {list(x.shape)}, expected the same but for "
                "the features"
            )
        return self.out(F.glu(torch.cat([x, self.gate(context)], self._dim), self._dim))  # type: ignore[no-any-return]

    def _check(self, name: str, x: Tensor, size: int) -> None:
        shape = (*x.shape[:-1], size) if self._dim == -1 else (None, size, None, None)
        check_shape("GLU", name, x, shape)
