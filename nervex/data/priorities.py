"""Priorities of slots: drawing in proportion to them, and the importance weights of what is drawn."""

from typing import Any

import numpy as np

from nervex.data.sum_tree import SumTree


class Priorities:
    """Proportional prioritization over the slots of a ring.

        P(i) = p_i^α / Σ_k p_k^α        w_i = (N·P(i))^(−β) / max_j w_j

    Schaul et al. 2016, https://arxiv.org/abs/1511.05952, eq. 1 and section 3.4; draws are stratified, the maximum of
    the weights is that of the batch, and what enters gets the largest priority seen so far.

    Args:
        capacity: number of slots.
        alpha: α; 0: uniform.
        beta: β at the first batch.
        anneal_step: batches over which β grows linearly to 1.
        epsilon: added to every priority, so that none is 0.
    """

    def __init__(
        self, capacity: int, alpha: float = 0.6, beta: float = 0.4, anneal_step: int = 100_000, epsilon: float = 1e-6
    ) -> None:
        self.alpha = alpha
        self.epsilon = epsilon
        self._beta_start = beta
        self._anneal_step = anneal_step
        self.tree = SumTree(capacity)
        self.largest = 1.0
        self._batch_count = 0

    @property
    def beta(self) -> float:
        """β now."""
        progress = min(self._batch_count / self._anneal_step, 1.0) if self._anneal_step else 1.0
        return self._beta_start + (1.0 - self._beta_start) * progress

    def enter(self, slot: np.ndarray) -> None:
        """Gives the slots, int [M], the largest priority seen so far."""
        self.tree.update(slot, np.full(len(slot), self.largest**self.alpha))

    def remove(self, slot: np.ndarray) -> None:
        """Takes the slots, int [M], out of what can be drawn."""
        self.tree.update(slot, np.zeros(len(slot)))

    def draw(self, size: int, rng: np.random.Generator) -> np.ndarray:
        """Returns slots, int64 [size], one from each of as many parts of equal probability."""
        mass = (np.arange(size) + rng.random(size)) * (self.tree.total / size)
        return self.tree.find(mass)

    def weigh(self, slot: np.ndarray, count: int) -> np.ndarray:
        """Returns the importance weights, float32 [M], of a batch of slots; each call is one batch of the annealing.

        Args:
            slot: what was drawn, int [M].
            count: N, how many may be drawn.
        """
        weight = (self.tree[slot] / self.tree.total * count) ** -self.beta
        self._batch_count += 1
        return (weight / weight.max()).astype(np.float32)

    def update(self, slot: np.ndarray, priority: np.ndarray) -> None:
        """Sets the priorities, float [M] (their absolute values), of those of the slots that can be drawn; of equal
        slots the last one counts."""
        live = self.tree[slot] > 0  # what was overwritten or used up meanwhile stays out
        slot, priority = slot[live], np.abs(np.asarray(priority, dtype=np.float64)[live]) + self.epsilon
        if len(slot):
            self.largest = max(self.largest, float(priority.max()))
            self.tree.update(slot, priority**self.alpha)

    def clear(self) -> None:
        """Takes all slots out."""
        self.tree = SumTree(self.tree.capacity)

    def state_dict(self) -> dict[str, Any]:
        """Returns priorities and counters as plain data."""
        return {
            "leaf": self.tree[np.arange(self.tree.capacity)].copy(),
            "max_priority": self.largest,
            "sample_count": self._batch_count,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` gave."""
        self.tree.update(np.arange(self.tree.capacity), state["leaf"])
        self.largest = float(state["max_priority"])
        self._batch_count = int(state["sample_count"])
