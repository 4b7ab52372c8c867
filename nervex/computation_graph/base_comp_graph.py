"""The interface of a computation graph: how a batch and an agent become the loss of one iteration."""

from abc import ABC, abstractmethod
from typing import Any

import torch

from nervex.agent.agent import Agent
from nervex.utils.errors import SpecError


class BaseCompGraph(ABC):
    """A loss as a function of a batch and an agent. Networks, their targets and hidden states are the agent's, so that
    one agent may be trained by several graphs and one graph may train several agents."""

    @abstractmethod
    def forward(self, data: dict[str, Any], agent: Agent) -> dict[str, Any]:
        """Returns ``{'total_loss': scalar tensor to descend, ...}``.

        Args:
            data: columns of a batch, tensors [B, ...].
            agent: the learner's agent.

        Returns:
            ``total_loss``; further scalars are metrics, and ``priority`` float [B] goes back to the buffer.
        """

    def __call__(self, data: dict[str, Any], agent: Agent) -> dict[str, Any]:
        """Returns what :meth:`forward` gives, checked.

        Raises:
            SpecError: that is no dict with a scalar ``total_loss`` that depends on weights.
        """
        output = self.forward(data, agent)
        name = f"{type(self).__name__}.forward"
        if not isinstance(output, dict):
            raise SpecError(f"{name} returned {type(output).__name__}, expected a dict with 'total_loss'")
        if "total_loss" not in output:
            raise SpecError(f"{name} returned a dict of {sorted(output)}, expected 'total_loss' in it")
        loss = output["total_loss"]
        if not isinstance(loss, torch.Tensor) or loss.dim() != 0:
            got = f"shape {list(loss.shape)}" if isinstance(loss, torch.Tensor) else type(loss).__name__
            raise SpecError(f"{name}: 'total_loss' is {got}, expected a scalar tensor; take the mean over the batch")
        if not loss.requires_grad:
            raise SpecError(f"{name}: 'total_loss' has no gradient; compute it by agent.forward, without detach()")
        return output
