"""Networks of policies that learn from recorded data."""

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import nn

from nervex.model.encoder import ObsDim, build_encoder
from nervex.model.head import ReparameterizationHead
from nervex.model.inputs import action_mask, head_sizes, masked, read_input
from nervex.model.mlp import perceptron
from nervex.model.modes import ModeNet
from nervex.model.qac import Actor, Critic

_LOG_SIGMA_RANGE = (-5.0, 2.0)  # recorded actions may be exactly alike


class PolicyNet(ModeNet):
    """A policy alone: categorical, or a normal distribution whose mean lies in [-1, 1]^A and whose σ does not depend on
    the state.

    Args:
        obs_dim: length of a vector observation, ``(C, H, W)`` of an image, or a mapping of them.
        action_dim: number of actions N, or length A of a continuous action.
        action_type: ``'discrete'`` or ``'continuous'``; None: discrete.
        hidden_dim_list: hidden layers.
        activation: ``'relu'`` or ``'tanh'``.
        encoder_type: of images, ``'conv2d'`` or ``'impala'``; None: conv2d. Vectors go to the hidden layers directly.
        embedding_dim: size of the embedding of an image.
    """

    modes: ClassVar[tuple[str, ...]] = ("compute_action",)

    def __init__(
        self,
        obs_dim: ObsDim,
        action_dim: int,
        action_type: str | None = None,
        hidden_dim_list: Sequence[int] = (256, 256),
        activation: str = "relu",
        encoder_type: str | None = None,
        embedding_dim: int = 256,
    ) -> None:
        super().__init__()
        self._kind, _ = head_sizes(action_dim, action_type)
        encoder = build_encoder(obs_dim, embedding_dim, None, encoder_type)
        size: int = encoder.out_dim  # type: ignore[assignment]
        if self._kind == "continuous":
            head: nn.Module = ReparameterizationHead(
                size, action_dim, hidden_dim_list, activation, log_sigma_range=_LOG_SIGMA_RANGE
            )
        else:
            head = perceptron(size, hidden_dim_list, action_dim, activation)
        self.actor = Actor(encoder, head)

    def compute_action(self, x: Any) -> dict[str, Any]:
        """Returns ``{'logit': [B, N]}``, -1e8 where ``action_mask`` of a mapping forbids the action, or
        ``{'logit': {'mu', 'sigma'}}`` float [B, A], for ``{'obs': [B, ...]}``, or the observation itself."""
        obs, _, _ = read_input(x)
        logit = self.actor(obs)
        if self._kind == "discrete":
            return {"logit": masked(logit, action_mask(obs))}
        return {"logit": {"mu": logit["mu"].tanh(), "sigma": logit["sigma"]}}


class IQLNet(PolicyNet):
    """The policy of :class:`PolicyNet` for continuous actions, two critics and a state value, with no parameter in
    common.

    Kostrikov et al. 2021, https://arxiv.org/abs/2110.06169.

    Args:
        obs_dim: length of a vector observation, ``(C, H, W)`` of an image, or a mapping of them.
        action_dim: length A of the action.
        hidden_dim_list: hidden layers of each.
        activation: ``'relu'`` or ``'tanh'``.
        encoder_type: of images, ``'conv2d'`` or ``'impala'``; None: conv2d. Vectors go to the hidden layers directly.
        embedding_dim: size of the embedding of an image.
    """

    modes = ("compute_action", "compute_q", "compute_value")

    def __init__(
        self,
        obs_dim: ObsDim,
        action_dim: int,
        hidden_dim_list: Sequence[int] = (256, 256),
        activation: str = "relu",
        encoder_type: str | None = None,
        embedding_dim: int = 256,
    ) -> None:
        super().__init__(obs_dim, action_dim, "continuous", hidden_dim_list, activation, encoder_type, embedding_dim)
        critic_encoder, value_encoder = (build_encoder(obs_dim, embedding_dim, None, encoder_type) for _ in range(2))
        size: int = critic_encoder.out_dim  # type: ignore[assignment]
        self.critic = Critic(critic_encoder, 2, size + action_dim, hidden_dim_list, 1, activation)
        self.value = nn.Sequential(value_encoder, perceptron(size, hidden_dim_list, 1, activation))

    def compute_q(self, x: Any) -> dict[str, Any]:
        """Returns ``{'q_value': [2, B]}`` for ``obs`` [B, ...] and ``action`` float [B, A]."""
        return {"q_value": self.critic(x["obs"], x["action"]).squeeze(-1)}

    def compute_value(self, x: Any) -> dict[str, Any]:
        """Returns ``{'value': [B]}`` for ``{'obs': [B, ...]}``, or the observation itself."""
        return {"value": self.value(read_input(x)[0]).squeeze(-1)}
