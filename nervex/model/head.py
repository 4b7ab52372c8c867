"""Heads: embedding to action values."""

from torch import Tensor, nn

from nervex.model.encoder import mlp


class DiscreteHead(nn.Module):
    """Hidden layers, then one value per action.

    Args:
        hidden_dim: size of the embedding and of the hidden layers.
        action_dim: number of actions N.
        layer_num: hidden layers.
    """

    def __init__(self, hidden_dim: int, action_dim: int, layer_num: int = 1) -> None:
        super().__init__()
        self.main = nn.Sequential(*mlp([hidden_dim] * (layer_num + 1)), nn.Linear(hidden_dim, action_dim))

    def forward(self, x: Tensor) -> Tensor:
        """Maps an embedding [B, hidden_dim] to values [B, N]."""
        return self.main(x)  # type: ignore[no-any-return]


class DuelingHead(nn.Module):
    """Dueling head.

        Q(s, a) = V(s) + A(s, a) − mean_a' A(s, a')

    Wang et al. 2016, https://arxiv.org/abs/1511.06581, eq. 9.

    Args:
        hidden_dim: size of the embedding and of the hidden layers.
        action_dim: number of actions N.
        a_layer_num, v_layer_num: hidden layers of the advantage and of the value stream.
    """

    def __init__(self, hidden_dim: int, action_dim: int, a_layer_num: int = 1, v_layer_num: int = 1) -> None:
        super().__init__()
        self.advantage = DiscreteHead(hidden_dim, action_dim, a_layer_num)
        self.value = DiscreteHead(hidden_dim, 1, v_layer_num)

    def forward(self, x: Tensor) -> Tensor:
        """Maps an embedding [B, hidden_dim] to values [B, N]."""
        advantage = self.advantage(x)  # [B, N]
        return advantage + (self.value(x) - advantage.mean(dim=-1, keepdim=True))  # type: ignore[no-any-return]
