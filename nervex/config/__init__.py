"""The schema machinery: strict reading, dataclasses as schemas, read-only results."""

from nervex.utils.lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "ConfigSource": "nervex.config.source",
        "FrozenConfig": "nervex.config.frozen",
        "IntOrInf": "nervex.config.schema",
        "apply_overrides": "nervex.config.source",
        "build": "nervex.config.schema",
        "check_signature": "nervex.config.schema",
        "describe": "nervex.config.schema",
        "fail": "nervex.config.source",
        "key_paths": "nervex.config.schema",
        "locate": "nervex.config.source",
        "option": "nervex.config.schema",
        "read_source": "nervex.config.source",
    },
)
