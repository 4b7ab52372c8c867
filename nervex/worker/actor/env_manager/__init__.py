"""Managers of many environments: in process, in worker processes in step, in worker processes each at its own pace."""

from nervex.utils.lazy import lazy_exports

_HERE = "nervex.worker.actor.env_manager"

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "BaseEnvManager": f"{_HERE}.base_env_manager",
        "ENV_MANAGER_REGISTRY": f"{_HERE}.registry",
        "EnvManager": f"{_HERE}.env_manager",
        "ReadyBlock": f"{_HERE}.blocks",
        "StepBlock": f"{_HERE}.blocks",
        "SubprocessEnvManager": f"{_HERE}.subprocess_env_manager",
        "SyncSubprocessEnvManager": f"{_HERE}.subprocess_env_manager",
        "VectorEnvManager": f"{_HERE}.vector_env_manager",
        "create_env_manager": f"{_HERE}.registry",
    },
)
