"""Recorded episodes as columns: observations before and after every step, ends, and where each episode lies."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from nervex.data.columns import Columns, flatten, nest, to_numpy
from nervex.torch_utils.tensor_header import check_name
from nervex.utils.errors import DatasetError

_KINDS = "biuf"  # of NumPy dtypes that a column may have
_MOST_BYTES = 8  # of a number; a long double has another meaning on another machine
_REQUIRED = ("obs", "action", "reward")


class ColumnSpec(NamedTuple):
    """What one row of a column looks like: name of the NumPy dtype, and shape."""

    dtype: str
    shape: tuple[int, ...]


class Part(NamedTuple):
    """Consecutive episodes.

    Attributes:
        columns: by path; ``obs`` (and ``obs/...``) hold one row per step and one more per episode, the others one per
            step.
        length: steps of each episode, int64 [E].
        terminated: whether its task ended; otherwise it was cut off, and what follows has a value, bool [E].
    """

    columns: Mapping[str, Tensor]
    length: np.ndarray
    terminated: np.ndarray


def is_obs(name: str) -> bool:
    """Returns whether a column holds observations, of which an episode has one more than steps."""
    return name == "obs" or name.startswith("obs/")


def checked_episode(
    columns: Columns, where: str, specs: Mapping[str, ColumnSpec] | None = None
) -> dict[str, np.ndarray]:
    """Returns the columns of one episode by path, as arrays that fit each other.

    Args:
        columns: nested arrays or tensors: ``obs`` [T+1, ...], all others [T, ...], ``action`` and ``reward`` among
            them.
        where: for messages, such as ``'episode 3'``.
        specs: what the episodes before it look like; None: it is the first.

    Raises:
        DatasetError: a column is missing, has another number of rows, another form than before, or numbers that are not
            finite.
    """
    try:
        flat = {_name(n): _native(to_numpy(column)) for n, column in flatten(dict(columns)).items()}
    except (TypeError, ValueError) as e:
        raise DatasetError(f"{where} holds what is no column: {e}; expected nested dicts of arrays, by text") from e
    missing = [name for name in _REQUIRED if not any(n == name or n.startswith(f"{name}/") for n in flat)]
    if missing:
        raise DatasetError(
            f"{where} has no column '{missing[0]}'; it has {sorted(flat)}, expected obs, action and reward"
        )
    if "reward" not in flat:
        raise DatasetError(f"{where}: 'reward' is a {type(columns['reward']).__name__}; expected one array [T]")
    length = len(flat["reward"]) if flat["reward"].ndim else 0
    if length == 0:
        raise DatasetError(f"{where} has no steps; an episode has at least one reward")
    if flat["reward"].ndim != 1:
        raise DatasetError(f"{where}: 'reward' has shape {list(flat['reward'].shape)}, expected one number a step, [T]")
    for name, array in flat.items():
        rows = length + is_obs(name)
        if array.ndim == 0 or len(array) != rows:
            raise DatasetError(
                f"{where} is ragged: '{name}' has {len(array) if array.ndim else 0} rows, and {length} rewards ask for "
                f"{rows}" + (" (the observation after the last step is one of them)" if is_obs(name) else "")
            )
        if array.dtype.kind not in _KINDS or array.dtype.itemsize > _MOST_BYTES:
            raise DatasetError(f"{where}: '{name}' holds {array.dtype}; expected booleans or numbers of up to 64 bits")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise DatasetError(f"{where}: '{name}' holds NaN or infinity; leave the episode out, or mend it")
    if specs is not None:
        refuse_other(specs, {name: spec_of(array) for name, array in flat.items()}, where)
    return flat


def _name(path: str) -> str:
    check_name(path)
    return path


def _native(array: np.ndarray) -> np.ndarray:
    """Returns numbers in the byte order of this machine, the only one that tensors have."""
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def spec_of(column: Any) -> ColumnSpec:
    """Returns what one row of a column (array or tensor) looks like."""
    dtype = str(column.dtype).removeprefix("torch.")
    return ColumnSpec(dtype, tuple(int(n) for n in column.shape[1:]))


def refuse_other(expected: Mapping[str, ColumnSpec], found: Mapping[str, ColumnSpec], where: str) -> None:
    """Raises DatasetError unless columns have the names, dtypes and shapes that they should have."""
    if expected.keys() != found.keys():
        raise DatasetError(f"{where} has the columns {sorted(found)}; expected {sorted(expected)}, as before it")
    for name, spec in expected.items():
        if found[name] != spec:
            got = found[name]
            raise DatasetError(
                f"{where}: '{name}' is {got.dtype} {list(got.shape)}; expected {spec.dtype} {list(spec.shape)}, as "
                "before it"
            )


class EpisodeWriter(ABC):
    """Writes episodes; a context manager that completes the data set, or lets it go when an error leaves it."""

    @abstractmethod
    def add(self, columns: Columns, terminated: bool) -> None:
        """Adds one episode.

        Args:
            columns: nested arrays or tensors: ``obs`` [T+1, ...], all others [T, ...], ``action`` and ``reward`` among
                them.
            terminated: its task ended; False: it was cut off.

        Raises:
            DatasetError: it is ragged, or has other columns than the episodes before it.
        """

    @abstractmethod
    def close(self) -> None:
        """Completes the data set; from now on the episodes are there.

        Raises:
            DatasetError: no episode was added, or the disk is full.
        """

    @abstractmethod
    def _discard(self) -> None:
        """Removes what was written of a data set that is not completed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self._discard()


class OfflineData:
    """The episodes of a data set, in memory or mapped from files.

    Rows are numbered over all episodes; the observation after row r, which is the true final one where r ends an
    episode, is at hand for every row.

    Args:
        parts: the episodes, in order.
        path: where they come from; None: nowhere.
        digest: of their contents, in hexadecimal.
        info: notes of whoever wrote them.
        reopen: makes the same data from ``path`` in another process, without a copy; None: they are copied.

    Attributes:
        length: steps of each episode, int64 [E].
        terminated: bool [E]; an episode that did not terminate is truncated.
        begin: row of each episode's first step, int64 [E].
        episode_of: episode of each row, int32 [N].
        specs: column -> dtype and shape of its rows.

    Raises:
        DatasetError: there are no episodes.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        path: Path | None = None,
        digest: str = "",
        info: Mapping[str, Any] | None = None,
        reopen: Callable[[Path, bool], "OfflineData"] | None = None,
    ) -> None:
        parts = [part for part in parts if len(part.length)]
        if not parts:
            raise DatasetError(f"the data set{'' if path is None else f' {path}'} is empty; collect episodes into it")
        self.path, self.digest, self.info = path, digest, dict(info or {})
        self._reopen = reopen
        self._parts = parts
        self.length = np.concatenate([part.length for part in parts])
        self.terminated = np.concatenate([part.terminated for part in parts])
        self.begin = np.cumsum(self.length) - self.length
        self.episode_of = np.repeat(np.arange(len(self.length), dtype=np.int32), self.length)
        self._last = self.begin + self.length - 1
        self.specs = {name: spec_of(column) for name, column in parts[0].columns.items()}
        episodes = np.cumsum([0, *(len(part.length) for part in parts)])
        rows = np.cumsum([0, *(int(part.length.sum()) for part in parts)])
        self._begin_of = {False: rows, True: rows + episodes}  # first row of each part; of observations: True

    def __reduce__(self) -> Any:
        if self._reopen is None:
            return OfflineData, (self._parts, self.path, self.digest, self.info)
        return self._reopen, (self.path, False)

    @property
    def episode_num(self) -> int:
        """Episodes."""
        return len(self.length)

    @property
    def transition_num(self) -> int:
        """Steps of all episodes."""
        return len(self.episode_of)

    @property
    def nbytes(self) -> int:
        """Bytes of all columns."""
        return sum(column.nbytes for part in self._parts for column in part.columns.values())

    @property
    def episode_return(self) -> np.ndarray:
        """Undiscounted return of each episode, float64 [E]."""
        reward = torch.cat([part.columns["reward"].double() for part in self._parts]).numpy()
        return np.add.reduceat(reward, self.begin)

    def take(self, row: np.ndarray, names: Sequence[str] | None = None, after: bool = False) -> dict[str, Tensor]:
        """Returns rows of columns by path, tensors of the shape of ``row`` and that of one row.

        Args:
            row: numbers of rows, int64, any shape.
            names: columns; None: all.
            after: of observations, those after the rows.
        """
        flat = row.reshape(-1)
        found = {}
        for name in self.specs if names is None else names:
            index = flat + self.episode_of[flat] + after if is_obs(name) else flat
            found[name] = self._gather(name, index).reshape(*row.shape, *self.specs[name].shape)
        return found

    def ends(self, row: np.ndarray) -> dict[str, Tensor]:
        """Returns ``terminated`` and ``truncated`` of rows, bool of the shape of ``row``."""
        episode = self.episode_of[row]
        last = row == self._last[episode]
        terminated = last & self.terminated[episode]
        return {"terminated": torch.from_numpy(terminated), "truncated": torch.from_numpy(last & ~terminated)}

    def episode(self, number: int) -> Columns:
        """Returns one episode as nested tensors: ``obs`` [T+1, ...], all others [T, ...], ``terminated`` and
        ``truncated`` bool [T] among them.

        Raises:
            IndexError: there is no such episode.
        """
        if not 0 <= number < self.episode_num:
            raise IndexError(f"episode {number} of {self.episode_num}")
        row = np.arange(self.begin[number], self.begin[number] + self.length[number])
        columns = self.take(row)
        final = self.take(row[-1:], [name for name in self.specs if is_obs(name)], after=True)
        whole = {name: torch.cat([c, final[name]]) if is_obs(name) else c for name, c in columns.items()}
        return nest({**whole, **self.ends(row)})

    def _gather(self, name: str, index: np.ndarray) -> Tensor:
        if len(self._parts) == 1:
            return self._parts[0].columns[name].index_select(0, torch.from_numpy(index))
        begin = self._begin_of[is_obs(name)]
        part_of = np.searchsorted(begin, index, side="right") - 1
        first = self._parts[0].columns[name]
        found = first.new_empty((len(index), *first.shape[1:]))
        for number in np.unique(part_of):
            where = np.flatnonzero(part_of == number)
            local = torch.from_numpy(index[where] - begin[number])
            found[torch.from_numpy(where)] = self._parts[number].columns[name].index_select(0, local)
        return found


def best_episodes(data: OfflineData, fraction: float) -> np.ndarray:
    """Returns the numbers of the ⌈fraction·E⌉ episodes with the largest returns, in order, int64.

    Raises:
        DatasetError: the fraction is not above 0 and at most 1.
    """
    if not 0 < fraction <= 1:
        raise DatasetError(f"the best fraction of episodes is {fraction}; expected above 0 and at most 1")
    count = math.ceil(round(fraction * data.episode_num, 9))
    order = np.argsort(-data.episode_return, kind="stable")
    return np.sort(order[:count])
