"""The rollout that an on-policy policy learns from: blocks in, shuffled minibatches out."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from nervex.data.columns import Columns, flatten, nest
from nervex.utils.errors import SpecError

_NOT_IN_BATCHES = frozenset({"lane_id", "episode_id", "episode_step", "policy_version"})


class RolloutBuffer:
    """Keeps the blocks of one rollout with every column that the policy's ``_get_train_sample`` gave.

    A minibatch holds ``batch_size`` rows. With an ``unroll_len`` of 1 they are single rows [B, ...] in random order;
    above 1 they are unrolls [unroll_len, n, ...] of consecutive rows with ``begin`` bool [unroll_len, n] (an episode
    begins at the row), ``prev_state`` [n, ...] (the column's first row) and ``last_obs`` [n, ...] (the observation
    after the last row). Sizes are fixed: where the rows do not fill the last minibatch, rows with ``valid`` False do.
    ``weight`` is None when all rows of a minibatch are valid, else ``valid / mean(valid)``, so that a mean weighted by
    it is the mean over valid rows.

    Args:
        unroll_len: rows of a training sample.
        seed: of the shuffles.
    """

    def __init__(self, unroll_len: int = 1, seed: int = 0) -> None:
        self.unroll_len = unroll_len
        self._rng = np.random.default_rng(seed)
        self._block: list[dict[str, torch.Tensor]] = []
        self._last_obs: list[dict[str, torch.Tensor]] = []
        self.count = 0

    @property
    def blocks(self) -> list[Columns]:
        """The blocks held, nested columns [T, b, ...]."""
        return [nest(block) for block in self._block]

    def push_data(self, columns: Columns, last_obs: Any = None) -> None:
        """Copies a block.

        Args:
            columns: nested tensors [T, b, ...] with the reserved columns.
            last_obs: observation after the last row of each lane, nested tensors [b, ...].
        """
        block = _copied(columns)
        if self._block and block.keys() != self._block[0].keys():
            raise SpecError(
                f"the rollout holds the columns {sorted(self._block[0])}, the new block has {sorted(block)}; "
                "_get_train_sample must return the same keys every time"
            )
        self._block.append(block)
        self._last_obs.append({} if last_obs is None else _copied({"last_obs": last_obs}))
        self.count += int(block["valid"].sum())

    def clear(self) -> None:
        """Forgets the rollout."""
        self._block.clear()
        self._last_obs.clear()
        self.count = 0

    def batches(self, batch_size: int, epoch_num: int, update_num: int | None = None) -> Iterator[Columns]:
        """Yields minibatches of ``epoch_num`` passes over the rollout, or ``update_num`` of them (in as many passes as
        that takes).

        Args:
            batch_size: rows of a minibatch.
            epoch_num: passes.
            update_num: minibatches in all; None: as many as the passes give.
        """
        rows, valid = self._rows() if self.unroll_len == 1 else self._unrolls()
        item_num = max(batch_size // self.unroll_len, 1)
        given = 0
        if not valid.any():
            return
        while given < update_num if update_num is not None else epoch_num > 0:
            for item in self._shuffled(valid, item_num):
                yield self._batch(rows, item)
                given += 1
                if given == update_num:
                    return
            epoch_num -= 1

    def _shuffled(self, valid: np.ndarray, size: int) -> np.ndarray:
        """Returns items [batches, size] in random order: all valid ones, filled up with others (−1 − item, if there
        are too few of those)."""
        used, spare = np.flatnonzero(valid), np.flatnonzero(~valid)
        if len(used) == 0:
            return np.zeros((0, size), dtype=np.int64)
        total = -(-len(used) // size) * size
        fill = np.concatenate([spare, -1 - np.resize(used, max(total - len(used) - len(spare), 0))])
        chosen = np.concatenate([used, fill[: total - len(used)]])
        self._rng.shuffle(chosen)
        batches = chosen.reshape(-1, size)
        has_valid = (batches >= 0) & valid[np.where(batches >= 0, batches, 0)]
        return batches[has_valid.any(axis=1)]

    def _batch(self, rows: dict[str, torch.Tensor], item: np.ndarray) -> Columns:
        filling = torch.from_numpy(item < 0)
        index = torch.from_numpy(np.where(item < 0, -1 - item, item))
        sequence = self.unroll_len > 1
        batch = {k: v.index_select(int(sequence and not _static(k)), index) for k, v in rows.items()}
        valid = batch["valid"] = batch["valid"] & ~filling
        batch_nested = nest(batch)
        share = valid.float().mean()
        batch_nested["weight"] = None if bool(share == 1) else valid.float() / share
        return batch_nested

    def _rows(self) -> tuple[dict[str, torch.Tensor], np.ndarray]:
        names = [k for k in self._block[0] if k not in _NOT_IN_BATCHES]
        rows = {k: torch.cat([block[k].flatten(0, 1) for block in self._block]) for k in names}
        return rows, rows["valid"].numpy()

    def _unrolls(self) -> tuple[dict[str, torch.Tensor], np.ndarray]:
        parts = [self._cut(block, last) for block, last in zip(self._block, self._last_obs, strict=True)]
        rows = {k: torch.cat([p[k] for p in parts], dim=0 if _static(k) else 1) for k in parts[0]}
        return rows, rows["valid"].any(dim=0).numpy()

    def _cut(self, block: dict[str, torch.Tensor], last_obs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Cuts a block [T, b, ...] into unrolls [L, k·b, ...]; the last one is filled up with invalid rows."""
        size = self.unroll_len
        row_num = block["valid"].shape[0]
        missing = -row_num % size
        cut = {}
        for name, value in block.items():
            if name in _NOT_IN_BATCHES:
                continue
            rest = value.new_zeros(missing, *value.shape[1:])
            if missing and f"last_{name}" in last_obs:  # the row after the block's last one
                rest[0] = last_obs[f"last_{name}"]
            full = torch.cat([value, rest])
            unrolls = full.unflatten(0, (-1, size)).transpose(0, 1).flatten(1, 2)  # [L, k·b, ...]
            cut[name] = unrolls[0] if _static(name) else unrolls
        begin = block["valid"] & (block["episode_step"] == 0)
        begin = torch.cat([begin, begin.new_zeros(missing, begin.shape[1])])
        cut["begin"] = begin.unflatten(0, (-1, size)).transpose(0, 1).flatten(1, 2)
        for name, value in last_obs.items():
            obs = block[name.removeprefix("last_")]
            after = obs[size::size]  # the observation after an unroll is the first one of the next
            cut[name] = torch.cat([after, value[None]]).flatten(0, 1)
        return cut

    def state_dict(self) -> dict[str, Any]:
        """Returns blocks and the state of the shuffles, as plain data."""
        return {
            "block": [dict(block) for block in self._block],
            "last_obs": [dict(last) for last in self._last_obs],
            "rng": self._rng.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` gave."""
        self._block = [dict(block) for block in state["block"]]
        self._last_obs = [dict(last) for last in state["last_obs"]]
        self.count = sum(int(block["valid"].sum()) for block in self._block)
        self._rng.bit_generator.state = state["rng"]

    def metrics(self) -> dict[str, float]:
        """Returns what a run shows of its rollouts: nothing that lasts."""
        return {}


def _copied(columns: Columns) -> dict[str, torch.Tensor]:
    flat: dict[str, Any] = flatten(columns)
    return {k: v.clone() for k, v in flat.items()}


def _static(name: str) -> bool:
    """Whether a column of unrolls has no time dimension."""
    return name.startswith(("prev_state", "last_obs"))
