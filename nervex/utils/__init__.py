"""Tools that know nothing of reinforcement learning."""

from nervex.utils.lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "read_config": "nervex.utils.config_helper",
        "save_config": "nervex.utils.config_helper",
        "deep_merge_dicts": "nervex.utils.config_helper",
        "deep_update": "nervex.utils.config_helper",
        "flatten_dict": "nervex.utils.config_helper",
        "Registry": "nervex.utils.registry",
        "import_names": "nervex.utils.import_helper",
    },
)
