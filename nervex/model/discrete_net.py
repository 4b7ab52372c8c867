"""Networks for discrete actions: an encoder and a head of action values."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from nervex.model.encoder import ConvEncoder, FCEncoder
from nervex.model.head import DiscreteHead, DuelingHead
from nervex.utils.errors import ConfigError, did_you_mean

_ENCODERS = ("fc", "conv2d")


class DiscreteNet(nn.Module):
    """Action values (or logits) of discrete and multi-discrete actions.

    Args:
        obs_dim: length of a vector observation, or ``(C, H, W)`` of an image.
        action_dim: number of actions N, or a tuple of them, one per head.
        embedding_dim: size of the embedding.
        hidden_dim_list: hidden layers of an fc encoder.
        dueling: use a dueling head; works inside ``head_kwargs`` too.
        encoder_type: ``'fc'`` or ``'conv2d'``.
        head_kwargs: further arguments of the head (``a_layer_num``, ``v_layer_num``).
        norm_type: ``'LN'`` for layer norms in an fc encoder; None: none.
    """

    def __init__(
        self,
        obs_dim: int | Sequence[int],
        action_dim: int | Sequence[int],
        embedding_dim: int = 64,
        hidden_dim_list: Sequence[int] = (128, 128),
        dueling: bool = True,
        encoder_type: str = "fc",
        head_kwargs: Mapping[str, Any] | None = None,
        norm_type: str | None = None,
    ) -> None:
        super().__init__()
        if encoder_type not in _ENCODERS:
            raise ConfigError(f"unknown encoder '{encoder_type}'{did_you_mean(encoder_type, _ENCODERS)}")
        if encoder_type == "fc":
            self.encoder: nn.Module = FCEncoder(obs_dim, hidden_dim_list, embedding_dim, norm_type)
        else:
            self.encoder = ConvEncoder(obs_dim, embedding_dim)  # type: ignore[arg-type]
        kwargs = dict(head_kwargs or {})
        head = DuelingHead if kwargs.pop("dueling", dueling) else DiscreteHead
        self._several = not isinstance(action_dim, int)
        sizes: Sequence[int] = [action_dim] if isinstance(action_dim, int) else action_dim
        self.head = nn.ModuleList([head(embedding_dim, n, **kwargs) for n in sizes])

    def forward(self, x: Any, info: Any = None) -> dict[str, Any]:
        """Returns ``{'logit': float [B, N]}``, a list of them for several heads.

        Args:
            x: ``{'obs': [B, *obs_dim]}``, or the observation itself.
            info: not used.
        """
        obs: Tensor = x["obs"] if isinstance(x, Mapping) else x
        embedding = self.encoder(obs)  # [B, embedding_dim]
        logit = [head(embedding) for head in self.head]
        return {"logit": logit if self._several else logit[0]}


FCDiscreteNet = partial(DiscreteNet, encoder_type="fc")
ConvDiscreteNet = partial(DiscreteNet, encoder_type="conv2d")
FCDQN = FCDiscreteNet
ConvDQN = ConvDiscreteNet
