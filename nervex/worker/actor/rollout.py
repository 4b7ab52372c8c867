"""The preallocated rows that an actor writes: one cursor per lane."""

from typing import Any, NamedTuple

import numpy as np
import torch

from nervex.data.columns import KeyPlan, flatten, key_plan, nest, paths_of, pick, to_plain
from nervex.rl_utils.trajectory import Trajectory
from nervex.utils.errors import SpecError
from nervex.utils.tree import tree_map

RESERVED: dict[str, Any] = {
    "valid": np.bool_,
    "terminated": np.bool_,
    "truncated": np.bool_,
    "policy_version": np.int64,
    "lane_id": np.int32,
    "episode_id": np.int32,
    "episode_step": np.int32,
}


class Block(NamedTuple):
    """Rows of some lanes on their way to the replay.

    Attributes:
        traj: the rows, [T, b, ...]; valid until the rollout is written again.
        lane_id: int64 [b].
        length: rows of each lane, int64 [b], when they differ; else None.
        gap: lanes whose rows do not follow those handed on before, bool [b]; None: no lane.
        cut: lanes whose episode a fault cut off at the row that was handed on last before these, bool [b]; None: no
            lane.
    """

    traj: Trajectory
    lane_id: np.ndarray
    length: np.ndarray | None
    gap: np.ndarray | None = None
    cut: np.ndarray | None = None


class Rollout:
    """Columns ``[rows, lanes, ...]`` filled row by row.

    Args:
        lane_num: number of lanes B.
        traj_len: new rows after which a lane is cut; ``inf``: only at the ends of episodes.
    """

    def __init__(self, lane_num: int, traj_len: float) -> None:
        self.lane_num = lane_num
        self.traj_len = traj_len
        self.cursor = np.zeros(lane_num, dtype=np.int64)  # rows that each lane holds
        self.carried = np.zeros(lane_num, dtype=np.int64)  # of these, handed back by the policy from the block before
        self._level: tuple[int, int] | None = (0, 0)  # cursor and carried where all lanes have the same; None: unknown
        self._column: dict[str, np.ndarray] = {}
        self._tensor: dict[str, torch.Tensor] = {}
        self._head: dict[str, torch.Tensor] = {}  # views of the first ``_head_rows`` rows
        self._head_rows = -1
        self._nested = False  # some column has a path and not a name
        self._plan: KeyPlan | None = None  # what the rows look like, if they are dicts of dicts
        self._names: list[str] = []  # of their columns
        self._own: list[np.ndarray] = []
        self._rows = 0
        self._everyone = np.arange(lane_num)
        self._whole = self._everyone  # the array that was last found to name all lanes in order

    def write(self, row: Any, reserved: dict[str, Any], lane_id: np.ndarray) -> None:
        """Appends one row to the lanes ``lane_id`` int [b].

        Args:
            row: what the policy made of the step, nested mappings of arrays or tensors [b, ...]; entries with names of
                reserved columns are left out.
            reserved: the reserved columns, arrays [b].
            lane_id: each lane once.

        Raises:
            SpecError: other columns than before, or not one row per lane.
        """
        values: list[Any] = []
        if self._plan is None or not pick(row, self._plan, values):  # the short way is for rows like the one before
            values = self._unusual(row, reserved, lane_id)
        where = self._advance(lane_id)
        for column, value in zip(self._own, values, strict=True):
            column[where] = _array(value)
        for name, value in reserved.items():
            self._column[name][where] = value

    def is_everyone(self, lane_id: np.ndarray) -> bool:
        """Returns whether these are all lanes in order."""
        if lane_id is self._whole:  # managers in step hand out one and the same array
            return True
        if len(lane_id) != self.lane_num or not (lane_id == self._everyone).all():
            return False
        self._whole = lane_id
        return True

    def full(self, lane_id: np.ndarray, ended: np.ndarray) -> np.ndarray:
        """Returns those of the lanes that must be handed on: cut length reached, or (``inf``) episode ended."""
        if self.traj_len == np.inf:
            return lane_id[ended]
        if self._level is not None:
            cursor, carried = self._level
            return lane_id if cursor - carried >= self.traj_len else lane_id[:0]
        full = self.cursor[lane_id] - self.carried[lane_id] >= self.traj_len
        return lane_id if full.all() else lane_id[full]

    def cut_off(self, lane_id: np.ndarray) -> np.ndarray:
        """Makes the last rows of the lanes the last ones of their episodes, as at a time limit.

        Returns:
            Those of the lanes that hold no row: it was handed on, int [k].
        """
        row = self.cursor[lane_id] - 1
        held = row >= 0
        for name in ("truncated", "done"):
            if name in self._column:
                self._column[name][row[held], lane_id[held]] = True
        return lane_id[~held]

    def blocks(self, lane_id: np.ndarray, last_obs: Any) -> list[Block]:
        """Returns the rows of the lanes ``lane_id``: one block per number of rows, or one padded block (``inf``).

        Args:
            lane_id: int [b], lanes to hand on.
            last_obs: observations after their last rows, nested arrays [b, ...].
        """
        length = self.cursor[lane_id]
        if (length == length[0]).all():
            return [self._cut(lane_id, int(length[0]), last_obs)]
        if self.traj_len == np.inf:
            return [self._padded(lane_id, length, last_obs)]
        return [
            self._cut(lane_id[length == size], int(size), tree_map(lambda x: x[length == size], last_obs))  # noqa: B023
            for size in np.unique(length)
        ]

    def keep_last(self, lane_id: np.ndarray, num: int) -> None:
        """Empties the lanes but for their last ``num`` rows, which come first in their next block."""
        if not num and self.is_everyone(lane_id):
            self.cursor.fill(0)
            self.carried.fill(0)
            self._level = (0, 0)
            return
        kept = np.minimum(self.cursor[lane_id], num)
        if num:
            for row in range(int(kept.max())):
                lane = lane_id[row < kept]
                source = self.cursor[lane] - kept[row < kept] + row
                for column in self._column.values():
                    column[row, lane] = column[source, lane]
        self.cursor[lane_id] = self.carried[lane_id] = kept
        self._find_level()

    def state_dict(self) -> dict[str, Any]:
        """Returns the rows that were not handed on yet."""
        rows = int(self.cursor.max())
        return {
            "column": {k: v[:rows].copy() for k, v in self._column.items()},
            "cursor": self.cursor.copy(),
            "carried": self.carried.copy(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` gave."""
        self.cursor[:] = state["cursor"]
        self.carried[:] = state["carried"]
        self._find_level()
        self._rows = max(self._first_rows(), int(self.cursor.max()))
        self._column = {k: np.zeros((self._rows, *v.shape[1:]), v.dtype) for k, v in state["column"].items()}
        for name, values in state["column"].items():
            self._column[name][: len(values)] = values
        self._plan, self._names = None, []
        self._view()

    def _cut(self, lane_id: np.ndarray, size: int, last_obs: Any) -> Block:
        if self.is_everyone(lane_id):
            if self._head_rows != size:  # blocks of one length come one after the other
                self._head, self._head_rows = {k: v[:size] for k, v in self._tensor.items()}, size
            columns = dict(self._head)
        else:
            columns = {k: v[:size, lane_id] for k, v in self._tensor.items()}
        return Block(Trajectory(nest(columns) if self._nested else columns, _tensors(last_obs)), lane_id, None)

    def _padded(self, lane_id: np.ndarray, length: np.ndarray, last_obs: Any) -> Block:
        rows = int(length.max())
        columns = {k: v[:rows, lane_id] for k, v in self._tensor.items()}  # a copy
        beyond = torch.from_numpy(np.arange(rows)[:, None] >= length)
        for column in columns.values():
            column[beyond] = 0
        short = np.flatnonzero(length < rows)  # their row after the last one holds the observation after it
        for name, value in flatten({"obs": last_obs}).items():
            if name in columns:
                columns[name][torch.from_numpy(length[short]), torch.from_numpy(short)] = torch.from_numpy(value[short])
        traj = Trajectory(nest(columns), _tensors(last_obs), length=torch.from_numpy(length))
        return Block(traj, lane_id, length)

    def _find_level(self) -> None:
        same = (self.cursor == self.cursor[0]).all() and (self.carried == self.carried[0]).all()
        self._level = (int(self.cursor[0]), int(self.carried[0])) if same else None

    def _advance(self, lane_id: np.ndarray) -> Any:
        """Moves the lanes' cursors on and returns the index of the rows that they stood at."""
        if self._level is not None and self.is_everyone(lane_id):
            row, carried = self._level
            if row >= self._rows:
                self._grow()
            self._level = (row + 1, carried)
            self.cursor += 1
            return row
        self._level = None
        cursor = self.cursor[lane_id]
        if cursor.max() >= self._rows:
            self._grow()
        self.cursor[lane_id] += 1
        return cursor, lane_id

    def _unusual(self, row: Any, reserved: dict[str, Any], lane_id: np.ndarray) -> list[Any]:
        """Returns the values of a row of any kind in the order of the columns, and takes note of what it looks like."""
        plain = {k: v for k, v in to_plain(row).items() if k not in reserved}
        flat = flatten(plain)
        if not self._column:
            self._allocate(flat, len(lane_id))
        if flat.keys() | reserved.keys() != self._column.keys():
            raise SpecError(
                f"_process_transition returned the columns {sorted(flat)} after "
                f"{sorted(self._column.keys() - RESERVED.keys())}; it must return the same keys every time"
            )
        plan = key_plan(plain)
        names = paths_of(plan)
        known = flat.keys() == set(names)  # else some part of the row is no dict
        self._plan, self._names = (plan, names) if known else (None, list(flat))
        self._own = [self._column[name] for name in self._names]
        return [flat[name] for name in self._names]

    def _allocate(self, flat: dict[str, Any], lanes: int) -> None:
        for name, value in flat.items():
            if value.shape[:1] != (lanes,):
                raise SpecError(
                    f"_process_transition returned '{name}' of shape {list(value.shape)} for {lanes} lanes; it is "
                    "called with columns and must return one row per lane, first dimension first"
                )
        self._rows = self._first_rows()
        dtypes = {k: _array(v).dtype for k, v in flat.items()}
        shapes = {k: tuple(v.shape[1:]) for k, v in flat.items()}
        lead = (self._rows, self.lane_num)
        self._column = {k: np.zeros(lead + shapes[k], dtypes[k]) for k in flat}
        self._column |= {k: np.zeros(lead, dtype) for k, dtype in RESERVED.items()}
        self._view()

    def _first_rows(self) -> int:
        return 128 if self.traj_len == np.inf else int(self.traj_len)

    def _grow(self) -> None:
        self._column = {k: np.concatenate([v, np.zeros_like(v)]) for k, v in self._column.items()}
        self._rows *= 2
        self._view()

    def _view(self) -> None:
        self._tensor = {k: torch.from_numpy(v) for k, v in self._column.items()}
        self._own = [self._column[name] for name in self._names]
        self._head_rows = -1
        self._nested = any("/" in name for name in self._column)


def _tensors(tree: Any) -> Any:
    return tree_map(torch.from_numpy, tree)


def _array(value: Any) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        return value.numpy() if value.is_cpu else value.cpu().numpy()
    return value  # type: ignore[no-any-return]
