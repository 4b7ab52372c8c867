"""Between lists of things and maps on which they stand."""

import torch
from torch import Tensor, nn

from nervex.torch_utils.checks import check_index, check_name, check_range, check_shape

_TYPES = ("add", "cover")


class ScatterConnection(nn.Module):
    """Writes the features of M entities into an empty map at their places.

    Vinyals et al. 2019, https://doi.org/10.1038/s41586-019-1724-z.

    Args:
        scatter_type: of several at one place: ``'add'`` gives their sum, ``'cover'`` the last one.
    """

    def __init__(self, scatter_type: str = "add") -> None:
        super().__init__()
        check_name("scatter_type", scatter_type, _TYPES)
        self.scatter_type = scatter_type

    def forward(self, x: Tensor, spatial_size: tuple[int, int], location: Tensor) -> Tensor:
        """Returns the map, of the dtype of ``x``, [B, N, H, W].

        Args:
            x: features, [B, M, N].
            spatial_size: (H, W).
            location: row (0 to H - 1) and column (0 to W - 1) of each entity, int [B, M, 2].
        """
        fn, (height, width) = "ScatterConnection", spatial_size
        check_shape(fn, "x", x, (None, None, None))
        batch, count, size = x.shape
        check_shape(fn, "location", location, (batch, count, 2))
        check_index(fn, "location", location)
        check_range(fn, "location rows", location[..., 0], 0, height)
        check_range(fn, "location columns", location[..., 1], 0, width)
        place = location[..., 0].long() * width + location[..., 1].long()  # [B, M]
        flat = x.new_zeros(batch, height * width, size)  # [B, H·W, N]
        if self.scatter_type == "add":
            flat = flat.scatter_add(1, place.unsqueeze(-1).expand_as(x), x)
        else:
            # torch does not say which of several writes wins: the last one is looked for
            order = torch.arange(count, device=x.device).expand(batch, -1)  # [B, M]
            none = order.new_full((batch, height * width), -1)
            last = none.scatter_reduce(1, place, order, "amax")  # [B, H·W]
            if count:
                found = x.gather(1, last.clamp(min=0).unsqueeze(-1).expand(-1, -1, size))
                flat = torch.where((last >= 0).unsqueeze(-1), found, flat)
        return flat.transpose(1, 2).reshape(batch, size, height, width)


class SoftArgmax(nn.Module):
    """The mean place under a softmax over a map: an argmax with a gradient.

    Levine et al. 2016, https://arxiv.org/abs/1504.00702, section 5.1, in pixels.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, 1, H, W] to the row and the column, float [B, 2]: Σ p_hw·(h, w)."""
        check_shape("SoftArgmax", "x", x, (None, 1, None, None))
        prob = x.flatten(1).softmax(-1).view_as(x).squeeze(1)  # [B, H, W]
        rows, columns = (torch.arange(n, device=x.device, dtype=x.dtype) for n in x.shape[2:])
        return torch.stack([prob.sum(2) @ rows, prob.sum(1) @ columns], dim=-1)
