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
        "RainbowDQNPolicy": "nervex.policy.rainbow_dqn",
        "R2D2Policy": "nervex.policy.r2d2",
        "A2CPolicy": "nervex.policy.a2c",
        "PPOPolicy": "nervex.policy.ppo",
        "IMPALAPolicy": "nervex.policy.impala",
        "DDPGPolicy": "nervex.policy.ddpg",
        "TD3Policy": "nervex.policy.td3",
        "SACPolicy": "nervex.policy.sac",
        "BCPolicy": "nervex.policy.bc",
        "CQLPolicy": "nervex.policy.cql",
        "IQLPolicy": "nervex.policy.iql",
        "PolicyConfig": "nervex.policy.config",
    },
)
