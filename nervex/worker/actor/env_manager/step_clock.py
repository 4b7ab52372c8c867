"""How long the steps of a worker's envs take, measured where they are taken."""

import numpy as np

from nervex.worker.actor.env_manager.blocks import Blocks

_LEAST = 100  # steps, before a 99th percentile means something
_KEPT = 1024
_EVERY = 8  # messages of which one is measured, once there are enough


class StepClock:
    """Keeps the 99th percentile of the newest step times in ``blocks.step_p99``; resets of envs do not count.

    Args:
        blocks: with the times at which steps began.
        lanes: all lanes of the worker.
    """

    def __init__(self, blocks: Blocks, lanes: list[int]) -> None:
        self._blocks = blocks
        self._lanes = lanes
        self._times = np.zeros(_KEPT)
        self._count = 0
        self._message = 0
        self._next = _LEAST

    def due(self) -> bool:
        """Returns whether this message is to be measured."""
        self._message += 1
        return self._message % _EVERY == 0 or self._count < _LEAST

    def record(self, lanes: list[int], end_s: float) -> None:
        """Takes in the steps of a message.

        Args:
            lanes: in the order in which they were stepped.
            end_s: when the last step ended.
        """
        took = np.diff(self._blocks.began[lanes], append=end_s)[self._blocks.progress[lanes, 1] > 0]
        self._times[(self._count + np.arange(len(took))) % _KEPT] = took
        self._count += len(took)
        if self._count >= self._next:
            self._next = self._count + _LEAST
            self._blocks.step_p99[self._lanes] = np.quantile(self._times[: self._count], 0.99)
