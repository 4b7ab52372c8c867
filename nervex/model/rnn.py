"""The recurrent part of a network: single steps while acting, sequences with resets inside while learning."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from nervex.utils.errors import ConfigError, did_you_mean

State = dict[str, Tensor]

_TYPES = ("none", "lstm", "gru")
_LSTM_TYPES = ("none", "normal", "pytorch")
_KEEP_BIAS = 1.0
_RUN_COST = 4  # a run of the layer over a few rows costs about as much as this many single steps


class RecurrentCore(nn.Module):
    """One LSTM (Hochreiter & Schmidhuber 1997) or GRU (Cho et al. 2014, https://arxiv.org/abs/1406.1078) layer.

    Biases begin at 0, and that of the gate which keeps the state at 1: at 0 half of the state, and of the gradient that
    flows back along it, would be lost at every row (Gers et al. 2000, https://doi.org/10.1162/089976600300015015;
    Jozefowicz et al. 2015, http://proceedings.mlr.press/v37/jozefowicz15.html).

    The state is a dict of tensors [B, H]: ``h``, and ``c`` of an LSTM; None stands for zeros.

    Args:
        input_dim: size of the input.
        hidden_dim: size H of the state and of the output.
        rnn_type: ``'lstm'`` or ``'gru'``.
    """

    def __init__(self, input_dim: int, hidden_dim: int, rnn_type: str = "lstm") -> None:
        super().__init__()
        if rnn_type not in _TYPES[1:]:
            raise ConfigError(f"unknown rnn_type '{rnn_type}'{did_you_mean(rnn_type, _TYPES)} (known: lstm, gru)")
        if hidden_dim < 1:
            raise ConfigError(f"rnn_hidden_dim is {hidden_dim}; expected at least 1")
        lstm = rnn_type == "lstm"
        self.layer: nn.LSTM | nn.GRU = (nn.LSTM if lstm else nn.GRU)(input_dim, hidden_dim)
        layer: Any = self.layer
        with torch.no_grad():
            layer.bias_ih_l0.zero_()
            layer.bias_hh_l0.zero_()
            layer.bias_ih_l0[hidden_dim : 2 * hidden_dim] = _KEEP_BIAS  # LSTM: i, f, g, o; GRU: r, z, n
        self.out_dim = hidden_dim
        self._keys = ("h", "c") if lstm else ("h",)

    def forward(
        self, x: Tensor, state: Mapping[str, Tensor] | None = None, begin: Tensor | None = None, sequence: bool = False
    ) -> tuple[Tensor, State]:
        """Makes one step, or one per row of a sequence.

        Args:
            x: float [B, input_dim], or [T, B, input_dim] when ``sequence``.
            state: before the first row, tensors [B, H]; None: zeros.
            begin: bool [B], or [T, B]: where true, the state is set to zero before that row; None: nowhere.
            sequence: whether ``x`` has the dimension T.

        Returns:
            Output [B, H] or [T, B, H], and the state after the last row.
        """
        if state is None:
            zero = x.new_zeros(x.shape[-2], self.out_dim)
            held = [zero] * len(self._keys)
        else:
            held = [state[key] for key in self._keys]
        if not sequence:
            held = self._step(x, held if begin is None else _reset(held, begin))
            return held[0], dict(zip(self._keys, held, strict=True))
        out, held = self._sequence(x, held, begin)
        return out, dict(zip(self._keys, held, strict=True))

    def _step(self, x: Tensor, held: list[Tensor]) -> list[Tensor]:
        layer: Any = self.layer
        weights = layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0, layer.bias_hh_l0
        if len(held) == 2:
            return list(torch.lstm_cell(x, held, *weights))
        return [torch.gru_cell(x, held[0], *weights)]

    def _sequence(self, x: Tensor, held: list[Tensor], begin: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """Runs the whole layer between one reset and the next, or single steps where that would be many runs."""
        if torch.compiler.is_compiling():
            return self._rows(x, held, begin)
        resets = [False] * len(x) if begin is None else begin.any(dim=1).tolist()
        starts = [0, *(t for t in range(1, len(x)) if resets[t])]
        advance = self._run
        if _RUN_COST * len(starts) > len(x):
            starts, advance = [*range(len(x))], self._row
        lengths = [end - start for start, end in pairwise([*starts, len(x)])]
        out = []
        for start, piece in zip(starts, x.split(lengths), strict=True):
            if begin is not None and resets[start]:
                held = _reset(held, begin[start])
            rows, held = advance(piece, held)
            out.append(rows)
        return torch.cat(out), held  # [T, B, H]

    def _rows(self, x: Tensor, held: list[Tensor], begin: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """The same without a look at the values of ``begin``."""
        out = []
        for t in range(len(x)):
            held = self._step(x[t], held if begin is None else _reset(held, begin[t]))
            out.append(held[0])
        return torch.stack(out), held

    def _row(self, x: Tensor, held: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        held = self._step(x.squeeze(0), held)
        return held[0].unsqueeze(0), held

    def _run(self, x: Tensor, held: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        states = [s.unsqueeze(0).contiguous() for s in held]
        if len(states) == 2:
            out, after = self.layer(x, tuple(states))
            return out, [s.squeeze(0) for s in after]
        out, last = self.layer(x, states[0])
        return out, [last.squeeze(0)]


def is_recurrent(model: nn.Module) -> bool:
    """Whether a network has a memory: what its attribute ``recurrent`` says, or else whether it holds a recurrent layer
    of torch.

    It then takes ``prev_state`` and gives ``next_state``, and runs over rows [T, B, ...] with ``sequence=True``."""
    if isinstance(getattr(model, "recurrent", None), bool):
        return bool(model.recurrent)
    layers = (nn.RNNBase, nn.RNNCellBase)
    return any(isinstance(part, layers) or getattr(part, "recurrent", False) is True for part in model.modules())


def recurrent_settings(
    rnn_type: str | None, rnn_hidden_dim: int | None, lstm_kwargs: Mapping[str, Any] | None, embedding_dim: int
) -> tuple[str | None, int]:
    """Returns the type of the recurrent layer (None: there is none) and the size of its state.

    Args:
        rnn_type: ``'none'`` (or None), ``'lstm'`` or ``'gru'``.
        rnn_hidden_dim: size of the state; None: ``embedding_dim``.
        lstm_kwargs: another way to ask for an LSTM: ``lstm_type`` (``'none'``; ``'normal'`` and ``'pytorch'`` are one)
            and ``hidden_size``.
        embedding_dim: size of the input.

    Raises:
        ConfigError: unknown names, or the two ways contradict each other.
    """
    kind, hidden_dim = rnn_type, rnn_hidden_dim
    if kind is not None and kind not in _TYPES:
        raise ConfigError(f"unknown rnn_type '{kind}'{did_you_mean(kind, _TYPES)} (known: {', '.join(_TYPES)})")
    for key in lstm_kwargs or {}:
        if key not in ("lstm_type", "hidden_size"):
            near = did_you_mean(key, ("lstm_type", "hidden_size"))
            raise ConfigError(f"lstm_kwargs has '{key}'{near} (it takes: lstm_type, hidden_size)")
    if lstm_kwargs and "lstm_type" in lstm_kwargs:
        name = lstm_kwargs["lstm_type"]
        if name not in _LSTM_TYPES:
            raise ConfigError(f"unknown lstm_type '{name}'{did_you_mean(name, _LSTM_TYPES)} (known: "
                              f"{', '.join(_LSTM_TYPES)})")  # fmt: skip
        asked = "none" if name == "none" else "lstm"
        if kind not in (None, asked):
            raise ConfigError(f"rnn_type is '{kind}', lstm_kwargs.lstm_type '{name}'; give one of the two")
        kind = asked
    size = (lstm_kwargs or {}).get("hidden_size")
    if size is not None and hidden_dim not in (None, size):
        raise ConfigError(f"rnn_hidden_dim is {hidden_dim}, lstm_kwargs.hidden_size {size}; give one of the two")
    hidden_dim = hidden_dim if size is None else size
    return (None if kind in (None, "none") else kind), (embedding_dim if hidden_dim is None else hidden_dim)


def _reset(held: list[Tensor], begin: Tensor) -> list[Tensor]:
    mask = begin.unsqueeze(-1)  # [B, 1]
    return [s.masked_fill(mask, 0.0) for s in held]
