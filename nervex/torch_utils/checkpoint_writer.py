"""Checkpoints written while training goes on."""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch import Tensor

from nervex.torch_utils.checkpoint import CheckpointManager


class CheckpointWriter:
    """Takes a copy of the state, and lets a thread write it: one checkpoint at a time, in order.

    What goes wrong while one is written is raised by the next call.

    Args:
        manager: what writes.
    """

    def __init__(self, manager: CheckpointManager) -> None:
        self._manager = manager
        self._thread: ThreadPoolExecutor | None = None
        self._writing: Future[Path] | None = None

    def save(
        self,
        train_iter: int,
        tree: dict[str, Any],
        weights: Mapping[str, Tensor] | None = None,
        metadata: Mapping[str, Any] | None = None,
        pin: str | None = None,
        wait: bool = True,
    ) -> None:
        """Saves a checkpoint, after the one before.

        Args:
            train_iter, tree, weights, metadata, pin: as for ``CheckpointManager.save``.
            wait: return when it lies on the disk; False: at once, and ``tree`` may change from then on.

        Raises:
            CheckpointError: this one, or the one before, could not be written.
        """
        self.wait()
        if wait:
            self._manager.save(train_iter, tree, weights, metadata, pin)
            return
        snapshot = self._manager.snapshot(tree, weights, copy=True)
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "nervex-checkpoint")
        self._writing = self._thread.submit(self._manager.write, train_iter, snapshot, metadata, pin)

    def wait(self) -> None:
        """Returns when nothing is being written.

        Raises:
            CheckpointError: the checkpoint that was being written could not be.
        """
        writing = self._writing
        if writing is None:
            return
        try:
            writing.result()
        finally:
            if writing.done():  # who is interrupted here has still to wait
                self._writing = None

    def close(self) -> None:
        """Waits as :meth:`wait` does, and ends the thread."""
        try:
            self.wait()
        finally:
            if self._thread is not None:
                self._thread.shutdown()
                self._thread = None
