"""Layers with their normalization and activation, as one block."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from nervex.torch_utils.checks import check_last_dim, check_name, check_shape
from nervex.torch_utils.network.normalization import build_normalization
from nervex.torch_utils.noisy import NoisyLinear
from nervex.utils.errors import ConfigError

_INIT_TYPES = ("xavier", "kaiming", "orthogonal")
_PAD_MODES = {"zero": "zeros", "reflect": "reflect", "replication": "replicate"}
_NORMS = {  # of blocks whose input has so many dimensions behind its channels; None: channels come last
    None: (None, "BN", "LN", "SyncBN"),
    1: (None, "BN", "IN", "SyncBN"),
    2: (None, "BN", "IN", "SyncBN", "AdaptiveIN"),
}
Size = int | tuple[int, ...]


def sequential_pack(layers: Sequence[nn.Module]) -> nn.Sequential:
    """Returns the layers one after the other.

    Attribute ``out_channels`` (``out_features``) of the result is that of the last layer that has one.
    """
    packed = nn.Sequential(*layers)
    for name in ("out_channels", "out_features"):
        sizes = [getattr(layer, name) for layer in layers if hasattr(layer, name)]
        if sizes:
            setattr(packed, name, sizes[-1])
    return packed


def weight_init_(weight: Tensor, init_type: str = "xavier", activation: str | None = None) -> None:
    """Fills a weight anew, in place, from torch's generator.

    Args:
        weight: [out, in, ...].
        init_type: ``'xavier'`` (uniform, Glorot & Bengio 2010), ``'kaiming'`` (normal, He et al. 2015) or
            ``'orthogonal'`` (Saxe et al. 2014), with the gain of the activation.
        activation: that follows, as ``torch.nn.init.calculate_gain`` names it, such as ``'relu'``; None: none.

    Raises:
        ConfigError: no such initialization or activation, or the weight has less than two dimensions.
    """
    check_name("init_type", init_type, _INIT_TYPES)
    if weight.dim() < 2:
        raise ConfigError(f"weight_init_: 'weight' has shape {list(weight.shape)}, expected [out, in, ...]")
    name: Any = "linear" if activation is None else activation
    try:
        gain = nn.init.calculate_gain(name)
    except ValueError as e:
        raise ConfigError(f"weight_init_: unknown activation '{activation}'; expected 'relu', 'tanh', ...") from e
    if init_type == "xavier":
        nn.init.xavier_uniform_(weight, gain)
    elif init_type == "kaiming":
        nn.init.kaiming_normal_(weight, nonlinearity=name)
    else:
        nn.init.orthogonal_(weight, gain)


def conv1d_block(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
    activation: nn.Module | None = None,
    norm_type: str | None = None,
) -> nn.Sequential:
    """Returns a convolution [B, C, L] to [B, C', L'], then a normalization, then an activation.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups: as in ``torch.nn.Conv1d``.
        activation: module; None: none.
        norm_type: ``'BN'``, ``'IN'`` or ``'SyncBN'``; None: none.
    """
    conv = nn.Conv1d(in_channels, out_channels, kernel_size, stride, padding, dilation, groups)
    return _block(conv, (in_channels, out_channels), 1, activation, norm_type)


def conv2d_block(
    in_channels: int,
    out_channels: int,
    kernel_size: Size,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
    pad_type: str = "zero",
    activation: nn.Module | None = None,
    norm_type: str | None = None,
) -> nn.Sequential:
    """Returns a convolution [B, C, H, W] to [B, C', H', W'], then a normalization, then an activation.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups: as in ``torch.nn.Conv2d``.
        pad_type: what stands beyond the border: ``'zero'``, ``'reflect'`` or ``'replication'``.
        activation: module; None: none.
        norm_type: ``'BN'``, ``'IN'``, ``'SyncBN'`` or ``'AdaptiveIN'``; None: none.
    """
    check_name("pad_type", pad_type, tuple(_PAD_MODES))
    options: Any = {"stride": stride, "padding": padding, "dilation": dilation, "padding_mode": _PAD_MODES[pad_type]}
    size: Any = kernel_size
    conv = nn.Conv2d(in_channels, out_channels, size, groups=groups, **options)
    return _block(conv, (in_channels, out_channels), 2, activation, norm_type)


def deconv2d_block(
    in_channels: int,
    out_channels: int,
    kernel_size: Size,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    activation: nn.Module | None = None,
    norm_type: str | None = None,
) -> nn.Sequential:
    """Returns a transposed convolution [B, C, H, W] to [B, C', H', W'], then a normalization, then an activation.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, output_padding, groups: as in
            ``torch.nn.ConvTranspose2d``.
        activation, norm_type: as in :func:`conv2d_block`.
    """
    options: Any = {"stride": stride, "padding": padding, "output_padding": output_padding}
    size: Any = kernel_size
    conv = nn.ConvTranspose2d(in_channels, out_channels, size, groups=groups, **options)
    return _block(conv, (in_channels, out_channels), 2, activation, norm_type)


def fc_block(
    in_channels: int,
    out_channels: int,
    activation: nn.Module | None = None,
    norm_type: str | None = None,
    use_dropout: bool = False,
    dropout_probability: float = 0.5,
) -> nn.Sequential:
    """Returns a linear layer [..., in_channels] to [..., out_channels], then a normalization, an activation, a dropout.

    Args:
        in_channels, out_channels: features.
        activation: module; None: none.
        norm_type: ``'LN'``, or ``'BN'`` or ``'SyncBN'`` for inputs [B, in_channels]; None: none.
        use_dropout: drop features at random while training.
        dropout_probability: of each feature.
    """
    linear = nn.Linear(in_channels, out_channels)
    dropout = [nn.Dropout(dropout_probability)] if use_dropout else []
    return _block(linear, (in_channels, out_channels), None, activation, norm_type, dropout)


class NoiseLinearLayer(NoisyLinear):
    """:class:`NoisyLinear` with less noise at the beginning.

    Args:
        in_channels, out_channels: features.
        sigma0: σ at the beginning is ``sigma0`` / √in_channels.
    """

    def __init__(self, in_channels: int, out_channels: int, sigma0: float = 0.4) -> None:
        super().__init__(in_channels, out_channels, sigma0)


def noise_block(
    in_channels: int,
    out_channels: int,
    activation: nn.Module | None = None,
    norm_type: str | None = None,
    use_dropout: bool = False,
    dropout_probability: float = 0.5,
    sigma0: float = 0.4,
) -> nn.Sequential:
    """Returns what :func:`fc_block` does, with a :class:`NoiseLinearLayer`."""
    linear = NoiseLinearLayer(in_channels, out_channels, sigma0)
    dropout = [nn.Dropout(dropout_probability)] if use_dropout else []
    return _block(linear, (in_channels, out_channels), None, activation, norm_type, dropout)


ChannelShuffle = nn.ChannelShuffle


class NearestUpsample(nn.Upsample):
    """Images [B, C, H, W] to [B, C, s·H, s·W], each pixel repeated.

    Args:
        scale_factor: s, or one for each of H and W.
    """

    def __init__(self, scale_factor: float | tuple[float, float]) -> None:
        super().__init__(scale_factor=scale_factor, mode="nearest")


class BilinearUpsample(nn.Upsample):
    """Images [B, C, H, W] to [B, C, s·H, s·W], interpolated between the centers of pixels (``align_corners=False``).

    Args:
        scale_factor: s, or one for each of H and W.
    """

    def __init__(self, scale_factor: float | tuple[float, float]) -> None:
        super().__init__(scale_factor=scale_factor, mode="bilinear", align_corners=False)


class _Block(nn.Sequential):
    """A layer and what follows it, which takes what has the layer's channels and nothing else.

    Args:
        layer: first of all.
        others: those after it.
        sizes: channels before and after the layer.
        image_dim: dimensions behind the channels of the input; None: the channels are the last one.
    """

    def __init__(self, layer: nn.Module, others: Sequence[nn.Module], sizes: tuple[int, int], image_dim: int | None):
        super().__init__(layer, *others)
        self.in_channels, self.out_channels = sizes
        self._image_dim = image_dim

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, in_channels, ...] or [..., in_channels] to the same with ``out_channels``."""
        fn = type(self[0]).__name__
        if self._image_dim is None:
            check_last_dim(fn, "x", x, self.in_channels)
        else:
            check_shape(fn, "x", x, (None, self.in_channels, *[None] * self._image_dim))
        return super().forward(x)  # type: ignore[no-any-return]


def _block(
    layer: nn.Module,
    sizes: tuple[int, int],
    image_dim: int | None,
    activation: nn.Module | None,
    norm_type: str | None,
    last: Sequence[nn.Module] = (),
) -> nn.Sequential:
    check_name(f"norm_type of a {type(layer).__name__} block", norm_type, _NORMS[image_dim])
    norm = [] if norm_type is None else [build_normalization(norm_type, image_dim or 1)(sizes[1])]
    return _Block(layer, [*norm, *([] if activation is None else [activation]), *last], sizes, image_dim)
