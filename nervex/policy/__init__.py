"""Algorithms: one file each, with learn, collect, eval and command modes."""

from nervex.utils.lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Policy": "nervex.policy.base_policy",
        "register_policy": "nervex.policy.base_policy",
        "create_policy": "nervex.policy.base_policy",
        "POLICY_REGISTRY": "nervex.policy.base_policy",
        "CommonPolicy": "nervex.policy.common_policy",
        "DQNPolicy": "nervex.policy.dqn",
        "PolicyConfig": "nervex.policy.config",
    },
)
