"""Normalization layers by name, one that takes its scale from outside, and one over groups of processes."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nervex.torch_utils.checks import check_name, check_shape
from nervex.utils.errors import ConfigError, SpecError

_PER_DIM: dict[str, tuple[type[nn.Module], ...]] = {
    "BN": (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
    "IN": (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
}
_NAMES = (*_PER_DIM, "LN", "SyncBN", "AdaptiveIN")


def build_normalization(norm_type: str, dim: int | None = None) -> Callable[..., nn.Module]:
    """Returns the class of a normalization layer, to be called with the number of features.

    Args:
        norm_type: ``'BN'`` (Ioffe & Szegedy 2015) or ``'IN'`` (Ulyanov et al. 2016), with ``dim``; ``'LN'`` (Ba et al.
            2016), ``'SyncBN'`` (:class:`GroupSyncBatchNorm`) or ``'AdaptiveIN'``
            (:class:`AdaptiveInstanceNorm2d`), without.
        dim: dimensions beside batch and channels: 1, 2 or 3 (vectors [B, C] go with 1).

    Raises:
        ConfigError: no such layer, or ``dim`` does not fit.
    """
    check_name("norm_type", norm_type, _NAMES)
    if norm_type in _PER_DIM:
        if dim not in (1, 2, 3):
            raise ConfigError(f"build_normalization: '{norm_type}' got dim {dim}, expected 1, 2 or 3")
        return _PER_DIM[norm_type][dim - 1]
    others: dict[str, type[nn.Module]] = {
        "LN": nn.LayerNorm,
        "SyncBN": GroupSyncBatchNorm,
        "AdaptiveIN": AdaptiveInstanceNorm2d,
    }
    return others[norm_type]


class AdaptiveInstanceNorm2d(nn.Module):
    """Instance normalization whose scale and shift come from outside, one pair per image and channel.

        y = weight·(x − mean(x)) / √(var(x) + ε) + bias,  mean and variance over H and W

    Huang & Belongie 2017, https://arxiv.org/abs/1703.06868, eq. 8. :meth:`set_style` comes before each forward with
    another batch.

    Args:
        num_features: channels C.
        eps: ε.
    """

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_features, self.eps = num_features, eps
        self._style: tuple[Tensor, Tensor] | None = None

    def set_style(self, weight: Tensor, bias: Tensor) -> None:
        """Takes the scale and the shift of the next batch, both float [B, C]."""
        check_shape("AdaptiveInstanceNorm2d", "weight", weight, (None, self.num_features))
        check_shape("AdaptiveInstanceNorm2d", "bias", bias, tuple(weight.shape))
        self._style = weight, bias

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, C, H, W] to the same shape."""
        if self._style is None:
            raise SpecError("AdaptiveInstanceNorm2d: there is no style yet; call set_style(weight, bias) first")
        weight, bias = (t[:, :, None, None] for t in self._style)
        check_shape("AdaptiveInstanceNorm2d", "x", x, (len(weight), self.num_features, None, None))
        return torch.addcmul(bias, weight, F.instance_norm(x, eps=self.eps))


class GroupSyncBatchNorm(nn.SyncBatchNorm):
    """Batch normalization whose statistics are those of the batches of a group of processes together.

    Over ``torch.nn.SyncBatchNorm``, so the statistics are exchanged on GPUs only. In one process, where
    ``torch.distributed`` is not initialized, it is plain batch normalization on any device.

    Args:
        num_features: channels C of [B, C, ...].
        bn_group_size: neighboring processes in a group, a divisor of their number; None: all.
        eps, momentum, affine, track_running_stats: as in ``torch.nn.BatchNorm2d``.

    Raises:
        ConfigError: the number of processes is no multiple of ``bn_group_size``.
    """

    def __init__(
        self,
        num_features: int,
        bn_group_size: int | None = None,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        group = _process_group(bn_group_size)
        super().__init__(num_features, eps, momentum, affine, track_running_stats, process_group=group)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, C, ...] to the same shape."""
        if x.dim() < 2 or x.shape[1] != self.num_features:
            raise SpecError(
                f"GroupSyncBatchNorm: 'x' has shape {list(x.shape)}, expected [B, {self.num_features}, ...]"
            )
        return super().forward(x)


def _process_group(size: int | None) -> object | None:
    """Returns the group of this process; None: all processes, or there is one only."""
    several = torch.distributed.is_available() and torch.distributed.is_initialized()
    world = torch.distributed.get_world_size() if several else 1
    if size is None or size == world:
        return None
    if size < 1 or world % size:
        raise ConfigError(
            f"GroupSyncBatchNorm: bn_group_size is {size} with {world} process(es), expected a divisor of their number"
        )
    return torch.distributed.new_subgroups(group_size=size)[0]  # type: ignore[no-any-return]
