"""Residual blocks."""

from torch import Tensor, nn

from nervex.torch_utils.checks import check_last_dim, check_name, check_shape
from nervex.torch_utils.network.blocks import conv2d_block, fc_block, sequential_pack

_TYPES = ("basic", "bottleneck")


class ResBlock(nn.Module):
    """``activation(x + f(x))`` on images, He et al. 2016, https://arxiv.org/abs/1512.03385, figure 5.

    f is two convolutions of kernel 3 (``basic``), or of kernels 1, 3 and 1 (``bottleneck``), each with a normalization,
    and with an activation in between.

    Args:
        in_channels: C.
        activation: module.
        norm_type: as in :func:`conv2d_block`; None: none.
        res_type: ``'basic'`` or ``'bottleneck'``.
        mid_channels: between the convolutions of a bottleneck; None: C.
    """

    def __init__(
        self,
        in_channels: int,
        activation: nn.Module | None = None,
        norm_type: str | None = "BN",
        res_type: str = "basic",
        mid_channels: int | None = None,
    ) -> None:
        super().__init__()
        check_name("res_type", res_type, _TYPES)
        self.in_channels = in_channels
        self.activation = nn.ReLU() if activation is None else activation
        kernels = (3, 3) if res_type == "basic" else (1, 3, 1)
        mid = in_channels if mid_channels is None or res_type == "basic" else mid_channels
        sizes = [in_channels, *[mid] * (len(kernels) - 1), in_channels]
        self.main = sequential_pack(
            [
                conv2d_block(
                    sizes[i], sizes[i + 1], kernel, padding=kernel // 2, norm_type=norm_type,
                    activation=self.activation if i + 1 < len(kernels) else None,
                )
                for i, kernel in enumerate(kernels)
            ]
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, C, H, W] to the same shape."""
        check_shape("ResBlock", "x", x, (None, self.in_channels, None, None))
        return self.activation(x + self.main(x))  # type: ignore[no-any-return]


class ResFCBlock(nn.Module):
    """``activation(x + f(x))`` on vectors, f being two linear layers, each with a normalization, and with an activation
    in between.

    Args:
        in_channels: features C.
        activation: module.
        norm_type: as in :func:`fc_block`; None: none.
    """

    def __init__(self, in_channels: int, activation: nn.Module | None = None, norm_type: str | None = "BN") -> None:
        super().__init__()
        self.in_channels = in_channels
        self.activation = nn.ReLU() if activation is None else activation
        self.fc1 = fc_block(in_channels, in_channels, self.activation, norm_type)
        self.fc2 = fc_block(in_channels, in_channels, None, norm_type)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [..., C] to the same shape."""
        check_last_dim("ResFCBlock", "x", x, self.in_channels)
        return self.activation(x + self.fc2(self.fc1(x)))  # type: ignore[no-any-return]
