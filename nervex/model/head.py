"""Heads: embedding to action values, logits, actions or distributions."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nervex.model.mlp import perceptron
from nervex.torch_utils.noisy import NoisyLinear
from nervex.utils.errors import ConfigError, did_you_mean

_DISTRIBUTION_KEYS = ("v_min", "v_max", "n_atom")


class DiscreteHead(nn.Module):
    """Hidden layers, then one value per action, or ``n_atom`` scores per action.

    Args:
        hidden_dim: size of the embedding and of the hidden layers.
        action_dim: number of actions N.
        layer_num: hidden layers.
        activation: ``'relu'`` or ``'tanh'``.
        noise: noisy layers, see :class:`~nervex.torch_utils.noisy.NoisyLinear`.
        n_atom: scores per action; None: one, without a dimension of its own.
    """

    def __init__(
        self,
        hidden_dim: int,
        action_dim: int,
        layer_num: int = 1,
        activation: str = "relu",
        noise: bool = False,
        n_atom: int | None = None,
    ) -> None:
        super().__init__()
        linear = NoisyLinear if noise else nn.Linear
        size = action_dim * (n_atom or 1)
        self.main = perceptron(hidden_dim, [hidden_dim] * layer_num, size, activation, linear=linear)
        self._shape = None if n_atom is None else (action_dim, n_atom)

    def forward(self, x: Tensor) -> Tensor:
        """Maps an embedding [B, hidden_dim] to values [B, N] or scores [B, N, n_atom]."""
        out: Tensor = self.main(x)
        return out if self._shape is None else out.unflatten(-1, self._shape)


class DuelingHead(nn.Module):
    """Dueling head.

        Q(s, a) = V(s) + A(s, a) − mean_a' A(s, a')

    Wang et al. 2016, https://arxiv.org/abs/1511.06581, eq. 9; per atom for distributions, Hessel et al. 2018,
    https://arxiv.org/abs/1710.02298.

    Args:
        hidden_dim: size of the embedding and of the hidden layers.
        action_dim: number of actions N.
        a_layer_num, v_layer_num: hidden layers of the advantage and of the value stream.
        activation, noise, n_atom: as in :class:`DiscreteHead`.
    """

    def __init__(
        self,
        hidden_dim: int,
        action_dim: int,
        a_layer_num: int = 1,
        v_layer_num: int = 1,
        activation: str = "relu",
        noise: bool = False,
        n_atom: int | None = None,
    ) -> None:
        super().__init__()
        self.advantage = DiscreteHead(hidden_dim, action_dim, a_layer_num, activation, noise, n_atom)
        self.value = DiscreteHead(hidden_dim, 1, v_layer_num, activation, noise, n_atom)
        self._action_axis = -1 if n_atom is None else -2

    def forward(self, x: Tensor) -> Tensor:
        """Maps an embedding [B, hidden_dim] to values [B, N] or scores [B, N, n_atom]."""
        advantage = self.advantage(x)  # [B, N] or [B, N, n_atom]
        return advantage + (self.value(x) - advantage.mean(dim=self._action_axis, keepdim=True))  # type: ignore[no-any-return]


class DistributionHead(nn.Module):
    """Categorical distributions of the return.

        p(s, a) = softmax_i scores(s, a)_i,  Q(s, a) = Σ_i z_i·p_i(s, a)
        z_i = v_min + i·(v_max − v_min) / (n_atom − 1)

    Bellemare et al. 2017, https://arxiv.org/abs/1707.06887.

    Args:
        scores: head that gives scores [B, N, n_atom].
        v_min, v_max: first and last atom.
        n_atom: number of atoms.
    """

    support: Tensor

    def __init__(self, scores: nn.Module, v_min: float, v_max: float, n_atom: int) -> None:
        super().__init__()
        if n_atom < 2 or not v_min < v_max:
            raise ConfigError(
                f"a distribution over n_atom = {n_atom} values from v_min = {v_min} to v_max = {v_max}; expected at "
                "least 2, and v_min below v_max"
            )
        self.scores = scores
        self.register_buffer("support", torch.linspace(v_min, v_max, n_atom), persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Maps an embedding [B, hidden_dim] to values [B, N] and probabilities [B, N, n_atom]."""
        probability = torch.softmax(self.scores(x), dim=-1)  # [B, N, n_atom]
        return probability @ self.support, probability


class RegressionHead(nn.Module):
    """A continuous action.

    Args:
        input_dim: size of the embedding.
        action_dim: length A of the action.
        hidden_dim_list: sizes of the hidden layers.
        activation: ``'relu'`` or ``'tanh'``.
        norm_type: ``'LN'`` or None, see :func:`~nervex.model.mlp.mlp`.
        tanh: put the result into (-1, 1).
    """

    def __init__(
        self,
        input_dim: int,
        action_dim: int,
        hidden_dim_list: Sequence[int] = (),
        activation: str = "relu",
        norm_type: str | None = None,
        tanh: bool = False,
    ) -> None:
        super().__init__()
        self.main = perceptron(input_dim, hidden_dim_list, action_dim, activation, norm_type)
        self._tanh = tanh

    def forward(self, x: Tensor) -> Tensor:
        """Maps an embedding [B, input_dim] to float [B, A]."""
        out: Tensor = self.main(x)
        return out.tanh() if self._tanh else out


class ReparameterizationHead(nn.Module):
    """Mean and standard deviation of a normal distribution with a diagonal covariance.

    Args:
        input_dim: size of the embedding.
        action_dim: length A of the action.
        hidden_dim_list: sizes of the hidden layers.
        activation: ``'relu'`` or ``'tanh'``.
        norm_type: ``'LN'`` or None, see :func:`~nervex.model.mlp.mlp`.
        sigma_type: ``'independent'``: one parameter log σ per dimension; ``'conditioned'``: log σ is an output of the
            network.
        log_sigma_init: log σ at the beginning, when it is independent of the state.
        log_sigma_range: log σ is clamped to it.

    Raises:
        ConfigError: unknown ``sigma_type``, or an empty range.
    """

    def __init__(
        self,
        input_dim: int,
        action_dim: int,
        hidden_dim_list: Sequence[int] = (),
        activation: str = "relu",
        norm_type: str | None = None,
        sigma_type: str = "independent",
        log_sigma_init: float = 0.0,
        log_sigma_range: tuple[float, float] = (-20.0, 2.0),
    ) -> None:
        super().__init__()
        known = ("independent", "conditioned")
        if sigma_type not in known:
            raise ConfigError(
                f"unknown sigma_type '{sigma_type}'{did_you_mean(sigma_type, known)} (known: {', '.join(known)})"
            )
        self._low, self._high = log_sigma_range
        if not self._low < self._high or not self._low <= log_sigma_init <= self._high:
            raise ConfigError(
                f"log_sigma_init is {log_sigma_init}, log_sigma_range {list(log_sigma_range)}; expected a value within "
                "an increasing range"
            )
        conditioned = sigma_type == "conditioned"
        out = action_dim * (1 + conditioned)
        self.main = perceptron(input_dim, hidden_dim_list, out, activation, norm_type)
        self.log_sigma = None if conditioned else nn.Parameter(torch.full((action_dim,), float(log_sigma_init)))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Maps an embedding [B, input_dim] to ``{'mu': [B, A], 'sigma': [B, A]}``."""
        out = self.main(x)
        if self.log_sigma is None:
            mu, log_sigma = out.chunk(2, dim=-1)
            return {"mu": mu, "sigma": log_sigma.clamp(self._low, self._high).exp()}
        return {"mu": out, "sigma": self.log_sigma.clamp(self._low, self._high).exp().expand_as(out)}


def build_value_head(embedding_dim: int, action_dim: int, options: Mapping[str, Any]) -> nn.Module:
    """Returns a head of action values.

    Args:
        embedding_dim: size of the embedding.
        action_dim: number of actions N.
        options: ``dueling``, ``distribution`` (bool); ``v_min``, ``v_max``, ``n_atom`` of a distribution; the others
            are arguments of :class:`DuelingHead` or :class:`DiscreteHead`.

    Raises:
        ConfigError: an option that such a head does not take, or a bad value.
    """
    layers = dict(options)
    dueling, distribution = layers.pop("dueling"), layers.pop("distribution")
    v_min, v_max, n_atom = (layers.pop(key) for key in _DISTRIBUTION_KEYS)
    known = ("a_layer_num", "v_layer_num") if dueling else ("layer_num",)
    for key in layers:
        if key not in (*known, "activation", "noise"):
            every = ("dueling", "distribution", *_DISTRIBUTION_KEYS, *known, "activation", "noise")
            raise ConfigError(
                f"head_kwargs has '{key}', which a head {'with' if dueling else 'without'} dueling does not "
                f"take{did_you_mean(key, every)} (it takes: {', '.join(every)})"
            )
    for key in known:
        if layers.get(key, 1) < 0:
            raise ConfigError(f"head_kwargs.{key} is {layers[key]}; expected at least 0")
    head = DuelingHead if dueling else DiscreteHead
    if not distribution:
        return head(embedding_dim, action_dim, **layers)
    return DistributionHead(head(embedding_dim, action_dim, n_atom=n_atom, **layers), v_min, v_max, n_atom)
