"""Transitions as a stream, each once per pass, shared out over worker processes."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from nervex.data.columns import Columns
from nervex.data.offline.datasets import TransitionDataset
from nervex.data.offline.episodes import OfflineData
from nervex.utils.errors import DatasetError


class TransitionStream(IterableDataset[Columns]):
    """Batches of transitions in shards of consecutive rows; the rows of a shard are mixed, and the shards.

    Each worker process of a ``torch.utils.data.DataLoader`` takes every so-many-th shard, so that a pass holds each
    transition once, whatever the number of workers; at most one batch of a shard is smaller than the others. Reading
    shard by shard goes through a file that is larger than the memory nearly in order.

        DataLoader(TransitionStream(data, 256, seed=1), batch_size=None, num_workers=2)

    Args:
        data: the episodes.
        batch_size: transitions of a batch.
        shard_size: rows of a shard.
        seed: of the order; None: rows in their order.
    """

    def __init__(self, data: OfflineData, batch_size: int, shard_size: int = 65_536, seed: int | None = None) -> None:
        if batch_size < 1 or shard_size < batch_size:
            raise DatasetError(
                f"batch_size is {batch_size} and shard_size {shard_size}; expected at least 1, and no smaller shards "
                "than batches"
            )
        self._dataset = TransitionDataset(data)
        self._batch_size, self._shard_size, self._seed = batch_size, shard_size, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Says which pass comes next: each has an order of its own."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Columns]:
        rng = None if self._seed is None else np.random.default_rng((self._seed, self.epoch))
        starts = np.arange(0, len(self._dataset), self._shard_size)
        if rng is not None:
            rng.shuffle(starts)  # the same order in every worker
        worker = get_worker_info()
        mine = starts if worker is None else starts[worker.id :: worker.num_workers]
        for start in mine.tolist():
            row = np.arange(start, min(start + self._shard_size, len(self._dataset)))
            if rng is not None:
                np.random.default_rng((self._seed or 0, self.epoch, start)).shuffle(row)
            for at in range(0, len(row), self._batch_size):
                yield self._dataset.__getitems__(row[at : at + self._batch_size])
