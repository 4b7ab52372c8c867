"""Networks for discrete actions: an encoder, a recurrent layer on request, and a head of action values."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn

from nervex.model.encoder import ObsDim, build_encoder
from nervex.model.head import build_value_head
from nervex.model.inputs import action_mask, encode, masked, read_input
from nervex.model.rnn import RecurrentCore, recurrent_settings
from nervex.torch_utils.noisy import reset_noise


class DiscreteNet(nn.Module):
    """Action values (or logits) of discrete and multi-discrete actions.

    Args:
        obs_dim: length of a vector observation, ``(C, H, W)`` of an image, or a mapping of them.
        action_dim: number of actions N, or a tuple of them, one per head.
        embedding_dim: size of the embedding (of each part of a mapping).
        hidden_dim_list: hidden layers of an fc encoder.
        dueling: use a dueling head; works inside ``head_kwargs`` too.
        encoder_type: ``'fc'`` for vectors, ``'conv2d'`` or ``'impala'`` for images; None: fc or conv2d, by the shape.
        head_kwargs: further arguments of the head (``a_layer_num``, ``v_layer_num``; without dueling ``layer_num``).
        norm_type: ``'LN'`` for layer norms in an fc encoder; None: none.
        activation: ``'relu'`` or ``'tanh'``, of an fc encoder and the head.
        distribution: the head gives distributions of the return; works inside ``head_kwargs`` too, as the following.
        noise: the head has noisy layers.
        v_min: first atom of a distribution.
        v_max: last atom of a distribution.
        n_atom: number of atoms of a distribution.
        rnn_type: recurrent layer after the encoder, ``'lstm'`` or ``'gru'``; ``'none'`` or None: none.
        rnn_hidden_dim: size of the recurrent state; None: ``embedding_dim``.
        lstm_kwargs: another way to ask for an LSTM: ``lstm_type`` (``none``, ``normal``, ``pytorch``), ``hidden_size``.
    """

    def __init__(
        self,
        obs_dim: ObsDim,
        action_dim: int | Sequence[int],
        embedding_dim: int = 64,
        hidden_dim_list: Sequence[int] = (128, 128),
        dueling: bool = True,
        encoder_type: str | None = None,
        head_kwargs: Mapping[str, Any] | None = None,
        norm_type: str | None = None,
        activation: str = "relu",
        distribution: bool = False,
        noise: bool = False,
        v_min: float = -10.0,
        v_max: float = 10.0,
        n_atom: int = 51,
        rnn_type: str | None = None,
        rnn_hidden_dim: int | None = None,
        lstm_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        kind, hidden_dim = recurrent_settings(rnn_type, rnn_hidden_dim, lstm_kwargs, embedding_dim)
        options = {"dueling": dueling, "distribution": distribution, "noise": noise, "v_min": v_min, "v_max": v_max,
                   "n_atom": n_atom, "activation": activation, **(head_kwargs or {})}  # fmt: skip
        self.encoder = build_encoder(obs_dim, embedding_dim, hidden_dim_list, encoder_type, norm_type, activation)
        size: int = self.encoder.out_dim  # type: ignore[assignment]
        self.rnn = None if kind is None else RecurrentCore(size, hidden_dim, kind)
        self._several = not isinstance(action_dim, int)
        self._sizes: Sequence[int] = [action_dim] if isinstance(action_dim, int) else list(action_dim)
        self._distribution = bool(options["distribution"])
        size = size if self.rnn is None else self.rnn.out_dim
        self.head = nn.ModuleList([build_value_head(size, n, options) for n in self._sizes])

    def forward(
        self, x: Any, info: Any = None, sequence: bool = False, enable_fast_timestep: bool = False
    ) -> dict[str, Any]:
        """Returns ``logit`` float [B, N], ``distribution`` [B, N, n_atom] (probabilities) if asked for, lists of them
        for several heads; a recurrent network adds ``next_state``.

        Args:
            x: ``{'obs': [B, ...]}``, or the observation itself. A mapping of observations may hold ``action_mask``
                (bool [B, N]); the logits of what it does not allow are -1e8. A recurrent network takes ``prev_state``
                (tensors [B, H]) and ``begin`` (bool [B]: the state is set to zero before this row).
            info: not used.
            sequence: the observation and ``begin`` are [T, B, ...], and so is the output; ``next_state`` is that after
                the last row.
            enable_fast_timestep: the same.
        """
        obs, prev_state, begin = read_input(x)
        many = sequence or enable_fast_timestep
        embedding = encode(self.encoder, obs, many)  # [B, E]
        state = None
        if self.rnn is not None:
            embedding, state = self.rnn(embedding, prev_state, begin, many)  # [B, H]
        out: list[Any] = [head(embedding) for head in self.head]
        output = self._output(out, obs)
        if self.rnn is not None:
            output["next_state"] = state
        return output

    def reset_noise(self) -> None:
        """Draws new noise for the noisy layers."""
        reset_noise(self)

    def _output(self, out: list[Any], obs: Any) -> dict[str, Any]:
        logit = [value for value, _ in out] if self._distribution else out
        output: dict[str, Any] = {}
        mask = action_mask(obs, self._sizes if self._several else None)
        if mask is not None:
            logit = [masked(*pair) for pair in zip(logit, mask if self._several else [mask], strict=True)]
        output["logit"] = logit if self._several else logit[0]
        if self._distribution:
            distribution = [p for _, p in out]
            output["distribution"] = distribution if self._several else distribution[0]
        if mask is not None and self._several:
            output["action_mask"] = mask  # one per head, as plugins that sample read it
        return output


FCDiscreteNet = partial(DiscreteNet, encoder_type="fc")
ConvDiscreteNet = partial(DiscreteNet, encoder_type="conv2d")
FCRDiscreteNet = partial(DiscreteNet, encoder_type="fc", rnn_type="lstm")
ConvRDiscreteNet = partial(DiscreteNet, encoder_type="conv2d", rnn_type="lstm")
NoiseFCDiscreteNet = partial(DiscreteNet, encoder_type="fc", noise=True)
NoiseConvDiscreteNet = partial(DiscreteNet, encoder_type="conv2d", noise=True)
NoiseDistributionFCDiscreteNet = partial(DiscreteNet, encoder_type="fc", noise=True, distribution=True)
NoiseDistributionConvDiscreteNet = partial(DiscreteNet, encoder_type="conv2d", noise=True, distribution=True)
FCDQN = FCDiscreteNet
ConvDQN = ConvDiscreteNet
FCDRQN = FCRDiscreteNet
ConvDRQN = ConvRDiscreteNet
