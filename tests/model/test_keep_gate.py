"""A recurrent layer keeps its state from the beginning of training."""

import pytest
import torch

from nervex.model.mlp import init_orthogonal
from nervex.model.rnn import RecurrentCore


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_the_gate_that_keeps_the_state_begins_at_sigmoid_of_one(kind):
    core = RecurrentCore(3, 5, kind)
    init_orthogonal(core)
    with torch.no_grad():
        for name, parameter in core.layer.named_parameters():
            if name.startswith("weight"):
                parameter.zero_()
    state = {key: torch.full((1, 5), 2.0) for key in ("h", "c")[: 2 if kind == "lstm" else 1]}
    _, after = core(torch.ones(1, 3), state)
    kept = after["c" if kind == "lstm" else "h"]  # candidates are tanh(0)
    torch.testing.assert_close(kept, torch.full((1, 5), 2 * torch.tensor(1.0).sigmoid().item()))
