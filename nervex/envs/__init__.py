"""Environments: the contract, the registry and the adapter for Gymnasium."""

from nervex.utils.lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "BaseEnv": "nervex.envs.base_env",
        "BaseEnvInfo": "nervex.envs.base_env",
        "BaseEnvTimestep": "nervex.envs.base_env",
        "EnvElementInfo": "nervex.envs.base_env",
        "IEnvElement": "nervex.envs.env_element",
        "EnvElement": "nervex.envs.env_element",
        "EnvElementRunner": "nervex.envs.env_element",
        "LeafSpec": "nervex.envs.base_env",
        "leaf_spec": "nervex.envs.base_env",
        "spec_tree": "nervex.envs.base_env",
        "ENV_REGISTRY": "nervex.envs.registry",
        "get_vec_env_setting": "nervex.envs.registry",
        "register_env": "nervex.envs.registry",
        "Finding": "nervex.envs.doctor.finding",
        "Limits": "nervex.envs.doctor.trial",
        "check_env": "nervex.envs.doctor.check",
        "GymnasiumEnv": "nervex.envs.gymnasium_env",
        "GymnasiumEnvConfig": "nervex.envs.gymnasium_env",
    },
)
