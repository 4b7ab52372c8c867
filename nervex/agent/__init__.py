"""The runtime container of a model, and the plugins that shape its forward."""

from nervex.utils.lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Agent": "nervex.agent.agent",
        "BaseAgent": "nervex.agent.agent",
        "AgentPlugin": "nervex.agent.plugin",
        "IAgentPlugin": "nervex.agent.plugin",
        "IAgentStatelessPlugin": "nervex.agent.plugin",
        "IAgentStatefulPlugin": "nervex.agent.plugin",
        "register_plugin": "nervex.agent.plugin",
        "PLUGIN_REGISTRY": "nervex.agent.plugin",
    },
)
