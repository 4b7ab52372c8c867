"""Keeps the episodes that an evaluator plays."""

from collections.abc import Callable
from typing import Any

import numpy as np

from nervex.data.columns import Columns
from nervex.utils.tree import tree_map


class EpisodeRecorder:
    """Gathers the steps of each lane into episodes: the ``watch`` of a ``BaseSerialEvaluator``.

    Episodes are handed on in the order in which they end; one that a fault of its env cut off is let go.

    Args:
        add: receives the columns of an episode, ``obs`` [T+1, ...], ``action`` [T, ...], ``reward`` float32 [T], and
            whether it terminated.
    """

    def __init__(self, add: Callable[[Columns, bool], None]) -> None:
        self._add = add
        self._rows: dict[int, list[tuple[Any, Any, np.float32]]] = {}

    def __call__(self, lane_id: np.ndarray, obs: Any, action: Any, step: Any) -> None:
        """Takes one step of some lanes.

        Args:
            lane_id: int [b].
            obs: what they saw before it, nested arrays [b, ...] that nobody will change.
            action: what they did, nested arrays [b, ...].
            step: what came of it, of the same lanes.
        """
        for row, lane in enumerate(lane_id.tolist()):
            if not step.valid[row]:  # a reset
                self._rows.pop(lane, None)
                continue
            seen, done = (tree_map(lambda x, row=row: x[row], part) for part in (obs, action))  # type: ignore[misc]
            self._rows.setdefault(lane, []).append((seen, done, np.float32(step.reward[row])))
            if step.terminated[row] or step.truncated[row]:
                final = tree_map(lambda x, row=row: x[row].copy(), step.obs)  # type: ignore[misc]
                before, actions, rewards = zip(*self._rows.pop(lane), strict=True)
                columns = {"obs": _stack([*before, final]), "action": _stack(actions), "reward": np.array(rewards)}
                self._add(columns, bool(step.terminated[row]))


def _stack(rows: Any) -> Any:
    return tree_map(lambda *leaves: np.stack(leaves), *rows)
