"""Which rows a batch is made of: uniform, or in proportion to their priority."""

from typing import Any, Protocol

import numpy as np

from nervex.data.storage import RowStorage
from nervex.data.sum_tree import SumTree
from nervex.data.window import Plan, Window

_MAX_ROUNDS = 32


class Sampler(Protocol):
    """Draws complete windows from a storage."""

    def added(self, storage: RowStorage, window: Window, slot: np.ndarray) -> None:
        """Learns that rows were written to ``slot`` int [M]."""

    def sample(
        self, storage: RowStorage, window: Window, size: int, rng: np.random.Generator
    ) -> tuple[Plan, np.ndarray] | None:
        """Returns ``(plan, weight)`` of ``size`` complete windows, weight float32 [size]; None: too few rows yet."""

    def update(self, slot: np.ndarray, priority: np.ndarray) -> None:
        """Sets the priorities, float [M], of the rows in ``slot``."""

    def exhausted(self, slot: np.ndarray) -> None:
        """Learns that the rows in ``slot`` were used as often as allowed."""

    def clear(self) -> None:
        """Forgets all rows."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def _usable(storage: RowStorage, window: Window, slot: np.ndarray) -> Plan:
    plan = window.plan(storage, slot)
    if storage.max_use != np.inf:
        plan.ok &= storage.use_count[slot] < storage.max_use
    if storage.max_staleness != np.inf:
        plan.ok &= storage.not_stale(slot)
    return plan


def _within_limit(storage: RowStorage, slot: np.ndarray) -> bool:
    slots, uses = np.unique(slot, return_counts=True)
    return bool((storage.use_count[slots] + uses <= storage.max_use).all())


class UniformSampler:
    """Every row whose window is complete is equally likely, with replacement."""

    def added(self, storage: RowStorage, window: Window, slot: np.ndarray) -> None:
        """Nothing to keep: completeness is checked when rows are drawn."""

    def sample(
        self, storage: RowStorage, window: Window, size: int, rng: np.random.Generator
    ) -> tuple[Plan, np.ndarray] | None:
        written = storage.start_num  # rows that samples may begin at
        if written <= 0:
            return None
        weight = np.ones(size, dtype=np.float32)
        kept: list[Plan] = []
        missing = size
        for _ in range(_MAX_ROUNDS):
            plan = _usable(
                storage, window, storage.start_slot(rng.integers(0, written, size=missing + missing // 4 + 4))
            )
            kept.append(plan.take(np.flatnonzero(plan.ok)[:missing]))
            missing -= len(kept[-1].slot)
            if missing == 0:
                drawn = kept[0] if len(kept) == 1 else _join(kept)
                if storage.max_use == np.inf or _within_limit(storage, drawn.slot):
                    return drawn, weight
                break
        plan = _usable(
            storage, window, storage.start_slot(np.arange(written))
        )  # few rows qualify, or few uses are left: list them
        usable = np.flatnonzero(plan.ok)
        if storage.max_use == np.inf:
            return (plan.take(rng.choice(usable, size=size)), weight) if len(usable) else None
        uses = np.repeat(usable, (storage.max_use - storage.use_count[plan.slot[usable]]).astype(np.int64))
        return (plan.take(rng.choice(uses, size=size, replace=False)), weight) if len(uses) >= size else None

    def update(self, slot: np.ndarray, priority: np.ndarray) -> None:
        """Priorities do not matter here."""

    def exhausted(self, slot: np.ndarray) -> None:
        """Nothing to keep: uses are checked when rows are drawn."""

    def clear(self) -> None:
        """Nothing to forget."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


class PrioritizedSampler:
    """Proportional prioritization. One batch may hold a row twice, so that a limit of uses can be exceeded by that.

        P(i) = p_i^α / Σ_k p_k^α        w_i = (N·P(i))^(−β) / max_j w_j

    Schaul et al. 2016, https://arxiv.org/abs/1511.05952, eq. 1 and section 3.4; draws are stratified, the maximum of
    the weights is that of the batch, and a row enters with the largest priority seen so far once its window is
    complete.

    Args:
        capacity: slots of the storage.
        alpha: α; 0: uniform.
        beta: β at the first sample.
        anneal_step: samples (batches) over which β grows linearly to 1.
        epsilon: added to every priority, so that none is 0.
    """

    def __init__(
        self, capacity: int, alpha: float = 0.6, beta: float = 0.4, anneal_step: int = 100_000, epsilon: float = 1e-6
    ) -> None:
        self.alpha = alpha
        self.epsilon = epsilon
        self._beta_start = beta
        self._anneal_step = anneal_step
        self._tree = SumTree(capacity)
        self._max_priority = 1.0
        self._sample_count = 0

    @property
    def beta(self) -> float:
        """β now."""
        progress = min(self._sample_count / self._anneal_step, 1.0) if self._anneal_step else 1.0
        return self._beta_start + (1.0 - self._beta_start) * progress

    def added(self, storage: RowStorage, window: Window, slot: np.ndarray) -> None:
        self._tree.update(slot, np.zeros(len(slot)))
        before = [storage.step(slot, -i) for i in range(1, window.lookahead + 1)]
        candidate = np.unique(np.concatenate([slot, *before]))
        candidate = candidate[storage.begins(candidate)]
        candidate = candidate[self._tree[candidate] == 0]
        plan = window.plan(storage, candidate)
        fresh = candidate[plan.ok & (storage.use_count[candidate] == 0)]
        self._tree.update(fresh, np.full(len(fresh), self._max_priority**self.alpha))

    def sample(
        self, storage: RowStorage, window: Window, size: int, rng: np.random.Generator
    ) -> tuple[Plan, np.ndarray] | None:
        while True:
            total = self._tree.total
            if total <= 0:
                return None
            mass = (np.arange(size) + rng.random(size)) * (total / size)
            slot = self._tree.find(mass)
            fresh = storage.not_stale(slot)
            if fresh.all():
                break
            self._tree.update(slot[~fresh], np.zeros(int((~fresh).sum())))  # stale rows stay stale
        probability = self._tree[slot] / total
        weight = (probability * storage.valid_count) ** -self.beta
        self._sample_count += 1
        plan = window.plan(storage, slot)
        assert plan.ok.all(), "a row without a complete window has a priority"
        return plan, (weight / weight.max()).astype(np.float32)

    def update(self, slot: np.ndarray, priority: np.ndarray) -> None:
        live = self._tree[slot] > 0  # a row that was overwritten or used up meanwhile stays out
        slot, priority = slot[live], np.abs(np.asarray(priority, dtype=np.float64)[live]) + self.epsilon
        if len(slot):
            self._max_priority = max(self._max_priority, float(priority.max()))
            self._tree.update(slot, priority**self.alpha)

    def exhausted(self, slot: np.ndarray) -> None:
        self._tree.update(slot, np.zeros(len(slot)))

    def clear(self) -> None:
        self._tree = SumTree(self._tree.capacity)

    def state_dict(self) -> dict[str, Any]:
        return {
            "leaf": self._tree[np.arange(self._tree.capacity)].copy(),
            "max_priority": self._max_priority,
            "sample_count": self._sample_count,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._tree.update(np.arange(self._tree.capacity), state["leaf"])
        self._max_priority = float(state["max_priority"])
        self._sample_count = int(state["sample_count"])


def _join(plans: list[Plan]) -> Plan:
    return Plan(*(np.concatenate([getattr(p, f) for p in plans]) for f in ("slot", "steps", "ok")))
