"""Blocks of networks, most of them thin over torch's own layers."""

from nervex.utils.lazy import lazy_exports

EXPORTS = {
    "conv1d_block": "nervex.torch_utils.network.blocks",
    "conv2d_block": "nervex.torch_utils.network.blocks",
    "deconv2d_block": "nervex.torch_utils.network.blocks",
    "fc_block": "nervex.torch_utils.network.blocks",
    "noise_block": "nervex.torch_utils.network.blocks",
    "NoiseLinearLayer": "nervex.torch_utils.network.blocks",
    "weight_init_": "nervex.torch_utils.network.blocks",
    "sequential_pack": "nervex.torch_utils.network.blocks",
    "ChannelShuffle": "nervex.torch_utils.network.blocks",
    "NearestUpsample": "nervex.torch_utils.network.blocks",
    "BilinearUpsample": "nervex.torch_utils.network.blocks",
    "one_hot": "nervex.torch_utils.network.encoding",
    "binary_encode": "nervex.torch_utils.network.encoding",
    "sequence_mask": "nervex.torch_utils.network.encoding",
    "GLU": "nervex.torch_utils.network.activation",
    "build_activation": "nervex.torch_utils.network.activation",
    "build_normalization": "nervex.torch_utils.network.normalization",
    "AdaptiveInstanceNorm2d": "nervex.torch_utils.network.normalization",
    "GroupSyncBatchNorm": "nervex.torch_utils.network.normalization",
    "ResBlock": "nervex.torch_utils.network.res_block",
    "ResFCBlock": "nervex.torch_utils.network.res_block",
    "LSTM": "nervex.torch_utils.network.rnn",
    "PytorchLSTM": "nervex.torch_utils.network.rnn",
    "PytorchGRU": "nervex.torch_utils.network.rnn",
    "get_lstm": "nervex.torch_utils.network.rnn",
    "ScatterConnection": "nervex.torch_utils.network.spatial",
    "SoftArgmax": "nervex.torch_utils.network.spatial",
    "Attention": "nervex.torch_utils.network.transformer",
    "TransformerLayer": "nervex.torch_utils.network.transformer",
    "Transformer": "nervex.torch_utils.network.transformer",
}

__getattr__, __dir__ = lazy_exports(__name__, EXPORTS)
