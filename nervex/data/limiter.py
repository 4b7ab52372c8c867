"""When a replay may be sampled, and how fast rows go in and out."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

_LEFT = 0.01  # of what happened a window ago, in a rate


class Limiter:
    """Keeps the balance between what comes in and what goes out.

    Args:
        min_sample_ratio: batches' worth of rows that must be there before the first sample.
        max_use: how often a row may be sampled; the rows for ``train_step`` batches must suffice under this limit.
        samples_per_insert: samples that may be drawn per row stored, on the whole.
    """

    def __init__(
        self, min_sample_ratio: float = 1.0, max_use: float = math.inf, samples_per_insert: float = math.inf
    ) -> None:
        self._min_sample_ratio = min_sample_ratio
        self._max_use = max_use
        self._samples_per_insert = samples_per_insert
        self.inserted = 0
        self.sampled = 0

    def min_count(self, batch_size: int, train_step: int) -> int:
        """Returns how many rows must be there before ``train_step`` batches of ``batch_size`` are drawn."""
        ratio = max(self._min_sample_ratio, train_step / self._max_use, train_step / self._samples_per_insert)
        return max(int(-(-batch_size * ratio // 1)), 1)

    def may_sample(self, batch_size: int) -> bool:
        """Returns whether enough rows came in for one more batch."""
        return self.sampled + batch_size <= self._samples_per_insert * self.inserted

    def metrics(self) -> dict[str, float]:
        """Returns the throughput counters that a run shows."""
        return {"samples_per_insert": self.sampled / max(self.inserted, 1)}

    def state_dict(self) -> dict[str, Any]:
        return {"inserted": self.inserted, "sampled": self.sampled}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.inserted, self.sampled = int(state["inserted"]), int(state["sampled"])


class Thruput:
    """Events per second, as a mean in which the past counts ever less.

    Args:
        window_s: after so many seconds an event counts a hundredth.
        clock: seconds.
    """

    def __init__(self, window_s: float = 30.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._decay = math.log(_LEFT) / window_s
        self._clock = clock
        self._then = clock()
        self._count = 0.0
        self._seconds = 0.0

    def rate(self, new_events: float) -> float:
        """Returns the rate, ``new_events`` being those since the last call."""
        now = self._clock()
        kept = math.exp(self._decay * (now - self._then))
        self._count = self._count * kept + new_events
        self._seconds = self._seconds * kept + now - self._then
        self._then = now
        return self._count / self._seconds if self._seconds else 0.0
