"""Checks the actions of a step and puts them where the envs read them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from nervex.utils.errors import NumericalError, SpecError
from nervex.worker.actor.env_manager.blocks import Blocks

_ALL = slice(None)


class ActionWriter:
    """Writes actions ``[b, ...]`` into the rows of their lanes.

    Args:
        blocks: whose ``action`` is written.
    """

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks

    def write(self, action: Any, lane_id: np.ndarray, full: bool) -> None:
        """Writes the actions of the lanes.

        Args:
            action: array or nested dict of arrays ``[b, ...]``.
            lane_id: int64 ``[b]``.
            full: whether these are all lanes, in order.

        Raises:
            SpecError: another structure, shape or dtype than declared.
            NumericalError: a value is not finite.
        """
        self._write(self._blocks.action, action, lane_id, _ALL if full else lane_id, "action")

    def _write(self, block: Any, rows: Any, lane_id: np.ndarray, index: Any, name: str) -> None:
        if isinstance(block, dict):
            if not isinstance(rows, Mapping) or rows.keys() != block.keys():
                got = f"the keys {sorted(map(str, rows))}" if isinstance(rows, Mapping) else f"a {type(rows).__name__}"
                raise SpecError(f"got {name} with {got}, the env's info says a dict of {sorted(block)}")
            for key, child in block.items():
                self._write(child, rows[key], lane_id, index, f"{name}.{key}")
            return
        rows = np.asarray(rows)
        shape = block.shape if index is _ALL else (len(lane_id), *block.shape[1:])
        if rows.shape != shape or not (rows.dtype == block.dtype or np.can_cast(rows.dtype, block.dtype, "same_kind")):
            raise SpecError(
                f"got {name} {rows.dtype} {list(rows.shape)} for {len(lane_id)} lanes, the env's info says "
                f"{block.dtype} {list(shape)}"
            )
        if rows.dtype.kind == "f" and np.count_nonzero(np.isfinite(rows)) != rows.size:
            raise self._not_finite(rows, lane_id, name)
        block[index] = rows

    def _not_finite(self, rows: np.ndarray, lane_id: np.ndarray, name: str) -> NumericalError:
        bad = int(np.argwhere(~np.isfinite(rows))[0][0])
        lane = int(lane_id[bad])
        episode, step = self._blocks.progress[lane].tolist()
        return NumericalError(
            f"got {name} {rows[bad].tolist()} for env {lane} (episode {episode}, step {step + 1}), expected finite "
            "numbers; look at the output of the policy's model"
        )
