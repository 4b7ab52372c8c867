"""Tools around torch: optimizers, checkpoints, seeds, devices."""

from nervex.utils.lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Adam": "nervex.torch_utils.optimizer",
        "RMSprop": "nervex.torch_utils.optimizer",
        "LRSchedule": "nervex.torch_utils.lr_schedule",
        "NoisyLinear": "nervex.torch_utils.noisy",
        "grad_norm": "nervex.torch_utils.optimizer",
        "CheckpointManager": "nervex.torch_utils.checkpoint",
        "CountVar": "nervex.torch_utils.checkpoint",
        "load_weights": "nervex.torch_utils.checkpoint",
        "load_state": "nervex.torch_utils.state_files",
        "save_state": "nervex.torch_utils.state_files",
        "read_manifest": "nervex.torch_utils.state_files",
        "encode_state": "nervex.torch_utils.state_tree",
        "decode_state": "nervex.torch_utils.state_tree",
        "set_seed": "nervex.torch_utils.seeds",
        "rng_state": "nervex.torch_utils.seeds",
        "load_rng_state": "nervex.torch_utils.seeds",
        "generator_state": "nervex.torch_utils.seeds",
        "load_generator_state": "nervex.torch_utils.seeds",
        "to_device": "nervex.torch_utils.device",
        "device_of": "nervex.torch_utils.device",
        "pick_threads": "nervex.torch_utils.device",
        "tensor_function": "nervex.torch_utils.compiled",
    },
)
