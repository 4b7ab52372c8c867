"""Agents as the parts of a run use them."""

from nervex.utils.lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "create_dqn_learner_agent": "nervex.worker.agent.agent_template",
        "create_dqn_actor_agent": "nervex.worker.agent.agent_template",
        "create_dqn_evaluator_agent": "nervex.worker.agent.agent_template",
        "AgentMode": "nervex.worker.agent.agent_mode",
    },
)
