"""What a computation graph must return."""

import pytest
import torch

from nervex.agent import Agent
from nervex.computation_graph import BaseCompGraph
from nervex.utils.errors import SpecError

AGENT = Agent(torch.nn.Linear(2, 1))


class Graph(BaseCompGraph):
    """Returns what it is told to."""

    def __init__(self, output):
        self._output = output

    def forward(self, data, agent):
        return self._output(data, agent.model) if callable(self._output) else self._output


def test_a_call_is_forward():
    output = Graph(lambda data, model: {"total_loss": model(data["x"]).sum(), "n": 3})({"x": torch.ones(1, 2)}, AGENT)
    assert output["total_loss"].item() == AGENT.model(torch.ones(1, 2)).item() and output["n"] == 3


def test_forward_must_be_there():
    with pytest.raises(TypeError, match="forward"):
        BaseCompGraph()


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (torch.ones(()), "Graph.forward returned Tensor, expected a dict with 'total_loss'"),
        ({"loss": 1}, r"Graph.forward returned a dict of \['loss'\], expected 'total_loss' in it"),
        ({"total_loss": 1.0}, "'total_loss' is float, expected a scalar tensor; take the mean over the batch"),
        ({"total_loss": torch.ones(3)}, r"'total_loss' is shape \[3\], expected a scalar tensor"),
        ({"total_loss": torch.ones(())}, "'total_loss' has no gradient; compute it by agent.forward"),
    ],
)
def test_a_wrong_output_is_one_clear_error(output, message):
    with pytest.raises(SpecError, match=message):
        Graph(output)({}, AGENT)
