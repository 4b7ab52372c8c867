"""Feature engineering for envs: numbers of a simulator to columns that a network can read."""

from nervex.utils.lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "num_first_one_hot": "nervex.envs.common.features",
        "sqrt_one_hot": "nervex.envs.common.features",
        "div_one_hot": "nervex.envs.common.features",
        "div_func": "nervex.envs.common.features",
        "clip_one_hot": "nervex.envs.common.features",
        "reorder_one_hot": "nervex.envs.common.features",
        "reorder_one_hot_array": "nervex.envs.common.features",
        "reorder_boolean_vector": "nervex.envs.common.features",
        "batch_binary_encode": "nervex.envs.common.features",
        "get_position_vector": "nervex.envs.common.features",
        "get_postion_vector": "nervex.envs.common.features",
        "affine_transform": "nervex.envs.common.features",
    },
)
