"""An agent, a computation graph and an optimizer in the place of a policy's learn mode."""

from collections.abc import Mapping
from typing import Any

import torch

from nervex.agent.agent import Agent
from nervex.computation_graph.base_comp_graph import BaseCompGraph
from nervex.data.columns import layout, stack, to_plain
from nervex.torch_utils.device import device_of, to_device
from nervex.utils.errors import CheckpointError, NerveXError, SpecError
from nervex.utils.tree import tree_map

_MISFITS = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)


class GraphLearnMode:
    """What a learner calls, made of parts.

    Args:
        agent: its ``model`` is what the optimizer trains.
        graph: gives ``total_loss`` of a batch.
        optimizer: any torch optimizer.
    """

    def __init__(self, agent: Agent, graph: BaseCompGraph, optimizer: torch.optim.Optimizer) -> None:
        self._agent = agent
        self._graph = graph
        self._optimizer = optimizer
        self._device = device_of(agent.model)
        self._has_run = False

    def data_preprocess(self, data: Any) -> dict[str, Any]:
        """Returns a batch as columns of tensors on the model's device.

        Args:
            data: columns [B, ...] (tensors or arrays), or a list of samples of one layout.

        Raises:
            SpecError: it is neither, or the samples differ in layout.
        """
        if isinstance(data, Mapping):
            batch = tree_map(torch.as_tensor, to_plain(data))
        elif isinstance(data, list | tuple) and all(isinstance(item, Mapping) for item in data):
            batch = stack(data)
        else:
            raise SpecError(
                f"a batch of a learner is a {type(data).__name__}, expected a mapping of columns or a list of mappings"
            )
        return to_device(batch, self._device)  # type: ignore[no-any-return]

    def forward(self, data: dict[str, Any]) -> dict[str, Any]:
        """Makes one step down the gradient of the graph's loss and returns its output, detached, and ``cur_lr``.

        Raises:
            SpecError: the graph cannot take this batch (told apart at the first one only), or its output is wrong.
        """
        output = self._graph(data, self._agent) if self._has_run else self._first(data)
        self._optimizer.zero_grad()
        output["total_loss"].backward()
        self._optimizer.step()
        detached = {k: v.detach() if isinstance(v, torch.Tensor) else v for k, v in output.items()}
        return {"cur_lr": self._optimizer.param_groups[0]["lr"], **detached}

    def _first(self, data: dict[str, Any]) -> dict[str, Any]:
        try:
            output = self._graph(data, self._agent)
        except _MISFITS as e:
            if isinstance(e, NerveXError):
                raise
            reason = str(e).strip().split("\n")[0]
            name = f"{type(self._graph).__name__}.forward"
            raise SpecError(f"{name} cannot take the batch {layout(data)}: {type(e).__name__}: {reason}") from e
        self._has_run = True
        return output

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of the agent (weights of all its models, plugins) and of the optimizer."""
        return {"agent": self._agent.full_state(), "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` gave.

        Raises:
            CheckpointError: it is the state of another agent.
        """
        try:
            self._agent.load_full_state(state["agent"])
        except (KeyError, RuntimeError) as e:
            reason = str(e).strip().split("\n")[0]
            raise CheckpointError(f"the saved state does not fit this learner's agent: {reason}") from e
        self._optimizer.load_state_dict(state["optimizer"])
