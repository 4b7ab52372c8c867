"""When a replay may be sampled: enough data first."""

from typing import Any


class Limiter:
    """Keeps the balance between what comes in and what goes out.

    Args:
        min_sample_ratio: batches' worth of rows that must be there before the first sample.
        max_use: how often a row may be sampled; the rows for ``train_step`` batches must suffice under this limit.
    """

    def __init__(self, min_sample_ratio: float = 1.0, max_use: float = float("inf")) -> None:
        self._min_sample_ratio = min_sample_ratio
        self._max_use = max_use
        self.inserted = 0
        self.sampled = 0

    def min_count(self, batch_size: int, train_step: int) -> int:
        """Returns how many rows must be there before ``train_step`` batches of ``batch_size`` are drawn."""
        ratio = max(self._min_sample_ratio, train_step / self._max_use)
        return max(int(-(-batch_size * ratio // 1)), 1)

    def metrics(self) -> dict[str, float]:
        """Returns the throughput counters that a run shows."""
        return {"samples_per_insert": self.sampled / max(self.inserted, 1)}

    def state_dict(self) -> dict[str, Any]:
        return {"inserted": self.inserted, "sampled": self.sampled}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.inserted, self.sampled = int(state["inserted"]), int(state["sampled"])
