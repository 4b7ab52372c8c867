"""Tries an env by itself and says, one line each, what is wrong with it and how to mend it."""

from nervex.utils.lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Diagnosis": "nervex.envs.doctor.check",
        "Finding": "nervex.envs.doctor.finding",
        "Limits": "nervex.envs.doctor.trial",
        "check_env": "nervex.envs.doctor.check",
        "examine_env": "nervex.envs.doctor.check",
    },
)
