"""Data sets of episodes: files, PyTorch data sets, samplers and loading."""

from nervex.utils.lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "open_dataset": "nervex.data.offline.files",
        "dataset_writer": "nervex.data.offline.files",
        "FolderWriter": "nervex.data.offline.folder",
        "MinariWriter": "nervex.data.offline.minari",
        "OfflineData": "nervex.data.offline.episodes",
        "best_episodes": "nervex.data.offline.episodes",
        "TransitionDataset": "nervex.data.offline.datasets",
        "EpisodeDataset": "nervex.data.offline.datasets",
        "SequenceDataset": "nervex.data.offline.datasets",
        "TransitionStream": "nervex.data.offline.stream",
        "collate": "nervex.data.offline.datasets",
        "EpochSampler": "nervex.data.offline.sampler",
        "DatasetBatches": "nervex.data.offline.sampler",
    },
)
