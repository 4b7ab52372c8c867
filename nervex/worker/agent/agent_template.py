"""Agents of DQN, ready made: one network, with what learner, actor and evaluator add to it."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from nervex.agent.agent import Agent
from nervex.utils.errors import SpecError


class DqnLearnerAgent(Agent):
    """Agent of a DQN learner.

    Attributes:
        is_double: whether there is a second, target network (``target_forward``, ``target_mode``, ``target_update``).
    """

    def __init__(self, model: nn.Module, is_double: bool) -> None:
        super().__init__(model)
        self.is_double = is_double


def create_dqn_learner_agent(
    model: nn.Module,
    is_double: bool = True,
    update_type: str = "assign",
    update_kwargs: Mapping[str, Any] | None = None,
) -> DqnLearnerAgent:
    """Returns an agent whose ``forward`` records gradients, with a target network that does not.

    ``target_update(agent.state_dict()['model'])`` is to be called once per iteration: by default every 100th call
    copies the weights, the others only count.

    Args:
        model: the network; takes ``{'obs': ...}`` and returns ``{'logit': float [B, N]}``. It is shared, and the
            target network is a copy.
        is_double: have a target network. (The bootstrapping *action* is the graph's to choose: the greedy one of the
            target network, as the tutorial does, or that of the online network, which is the double DQN of
            https://arxiv.org/abs/1509.06461.)
        update_type: ``'assign'`` (copy) or ``'momentum'`` (move toward), for the target network.
        update_kwargs: ``{'freq': calls between copies}`` or ``{'theta': θ}``; None: ``{'freq': 100}``.

    Raises:
        SpecError: the model is no torch module.
        ConfigError: the update is not one of the two.
    """
    agent = DqnLearnerAgent(_module(model), is_double)
    if is_double:
        agent.add_model("target", update_type=update_type, update_kwargs=update_kwargs or {"freq": 100})
        agent.add_plugin("target", "grad", enable_grad=False)
    agent.mode(train=True)
    return agent


def create_dqn_actor_agent(model: nn.Module) -> Agent:
    """Returns an agent whose ``forward(obs, eps=...)`` adds ``action`` int64 [B]: the best one, or with probability
    ``eps`` (a number, or one per row) one drawn uniformly."""
    return _acting(model, "eps_greedy_sample")


def create_dqn_evaluator_agent(model: nn.Module) -> Agent:
    """Returns an agent whose ``forward(obs)`` adds ``action`` int64 [B], the best one."""
    return _acting(model, "argmax_sample")


def _acting(model: nn.Module, plugin: str) -> Agent:
    agent = Agent(_module(model))
    agent.add_plugin("main", plugin)
    agent.add_plugin("main", "grad", enable_grad=False)
    agent.mode(train=False)
    return agent


def _module(model: Any) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise SpecError(f"the model of an agent is a {type(model).__name__}, expected a torch.nn.Module")
    return model
