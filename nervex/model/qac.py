"""Actor and action-value critics as two networks, for DDPG, TD3 and SAC."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nervex.model.encoder import ObsDim, build_encoder
from nervex.model.head import RegressionHead, ReparameterizationHead
from nervex.model.inputs import action_mask, head_sizes, masked, read_input
from nervex.model.mlp import EnsembleMLP, perceptron
from nervex.model.modes import QActorCriticBase, SoftActorCriticBase

LOG_SIGMA_RANGE = (-20.0, 2.0)


class Actor(nn.Module):
    """An encoder and a head.

    Args:
        encoder: gives the features of an observation.
        head: maps them to what the policy is made of.
    """

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, obs: Any) -> Any:
        """Returns the head's output for obs [B, ...]."""
        return self.head(self.encoder(obs))


class Critic(nn.Module):
    """Independent action-value networks on one encoder.

    Args:
        encoder: gives the features of an observation.
        critic_num: number K of networks.
        input_dim: length of the features and, if it is an input, of the action.
        hidden_dim_list: hidden layers.
        out_dim: 1, or number of actions.
        activation: ``'relu'`` or ``'tanh'``.
    """

    def __init__(
        self,
        encoder: nn.Module,
        critic_num: int,
        input_dim: int,
        hidden_dim_list: Sequence[int],
        out_dim: int,
        activation: str,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.main = EnsembleMLP(critic_num, input_dim, hidden_dim_list, out_dim, activation)

    def forward(self, obs: Any, action: Tensor | None = None, num: int | None = None) -> Tensor:
        """Returns float [K, B, out_dim] for obs [B, ...] and action [B, A]; of the first ``num`` networks if given."""
        features = self.encoder(obs)  # [B, E]
        return self.main(features if action is None else torch.cat([features, action], dim=-1), num)  # type: ignore[no-any-return]


class QAC(QActorCriticBase):
    """Deterministic policy and action values, for DDPG and TD3.

    The submodules ``actor`` and ``critic`` have no parameter in common; images have an encoder in each.

    Args:
        obs_dim: length of a vector observation, ``(C, H, W)`` of an image, or a mapping of them.
        action_dim: length A of the action.
        use_twin_critic: two critics (Fujimoto et al. 2018, https://arxiv.org/abs/1802.09477).
        hidden_dim_list: hidden layers of actor and critics.
        activation: ``'relu'`` or ``'tanh'``.
        encoder_type: of images, ``'conv2d'`` or ``'impala'``; None: conv2d. Vectors go to the hidden layers directly.
        embedding_dim: size of the embedding of an image.
    """

    def __init__(
        self,
        obs_dim: ObsDim,
        action_dim: int,
        use_twin_critic: bool = False,
        hidden_dim_list: Sequence[int] = (256, 256),
        activation: str = "relu",
        encoder_type: str | None = None,
        embedding_dim: int = 256,
    ) -> None:
        super().__init__()
        head_sizes(action_dim, "continuous")
        encoder, critic_encoder = (build_encoder(obs_dim, embedding_dim, None, encoder_type) for _ in range(2))
        size: int = encoder.out_dim  # type: ignore[assignment]
        self._twin = use_twin_critic
        self.actor = Actor(encoder, RegressionHead(size, action_dim, hidden_dim_list, activation, tanh=True))
        self.critic = Critic(critic_encoder, 1 + use_twin_critic, size + action_dim, hidden_dim_list, 1, activation)

    def compute_action(self, x: Any) -> dict[str, Any]:
        """Returns ``{'action': [B, A]}`` in [-1, 1] for ``{'obs': [B, ...]}``, or the observation itself."""
        return {"action": self.actor(read_input(x)[0])}

    def compute_q(self, x: Any) -> dict[str, Any]:
        """Returns ``{'q_value': [B]}``, [2, B] of twin critics.

        Args:
            x: ``obs`` [B, ...], ``action`` float [B, A], and ``critic_num``, the number of twin critics to ask (1: the
                first one), unless it is both.
        """
        q_value = self.critic(x["obs"], x["action"], x.get("critic_num")).squeeze(-1)  # [K, B]
        return {"q_value": q_value if self._twin else q_value[0]}


class SACNet(SoftActorCriticBase):
    """Normal policy (before tanh) and action values, for SAC.

    Haarnoja et al. 2018, https://arxiv.org/abs/1812.05905. The submodules ``actor`` and ``critic`` have no parameter in
    common. μ and log σ are two outputs of one network; log σ is clamped to [-20, 2].

    Args:
        obs_dim: length of a vector observation, ``(C, H, W)`` of an image, or a mapping of them.
        action_dim: length A of the action.
        use_twin_critic: two critics, otherwise one.
        hidden_dim_list: hidden layers of actor and critics.
        activation: ``'relu'`` or ``'tanh'``.
        encoder_type: of images, ``'conv2d'`` or ``'impala'``; None: conv2d. Vectors go to the hidden layers directly.
        embedding_dim: size of the embedding of an image.
    """

    def __init__(
        self,
        obs_dim: ObsDim,
        action_dim: int,
        use_twin_critic: bool = True,
        hidden_dim_list: Sequence[int] = (256, 256),
        activation: str = "relu",
        encoder_type: str | None = None,
        embedding_dim: int = 256,
    ) -> None:
        super().__init__()
        head_sizes(action_dim, "continuous")
        encoder, critic_encoder = (build_encoder(obs_dim, embedding_dim, None, encoder_type) for _ in range(2))
        size: int = encoder.out_dim  # type: ignore[assignment]
        head = ReparameterizationHead(
            size, action_dim, hidden_dim_list, activation, sigma_type="conditioned", log_sigma_range=LOG_SIGMA_RANGE
        )
        self.actor = Actor(encoder, head)
        self.critic = Critic(critic_encoder, 1 + use_twin_critic, size + action_dim, hidden_dim_list, 1, activation)

    def compute_action(self, x: Any) -> dict[str, Any]:
        """Returns ``{'logit': {'mu', 'sigma'}}`` float [B, A] (before tanh) for ``{'obs': [B, ...]}``, or the
        observation itself."""
        return {"logit": self.actor(read_input(x)[0])}

    def compute_q(self, x: Any) -> dict[str, Any]:
        """Returns ``{'q_value': [K, B]}`` of K critics for ``obs`` [B, ...] and ``action`` float [B, A]."""
        return {"q_value": self.critic(x["obs"], x["action"]).squeeze(-1)}


class DiscreteSACNet(SoftActorCriticBase):
    """Categorical policy and action values of all actions, for SAC with discrete actions.

    Christodoulou 2019, https://arxiv.org/abs/1910.07207. The submodules ``actor`` and ``critic`` have no parameter in
    common.

    Args:
        obs_dim: length of a vector observation, ``(C, H, W)`` of an image, or a mapping of them.
        action_dim: number of actions N.
        use_twin_critic: two critics, otherwise one.
        hidden_dim_list: hidden layers of actor and critics.
        activation: ``'relu'`` or ``'tanh'``.
        encoder_type: of images, ``'conv2d'`` or ``'impala'``; None: conv2d. Vectors go to the hidden layers directly.
        embedding_dim: size of the embedding of an image.
    """

    def __init__(
        self,
        obs_dim: ObsDim,
        action_dim: int,
        use_twin_critic: bool = True,
        hidden_dim_list: Sequence[int] = (256, 256),
        activation: str = "relu",
        encoder_type: str | None = None,
        embedding_dim: int = 256,
    ) -> None:
        super().__init__()
        head_sizes(action_dim, "discrete")
        encoder, critic_encoder = (build_encoder(obs_dim, embedding_dim, None, encoder_type) for _ in range(2))
        size: int = encoder.out_dim  # type: ignore[assignment]
        self.actor = Actor(encoder, perceptron(size, hidden_dim_list, action_dim, activation))
        self.critic = Critic(critic_encoder, 1 + use_twin_critic, size, hidden_dim_list, action_dim, activation)

    def compute_action(self, x: Any) -> dict[str, Any]:
        """Returns ``{'logit': [B, N]}``, -1e8 where ``action_mask`` of a mapping forbids the action, for
        ``{'obs': [B, ...]}``, or the observation itself."""
        obs, _, _ = read_input(x)
        return {"logit": masked(self.actor(obs), action_mask(obs))}

    def compute_q(self, x: Any) -> dict[str, Any]:
        """Returns ``{'q_value': [K, B, N]}`` of K critics, not masked, for ``{'obs': [B, ...]}``, or the observation
        itself."""
        return {"q_value": self.critic(read_input(x)[0])}


QValueAC = QAC
SAC = SACNet
