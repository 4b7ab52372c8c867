"""PyTorch data sets over recorded episodes: transitions, whole episodes, and sequences within episodes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from nervex.data.columns import Columns, nest, stack
from nervex.data.offline.episodes import OfflineData, is_obs
from nervex.utils.errors import DatasetError
from nervex.utils.tree import tree_map


class TransitionDataset(Dataset[Columns]):
    """Steps: ``obs``, ``action``, ``reward``, ``next_obs`` (the true one, also at an episode's end), ``terminated``,
    ``truncated``, and what further columns there are.

    A list of indices gives a batch [B, ...] by one gather per column (``__getitems__``, which
    ``torch.utils.data.DataLoader`` calls), so that :func:`collate` has nothing to do.

    Args:
        data: the episodes.
        episode: numbers of those to use; None: all.
    """

    def __init__(self, data: OfflineData, episode: np.ndarray | None = None) -> None:
        self.data = data
        self._obs = [name for name in data.specs if is_obs(name)]
        self._row: np.ndarray | None = None
        if episode is not None:
            chosen = np.zeros(data.episode_num, dtype=bool)
            chosen[episode] = True
            self._row = np.flatnonzero(chosen[data.episode_of])

    def __len__(self) -> int:
        return self.data.transition_num if self._row is None else len(self._row)

    def __getitem__(self, index: int) -> Columns:
        if not -len(self) <= index < len(self):
            raise IndexError(f"transition {index} of {len(self)}")
        batch: Columns = tree_map(lambda x: x[0], self.__getitems__([index % len(self)]))
        return batch

    def __getitems__(self, indices: Sequence[int] | np.ndarray) -> Columns:
        """Returns a batch, tensors [B, ...]; floating numbers and rewards are float32."""
        index = np.asarray(indices, dtype=np.int64)
        row = index if self._row is None else self._row[index]
        batch: dict[str, Any] = self.data.take(row)
        for name, value in self.data.take(row, self._obs, after=True).items():
            batch[f"next_{name}"] = value
        columns = {name: x.float() if x.is_floating_point() or name == "reward" else x for name, x in batch.items()}
        return nest({**columns, **self.data.ends(row)})


class EpisodeDataset(Dataset[Columns]):
    """Whole episodes: ``obs`` [T+1, ...], all others [T, ...]; :func:`collate` pads them to one length.

    Args:
        data: the episodes.
        episode: numbers of those to use; None: all.
    """

    def __init__(self, data: OfflineData, episode: np.ndarray | None = None) -> None:
        self.data = data
        self._episode = np.arange(data.episode_num) if episode is None else np.asarray(episode)

    def __len__(self) -> int:
        return len(self._episode)

    def __getitem__(self, index: int) -> Columns:
        return self.data.episode(int(self._episode[index]))


class SequenceDataset(Dataset[Columns]):
    """Windows of consecutive steps, none of which crosses the end of an episode.

    Windows begin at every ``stride``-th step of an episode, and the last one ends at its last step. An episode that is
    shorter than a window is one window, filled up with rows of zeros that ``valid`` marks as false. A batch is
    ``[length, B, ...]``, time first: ``obs`` (and ``next_obs``), all columns, ``terminated``, ``truncated``, ``valid``
    (bool) and ``begin`` (bool: an episode begins at the row).

    Args:
        data: the episodes.
        length: steps of a window, L.
        stride: steps between the beginnings of two windows; None: L.
        episode: numbers of those to use; None: all.

    Raises:
        DatasetError: a length or stride below 1.
    """

    def __init__(
        self, data: OfflineData, length: int, stride: int | None = None, episode: np.ndarray | None = None
    ) -> None:
        stride = length if stride is None else stride
        if length < 1 or stride < 1:
            raise DatasetError(f"a window of {length} steps every {stride}; expected at least 1 each")
        self.data, self.unroll_len = data, length
        self._transitions = TransitionDataset(data)
        starts = []
        for number in range(data.episode_num) if episode is None else episode:
            steps, begin = int(data.length[number]), int(data.begin[number])
            last = max(steps - length, 0)
            starts.append(begin + np.unique(np.append(np.arange(0, last + 1, stride), last)))
        self._start = np.concatenate(starts)

    def __len__(self) -> int:
        return len(self._start)

    def __getitem__(self, index: int) -> Columns:
        window: Columns = tree_map(lambda x: x[:, 0], self.__getitems__([index]))
        return window

    def __getitems__(self, indices: Sequence[int] | np.ndarray) -> Columns:
        """Returns a batch of windows, tensors [L, B, ...]."""
        start = self._start[np.asarray(indices, dtype=np.int64)]
        episode = self.data.episode_of[start]
        end = self.data.begin[episode] + self.data.length[episode]
        row = start + np.arange(self.unroll_len)[:, None]  # [L, B]
        valid = row < end
        batch = self._transitions.__getitems__(np.where(valid, row, start).reshape(-1))
        shape = row.shape
        mask = torch.from_numpy(valid)

        def arranged(column: torch.Tensor) -> torch.Tensor:
            column = column.unflatten(0, shape)
            column[~mask] = 0
            return column

        begin = torch.from_numpy(valid & (row == self.data.begin[episode]))
        return {**tree_map(arranged, batch), "valid": mask, "begin": begin}


def collate(batch: Any) -> Columns:
    """Returns samples as one batch, for ``torch.utils.data.DataLoader(collate_fn=collate)``.

    Args:
        batch: a batch that was gathered whole (it is returned as it is); a list of samples of one shape, which are
            stacked [B, ...]; or a list of episodes, which are padded with zeros to the longest: ``obs`` [T+1, B, ...],
            all others [T, B, ...], with ``valid`` bool [T, B].
    """
    if not isinstance(batch, list):
        return batch
    if not all(_is_episode(item) for item in batch):
        stacked: Columns = stack(batch)
        return stacked
    length = torch.tensor([len(item["reward"]) for item in batch])
    padded: Columns = tree_map(lambda *leaves: torch.nn.utils.rnn.pad_sequence(list(leaves)), *batch)
    return {**padded, "valid": torch.arange(int(length.max()))[:, None] < length}


def _is_episode(item: Any) -> bool:
    return isinstance(item, dict) and isinstance(item.get("reward"), torch.Tensor) and item["reward"].dim() == 1
