"""The contract of an agent plugin, and the names under which plugins are added."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from nervex.utils.registry import Registry

Forward = Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]

PLUGIN_REGISTRY = Registry(
    "plugin",
    {
        "grad": "nervex.agent.runtime_plugins:GradPlugin",
        "hidden_state": "nervex.agent.runtime_plugins:HiddenStatePlugin",
        "target": "nervex.agent.runtime_plugins:TargetPlugin",
        "teacher": "nervex.agent.runtime_plugins:TeacherPlugin",
        "argmax_sample": "nervex.agent.sample_plugins:ArgmaxSamplePlugin",
        "multinomial_sample": "nervex.agent.sample_plugins:MultinomialSamplePlugin",
        "eps_greedy_sample": "nervex.agent.sample_plugins:EpsGreedySamplePlugin",
        "action_noise": "nervex.agent.sample_plugins:ActionNoisePlugin",
    },
)


class AgentPlugin:
    """One behavior that is wrapped around a model's forward; later plugins wrap outside earlier ones.

    A subclass overrides :meth:`wrap`. What must survive a restart goes into :meth:`state_dict`.
    """

    #: whether the agent's model stays in eval mode whatever ``mode`` is asked for
    frozen = False
    #: whether the wrapped forward is a function of tensors: it keeps nothing, does not look at ``data_id``, and
    #: branches on nothing but shapes and its own arguments
    is_function = False

    def bind(self, model: nn.Module) -> None:
        """Called once, when the plugin is added to an agent that holds ``model``."""

    def wrap(self, forward: Forward) -> Forward:
        """Returns a forward around ``forward``; it takes ``(data, param)``, where ``param`` holds the keyword
        arguments of the agent's forward: a plugin pops those that are meant for it. ``param.get('data_id')``, int64
        [b] or None, are the lanes of the rows, for every plugin to read; it is not to be popped."""
        return forward

    def reset(self, data_id: Tensor | None = None, **kwargs: Any) -> None:
        """Forgets the state of the lanes ``data_id`` int [b] (None: all)."""

    def state_dict(self) -> dict[str, Any]:
        """Returns the plugin's own state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` gave."""


IAgentPlugin = IAgentStatelessPlugin = IAgentStatefulPlugin = AgentPlugin


def register_plugin(name: str, plugin_class: type[AgentPlugin]) -> None:
    """Makes ``plugin_class`` available as ``agent.add_plugin('main', name, **kwargs)``."""
    PLUGIN_REGISTRY.register(name, plugin_class)
