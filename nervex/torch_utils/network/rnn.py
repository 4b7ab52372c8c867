"""LSTMs whose state may be one list entry per row of the batch, and one whose gates are normalized."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nervex.torch_utils.checks import check_name, check_shape
from nervex.utils.errors import ConfigError, SpecError

State = tuple[Tensor, Tensor]
"""h and c, float [L, B, H] each, L layers."""

_TYPES = ("normal", "pytorch", "gru")


class LSTM(nn.Module):
    """LSTM with a layer norm on what enters the gates, from the input and from the state each.

        i, f, g, o = LN(W·x_t) + LN(U·h_{t-1}) + b
        c_t = sigmoid(f) ⊙ c_{t-1} + sigmoid(i) ⊙ tanh(g)
        h_t = sigmoid(o) ⊙ tanh(c_t)

    Hochreiter & Schmidhuber 1997; Ba et al. 2016, https://arxiv.org/abs/1607.06450, eq. 20 to 22, without the norm of
    the cell. It steps in Python: :class:`PytorchLSTM` is faster.

    Args:
        input_size: of a row.
        hidden_size: H.
        num_layers: L, at least 1.
        norm_type: ``'LN'``; None: no norm, which is torch's LSTM.
        dropout: of the outputs of all layers but the last, while training.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        norm_type: str | None = "LN",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_name("norm_type", norm_type, (None, "LN"))
        self.input_size, self.hidden_size = input_size, hidden_size
        self.num_layers = _layer_num("LSTM", num_layers)
        sizes = [input_size, *[hidden_size] * (num_layers - 1)]
        self.wx = nn.ModuleList([nn.Linear(size, 4 * hidden_size, bias=False) for size in sizes])
        self.wh = nn.ModuleList([nn.Linear(hidden_size, 4 * hidden_size, bias=False) for _ in sizes])
        norms = [nn.LayerNorm(4 * hidden_size) if norm_type else nn.Identity() for _ in range(2 * num_layers)]
        self.norm_x, self.norm_h = nn.ModuleList(norms[:num_layers]), nn.ModuleList(norms[num_layers:])
        self.bias = nn.ParameterList([nn.Parameter(torch.zeros(4 * hidden_size)) for _ in sizes])
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs: Tensor, prev_state: Any = None, list_next_state: bool = True) -> tuple[Tensor, Any]:
        """Runs over T rows.

        Args:
            inputs: float [T, B, input_size].
            prev_state: (h, c), float [L, B, H] each; or a list with such a pair, of B = 1, or None for each row of the
                batch. None: zeros.
            list_next_state: return the state as a list; else as a pair of tensors.

        Returns:
            ``(output, next_state)``: the h of the last layer, float [T, B, H], and the state after the last row.
        """
        check_shape("LSTM", "inputs", inputs, (None, None, self.input_size))
        h, c = _merge("LSTM", prev_state, inputs, self.num_layers, self.hidden_size)
        x, last = inputs, []
        for layer in range(self.num_layers):
            x, state = self._run(layer, x, h[layer], c[layer])
            last.append(state)
            if layer + 1 < self.num_layers:
                x = self.dropout(x)
        after = torch.stack([s[0] for s in last]), torch.stack([s[1] for s in last])  # [L, B, H] each
        return x, (_split(after) if list_next_state else after)

    def _run(self, layer: int, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, State]:
        """Returns [T, B, H] and the state [B, H] after one layer."""
        entering = self.norm_x[layer](self.wx[layer](x)) + self.bias[layer]  # [T, B, 4H]
        out = []
        for row in entering:
            i, f, g, o = (row + self.norm_h[layer](self.wh[layer](h))).chunk(4, -1)  # [B, H] each
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            out.append(h)
        return torch.stack(out) if out else entering[..., : self.hidden_size], (h, c)


class PytorchLSTM(nn.LSTM):
    """``torch.nn.LSTM`` with the states of :class:`LSTM`.

    Args:
        input_size, hidden_size, num_layers, bias, dropout: as there.
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, dropout: float = 0.0
    ) -> None:
        super().__init__(input_size, hidden_size, _layer_num("PytorchLSTM", num_layers), bias, dropout=dropout)

    def forward(  # type: ignore[override]
        self, inputs: Tensor, prev_state: Any = None, list_next_state: bool = True
    ) -> tuple[Tensor, Any]:
        """Runs over T rows; arguments and results as of :meth:`LSTM.forward`."""
        check_shape("PytorchLSTM", "inputs", inputs, (None, None, self.input_size))
        state = _merge("PytorchLSTM", prev_state, inputs, self.num_layers, self.hidden_size)
        output, after = super().forward(inputs, state)
        return output, (_split(after) if list_next_state else after)


class PytorchGRU(nn.GRU):
    """``torch.nn.GRU`` with states as those of :class:`LSTM`, but h alone in place of the pair.

    Args:
        input_size, hidden_size, num_layers, bias, dropout: as there.
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, dropout: float = 0.0
    ) -> None:
        super().__init__(input_size, hidden_size, _layer_num("PytorchGRU", num_layers), bias, dropout=dropout)

    def forward(  # type: ignore[override]
        self, inputs: Tensor, prev_state: Any = None, list_next_state: bool = True
    ) -> tuple[Tensor, Any]:
        """Runs over T rows.

        Args:
            inputs: float [T, B, input_size].
            prev_state: float [L, B, H]; or a list with [L, 1, H] or None for each row of the batch. None: zeros.
            list_next_state: return the state as a list.

        Returns:
            ``(output, next_state)``: float [T, B, H], and the state after the last row.
        """
        check_shape("PytorchGRU", "inputs", inputs, (None, None, self.input_size))
        if isinstance(prev_state, list):
            prev_state = [None if one is None else (one, one) for one in prev_state]
        elif prev_state is not None:
            prev_state = prev_state, prev_state
        state = _merge("PytorchGRU", prev_state, inputs, self.num_layers, self.hidden_size)[0]
        output, after = super().forward(inputs, state)
        return output, (list(after.split(1, dim=1)) if list_next_state else after)


def get_lstm(
    lstm_type: str,
    input_size: int,
    hidden_size: int,
    num_layers: int = 1,
    norm_type: str | None = "LN",
    dropout: float = 0.0,
) -> nn.Module:
    """Returns a recurrent network.

    Args:
        lstm_type: ``'normal'`` (:class:`LSTM`), ``'pytorch'`` (:class:`PytorchLSTM`) or ``'gru'``
            (:class:`PytorchGRU`).
        input_size, hidden_size, num_layers, dropout: as of :class:`LSTM`.
        norm_type: of ``'normal'``; the others have no norm.

    Raises:
        ConfigError: no such type.
    """
    check_name("lstm_type", lstm_type, _TYPES)
    if lstm_type == "normal":
        return LSTM(input_size, hidden_size, num_layers, norm_type, dropout)
    kind = PytorchLSTM if lstm_type == "pytorch" else PytorchGRU
    return kind(input_size, hidden_size, num_layers, dropout=dropout)


def _merge(fn: str, state: Any, inputs: Tensor, layers: int, hidden: int) -> State:
    """Returns a state in any of its forms as h and c, [L, B, H] each."""
    batch = inputs.shape[1]
    if state is None:
        zero = inputs.new_zeros(layers, batch, hidden)
        return zero, zero
    if isinstance(state, list):
        if len(state) != batch:
            raise SpecError(
                f"{fn}: 'prev_state' is a list of {len(state)}, expected one entry for each of {batch} rows"
            )
        zero = inputs.new_zeros(layers, 1, hidden)
        pairs = [(zero, zero) if one is None else _pair(fn, one, layers, 1, hidden) for one in state]
        return torch.cat([h for h, _ in pairs], dim=1), torch.cat([c for _, c in pairs], dim=1)
    return _pair(fn, state, layers, batch, hidden)


def _pair(fn: str, state: Any, layers: int, batch: int, hidden: int) -> State:
    if not isinstance(state, Sequence) or len(state) != 2:
        raise SpecError(f"{fn}: 'prev_state' holds a {type(state).__name__}, expected a pair (h, c)")
    for name, x in zip(("h", "c"), state, strict=True):
        check_shape(fn, f"prev_state {name}", x, (layers, batch, hidden))
    return state[0], state[1]


def _split(state: State) -> list[State]:
    """Returns one pair [L, 1, H] per row of the batch."""
    return list(zip(state[0].split(1, dim=1), state[1].split(1, dim=1), strict=True))


def _layer_num(fn: str, num: int) -> int:
    if num < 1:
        raise ConfigError(f"{fn}: num_layers is {num}, expected at least 1")
    return num
