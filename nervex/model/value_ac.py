"""Policy and state value in one network, for on-policy algorithms."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nervex.model.encoder import ObsDim, build_encoder
from nervex.model.head import ReparameterizationHead
from nervex.model.inputs import action_mask, encode, head_sizes, masked, read_input
from nervex.model.mlp import init_orthogonal, perceptron
from nervex.model.modes import ValueActorCriticBase
from nervex.model.rnn import RecurrentCore, State, recurrent_settings
from nervex.utils.errors import ConfigError


class ValueAC(ValueActorCriticBase):
    """Actor-critic: the logits of a policy and V(s).

    Args:
        obs_dim: length of a vector observation, ``(C, H, W)`` of an image, or a mapping of them.
        action_dim: number of actions N, a tuple of them (one per head), or the length A of a continuous action.
        action_type: ``'discrete'``, ``'multi_discrete'`` or ``'continuous'``; None: one of the first two, by
            ``action_dim``.
        embedding_dim: size of the embedding (of each part of a mapping).
        hidden_dim_list: hidden layers of an fc encoder.
        head_hidden_dim: size of the hidden layers of both heads.
        head_layer_num: hidden layers of both heads; 0: each is one linear layer on the embedding.
        share_encoder: policy and value have one encoder (and recurrent layer) in common; otherwise one each.
        encoder_type: ``'fc'`` for vectors, ``'conv2d'`` or ``'impala'`` for images; None: fc or conv2d, by the shape.
        activation: ``'relu'`` or ``'tanh'``, of an fc encoder and the heads.
        norm_type: ``'LN'`` for layer norms in an fc encoder and the heads; None: none.
        ortho_init: orthogonal weights, scaled by √2 in hidden layers, by 0.01 in the last layer of the policy and by 1
            in that of the value; biases 0 (Engstrom et al. 2020; Andrychowicz et al. 2021). Otherwise those of torch.
        sigma_type: of a continuous policy, ``'independent'`` of the state or ``'conditioned'`` on it.
        log_sigma_init: log σ of a continuous policy at the beginning, if independent of the state.
        rnn_type: recurrent layer after the encoder, ``'lstm'`` or ``'gru'``; ``'none'`` or None: none.
        rnn_hidden_dim: size of the recurrent state; None: ``embedding_dim``. With encoders of their own, policy and
            value have such a state each, side by side in the tensors of ``prev_state`` and ``next_state``.
        lstm_kwargs: another way to ask for an LSTM: ``lstm_type`` (``none``, ``normal``, ``pytorch``), ``hidden_size``.
    """

    def __init__(
        self,
        obs_dim: ObsDim,
        action_dim: int | Sequence[int],
        action_type: str | None = None,
        embedding_dim: int = 64,
        hidden_dim_list: Sequence[int] = (128, 128),
        head_hidden_dim: int = 128,
        head_layer_num: int = 1,
        share_encoder: bool = True,
        encoder_type: str | None = None,
        activation: str = "relu",
        norm_type: str | None = None,
        ortho_init: bool = True,
        sigma_type: str = "independent",
        log_sigma_init: float = 0.0,
        rnn_type: str | None = None,
        rnn_hidden_dim: int | None = None,
        lstm_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if head_layer_num < 0:
            raise ConfigError(f"head_layer_num is {head_layer_num}; expected at least 0")
        self._kind, self._sizes = head_sizes(action_dim, action_type)
        rnn, hidden_dim = recurrent_settings(rnn_type, rnn_hidden_dim, lstm_kwargs, embedding_dim)

        def body() -> tuple[nn.Module, RecurrentCore | None]:
            encoder = build_encoder(obs_dim, embedding_dim, hidden_dim_list, encoder_type, norm_type, activation)
            size: int = encoder.out_dim  # type: ignore[assignment]
            return encoder, None if rnn is None else RecurrentCore(size, hidden_dim, rnn)

        self.encoder, self.rnn = body()
        self.critic_encoder: nn.Module | None = None
        self.critic_rnn: RecurrentCore | None = None
        if not share_encoder:
            self.critic_encoder, self.critic_rnn = body()
        self._hidden_dim = hidden_dim
        size: int = (self.rnn or self.encoder).out_dim  # type: ignore[assignment]
        hidden = [head_hidden_dim] * head_layer_num
        if self._kind == "continuous":
            self.actor: nn.Module = ReparameterizationHead(
                size, self._sizes[0], hidden, activation, norm_type, sigma_type, log_sigma_init
            )
        else:
            self.actor = perceptron(size, hidden, sum(self._sizes), activation, norm_type)
        self.critic = perceptron(size, hidden, 1, activation, norm_type)
        if ortho_init:
            init_orthogonal(self)
            init_orthogonal((self.actor.main if self._kind == "continuous" else self.actor)[-1], 0.01)  # type: ignore[index, arg-type]
            init_orthogonal(self.critic[-1], 1.0)

    def compute_action_value(
        self, x: Any, sequence: bool = False, enable_fast_timestep: bool = False
    ) -> dict[str, Any]:
        """Returns ``logit`` and ``value`` float [B]; a recurrent network adds ``next_state``.

        ``logit`` is float [B, N], a list of them for several heads, or ``{'mu', 'sigma'}`` float [B, A].

        Args:
            x: ``{'obs': [B, ...]}``, or the observation itself. A mapping of observations may hold ``action_mask``
                (bool [B, N]); the logits of what it does not allow are -1e8. A recurrent network takes ``prev_state``
                (tensors [B, H]) and ``begin`` (bool [B]: the state is set to zero before this row).
            sequence: the observation and ``begin`` are [T, B, ...], and so is the output; ``next_state`` is that after
                the last row.
            enable_fast_timestep: the same.
        """
        return self._compute(x, True, sequence or enable_fast_timestep)

    def compute_action(self, x: Any, sequence: bool = False, enable_fast_timestep: bool = False) -> dict[str, Any]:
        """Returns what :meth:`compute_action_value` does, without ``value``."""
        return self._compute(x, False, sequence or enable_fast_timestep)

    def _compute(self, x: Any, with_value: bool, many: bool) -> dict[str, Any]:
        obs, prev_state, begin = read_input(x)
        embedding = encode(self.encoder, obs, many)  # [B, E]
        state: State | None = None
        if self.rnn is not None:
            embedding, state = self.rnn(embedding, self._half(prev_state, 0), begin, many)  # [B, H]
        output = self._policy(embedding, obs)
        if with_value or self.critic_rnn is not None:
            if self.critic_encoder is not None:
                embedding = encode(self.critic_encoder, obs, many)  # [B, E]
            if self.critic_rnn is not None:
                embedding, other = self.critic_rnn(embedding, self._half(prev_state, 1), begin, many)  # [B, H]
                assert state is not None
                state = {key: torch.cat([state[key], other[key]], dim=-1) for key in state}  # [B, 2·H]
            if with_value:
                output["value"] = self.critic(embedding).squeeze(-1)  # [B]
        if state is not None:
            output["next_state"] = state
        return output

    def _half(self, state: Mapping[str, Tensor] | None, index: int) -> Mapping[str, Tensor] | None:
        """Returns the part of the policy (0) or of the value (1) of states that are side by side."""
        if state is None or self.critic_rnn is None:
            return state
        return {key: s.narrow(-1, index * self._hidden_dim, self._hidden_dim) for key, s in state.items()}

    def _policy(self, embedding: Tensor, obs: Any) -> dict[str, Any]:
        logit = self.actor(embedding)
        if self._kind == "discrete":
            return {"logit": masked(logit, action_mask(obs))}
        if self._kind == "continuous":
            return {"logit": logit}
        logits = list(logit.split(self._sizes, dim=-1))
        mask = action_mask(obs, self._sizes)
        if mask is None:
            return {"logit": logits}
        # the masks are given on, one per head, as plugins that sample read them
        return {"logit": [masked(*pair) for pair in zip(logits, mask, strict=True)], "action_mask": mask}


FCValueAC = partial(ValueAC, encoder_type="fc")
ConvValueAC = partial(ValueAC, encoder_type="conv2d")
