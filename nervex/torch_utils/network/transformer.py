"""Transformer encoders for sets: without positions, with a mask of what is there."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nervex.torch_utils.checks import check_shape
from nervex.torch_utils.network.blocks import fc_block, sequential_pack
from nervex.utils.errors import ConfigError, SpecError


class Attention(nn.Module):
    """Self-attention of several heads, Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, eq. 1.

        head = softmax(Q·Kᵀ / √head_dim)·V,  y = W·[head_1, head_2, ...]

    Over ``torch.nn.functional.scaled_dot_product_attention``.

    Args:
        input_dim: features of an element.
        head_dim: features of a head.
        output_dim: features of the result.
        head_num: number of heads.
        dropout_ratio: part of the attention that is dropped while training.
    """

    def __init__(
        self, input_dim: int, head_dim: int, output_dim: int, head_num: int, dropout_ratio: float = 0.0
    ) -> None:
        super().__init__()
        _check_positive("Attention", input_dim=input_dim, head_dim=head_dim, output_dim=output_dim, head_num=head_num)
        self.input_dim, self.head_num, self.dropout_ratio = input_dim, head_num, dropout_ratio
        self.query_key_value = nn.Linear(input_dim, 3 * head_dim * head_num)
        self.project = nn.Linear(head_dim * head_num, output_dim)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Maps x [B, N, input_dim] to [B, N, output_dim].

        Args:
            x: elements.
            mask: True where an element may be attended to, bool [B, N], or for each query and key [B, N, N]; None:
                all. A query that may attend to nothing gets the bias of the projection.
        """
        check_shape("Attention", "x", x, (None, None, self.input_dim))
        allowed = _full_mask("Attention", mask, x)
        heads = self.query_key_value(x).unflatten(-1, (3, self.head_num, -1))  # [B, N, 3, heads, head_dim]
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # [B, heads, N, head_dim] each
        dropout = self.dropout_ratio if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, allowed, dropout)  # [B, heads, N, head_dim]
        if allowed is not None:
            mixed = mixed.masked_fill(~allowed.any(-1, keepdim=True), 0)
        return self.project(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class TransformerLayer(nn.Module):
    """Attention and a perceptron, each with a residual connection and a layer norm after it.

        x ← LN(x + attention(x)),  x ← LN(x + mlp(x))

    Args:
        input_dim: features of an element, in and out.
        head_dim, head_num: as of :class:`Attention`.
        hidden_dim: of the perceptron's hidden layers.
        mlp_num: layers of the perceptron, at least 1.
        dropout_ratio: of the attention and of what is added, while training.
        activation: between the perceptron's layers; None: ReLU.
    """

    def __init__(
        self,
        input_dim: int,
        head_dim: int,
        hidden_dim: int,
        head_num: int,
        mlp_num: int,
        dropout_ratio: float = 0.0,
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        _check_positive("TransformerLayer", hidden_dim=hidden_dim, mlp_num=mlp_num)
        self.attention = Attention(input_dim, head_dim, input_dim, head_num, dropout_ratio)
        act = nn.ReLU() if activation is None else activation
        sizes = list(pairwise([input_dim, *[hidden_dim] * (mlp_num - 1), input_dim]))
        self.mlp = sequential_pack([fc_block(*pair, act) for pair in sizes[:-1]] + [fc_block(*sizes[-1])])
        self.norm1, self.norm2 = nn.LayerNorm(input_dim), nn.LayerNorm(input_dim)
        self.dropout = nn.Dropout(dropout_ratio)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Maps x [B, N, input_dim] to the same shape; ``mask`` as of :meth:`Attention.forward`."""
        x = self.norm1(x + self.dropout(self.attention(x, mask)))
        return self.norm2(x + self.dropout(self.mlp(x)))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """An embedding and ``layer_num`` transformer layers, Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, without
    positions: the order of the elements does not matter.

    Args:
        input_dim: features of an element.
        head_dim, hidden_dim, head_num, mlp_num, dropout_ratio, activation: as of :class:`TransformerLayer`.
        output_dim: features within the layers and of the result.
        layer_num: number of layers, at least 1.
    """

    def __init__(
        self,
        input_dim: int,
        head_dim: int = 128,
        hidden_dim: int = 1024,
        output_dim: int = 256,
        head_num: int = 2,
        mlp_num: int = 2,
        layer_num: int = 3,
        dropout_ratio: float = 0.0,
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        _check_positive("Transformer", input_dim=input_dim, output_dim=output_dim, layer_num=layer_num)
        self.input_dim = input_dim
        act = nn.ReLU() if activation is None else activation
        self.embedding = fc_block(input_dim, output_dim, act)
        self.layers = nn.ModuleList(
            TransformerLayer(output_dim, head_dim, hidden_dim, head_num, mlp_num, dropout_ratio, act)
            for _ in range(layer_num)
        )
        self.dropout = nn.Dropout(dropout_ratio)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Maps x [B, N, input_dim] to [B, N, output_dim]; ``mask`` as of :meth:`Attention.forward`. What masked
        elements are turned into means nothing."""
        check_shape("Transformer", "x", x, (None, None, self.input_dim))
        x = self.dropout(self.embedding(x))
        for layer in self.layers:
            x = layer(x, mask)
        return x


def _full_mask(fn: str, mask: Tensor | None, x: Tensor) -> Tensor | None:
    """Returns a mask as bool [B, 1, 1 or N, N]."""
    if mask is None:
        return None
    batch, count, _ = x.shape
    if mask.dim() != 2:
        check_shape(fn, "mask", mask, (batch, count, count))
    else:
        check_shape(fn, "mask", mask, (batch, count))
        mask = mask[:, None]
    if mask.dtype != torch.bool:
        raise SpecError(f"{fn}: 'mask' is {mask.dtype}, expected torch.bool (True: there); cast with .bool()")
    return mask[:, None]


def _check_positive(fn: str, **sizes: int) -> None:
    for name, value in sizes.items():
        if value < 1:
            raise ConfigError(f"{fn}: {name} is {value}, expected at least 1")
