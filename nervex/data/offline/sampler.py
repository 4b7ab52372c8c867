"""Which transitions make the next batch, and the batches of a run."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler

from nervex.data.columns import Columns
from nervex.data.loader import AsyncDataLoader
from nervex.data.offline.datasets import TransitionDataset, collate
from nervex.data.offline.episodes import OfflineData, best_episodes
from nervex.utils.errors import CheckpointError, DatasetError


class EpochSampler(Sampler[list[int]]):
    """Endless batches of indices: pass after pass, each in an order of its own, each index once per pass.

    Batch number k is a function of seed and k alone, so that reading ahead changes nothing, and a place in the stream
    is one number. The indices of a pass that do not fill a batch are left out, others in each pass.

    Args:
        size: number of samples, at least one batch.
        batch_size: indices of a batch.
        seed: of the orders.
        start: number of the first batch.

    Raises:
        DatasetError: there are fewer samples than a batch has.
    """

    def __init__(self, size: int, batch_size: int, seed: int = 0, start: int = 0) -> None:
        if not 1 <= batch_size <= size:
            raise DatasetError(
                f"batch_size is {batch_size}, and there are {size} transitions; expected at least 1 and at most as many"
            )
        self._size, self._batch_size, self._seed, self._start = size, batch_size, seed, start
        self.batch_num = size // batch_size  # batches of a pass
        self._order: tuple[int, np.ndarray] = (-1, np.zeros(0, dtype=np.int64))

    def batch(self, number: int) -> np.ndarray:
        """Returns the indices of a batch, int64 [B]."""
        epoch, place = divmod(number, self.batch_num)
        if self._order[0] != epoch:
            self._order = epoch, np.random.default_rng((self._seed, epoch)).permutation(self._size)
        return self._order[1][place * self._batch_size : (place + 1) * self._batch_size]

    def __iter__(self) -> Iterator[list[int]]:
        number = self._start
        while True:
            yield self.batch(number).tolist()
            number += 1


class DatasetBatches:
    """The batches that a run learns from, and its place among them.

    Args:
        data: the episodes.
        batch_size: transitions of a batch.
        seed: of their order.
        best_fraction: part of the episodes to use, those with the largest returns.
        device: where batches go.
        num_workers: processes that gather batches; 0: none.
    """

    def __init__(
        self,
        data: OfflineData,
        batch_size: int,
        seed: int = 0,
        best_fraction: float = 1.0,
        device: str | torch.device = "cpu",
        num_workers: int = 0,
    ) -> None:
        self.data = data
        self.episode = best_episodes(data, best_fraction)
        self.dataset = TransitionDataset(data, None if best_fraction == 1 else self.episode)
        self._batch_size, self._seed = batch_size, seed
        self._options: dict[str, Any] = {"device": device, "num_workers": num_workers}
        self._sampler = EpochSampler(len(self.dataset), batch_size, seed)
        self._count = 0  # batches given
        self._loader: AsyncDataLoader | None = None

    def batches(self, num: int) -> Iterator[Columns]:
        """Yields the next ``num`` batches, tensors [B, ...]."""
        if self._loader is None:
            sampler = EpochSampler(len(self.dataset), self._batch_size, self._seed, self._count)
            self._loader = AsyncDataLoader.from_dataset(self.dataset, sampler, collate_fn=collate, **self._options)
        for _ in range(num):
            batch = next(self._loader)
            self._count += 1
            yield batch

    def close(self) -> None:
        """Ends threads and processes."""
        if self._loader is not None:
            self._loader.close()
            self._loader = None

    def metrics(self) -> dict[str, float]:
        """Returns what a run shows of its data: passes over the data set so far."""
        return {"epoch": self._count / self._sampler.batch_num}

    def state_dict(self) -> dict[str, Any]:
        """Returns the place in the stream, and the digest of the data that it is a stream of."""
        return {"count": self._count, "digest": self.data.digest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes to the place that :meth:`state_dict` gave.

        Raises:
            CheckpointError: it is a place in other data.
        """
        if state["digest"] != self.data.digest:
            raise CheckpointError(
                f"the run was begun with other data than {self.data.path} holds now (digest {state['digest'][:12]} "
                f"there, {self.data.digest[:12]} here); bring the data set back, or begin a new run"
            )
        self.close()
        self._count = int(state["count"])
