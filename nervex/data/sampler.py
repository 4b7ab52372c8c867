"""Which rows a batch is made of: uniform, or in proportion to their priority."""

from typing import Any, Protocol

import numpy as np

from nervex.data.priorities import Priorities
from nervex.data.storage import RowStorage
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

    def sample_together(
        self, storage: RowStorage, window: Window, size: int, num: int, rng: np.random.Generator
    ) -> tuple[list[Plan], np.ndarray, int, int] | None:
        """Returns ``(plans, weight, written, numbers)``: the plans that ``num`` calls of :meth:`sample` would give, for
        each of which ``numbers`` numbers below ``written`` were drawn. None: it takes those calls."""

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
            plan = _usable(storage, window, storage.start_slot(rng.integers(0, written, size=_candidate_num(missing))))
            kept.append(plan.take(np.flatnonzero(plan.ok)[:missing]))
            missing -= len(kept[-1].slot)
            if missing == 0:
                drawn = kept[0] if len(kept) == 1 else join_plans(kept)
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

    def sample_together(
        self, storage: RowStorage, window: Window, size: int, num: int, rng: np.random.Generator
    ) -> tuple[list[Plan], np.ndarray, int, int] | None:
        written, numbers = storage.start_num, _candidate_num(size)
        if written <= 0 or storage.limited:
            return None
        plan = window.plan(storage, storage.start_slot(rng.integers(0, written, size=num * numbers)))
        ok = plan.ok.reshape(num, numbers)
        rank = ok.cumsum(axis=1)
        if rank[:, -1].min() < size:
            return None
        taken = plan.take(np.flatnonzero(ok & (rank <= size)))
        parts = [slice(first, first + size) for first in range(0, num * size, size)]
        plans = [Plan(taken.slot[part], taken.steps[part], taken.ok[part]) for part in parts]
        return plans, np.ones(size, dtype=np.float32), written, numbers

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
    """Proportional prioritization, see :class:`~nervex.data.priorities.Priorities`: a row enters once its window is
    complete. One batch may hold a row twice, so that a limit of uses can be exceeded by that.

    Args:
        capacity: slots of the storage.
        alpha: exponent of the priorities.
        beta: exponent of the importance weights at the first batch.
        anneal_step: batches over which ``beta`` grows linearly to 1.
    """

    def __init__(self, capacity: int, alpha: float = 0.6, beta: float = 0.4, anneal_step: int = 100_000) -> None:
        self.priorities = Priorities(capacity, alpha, beta, anneal_step)

    @property
    def beta(self) -> float:
        """Exponent of the importance weights now."""
        return self.priorities.beta

    def added(self, storage: RowStorage, window: Window, slot: np.ndarray) -> None:
        self.priorities.remove(slot)
        before = [storage.step(slot, -i) for i in range(1, window.lookahead + 1)]
        candidate = np.concatenate([slot, *before])  # some twice, which changes nothing
        if storage.stride > 1:
            candidate = candidate[storage.begins(candidate)]
        candidate = candidate[self.priorities.tree[candidate] == 0]
        plan = window.plan(storage, candidate)
        self.priorities.enter(candidate[plan.ok & (storage.use_count[candidate] == 0)])

    def sample(
        self, storage: RowStorage, window: Window, size: int, rng: np.random.Generator
    ) -> tuple[Plan, np.ndarray] | None:
        while True:
            if self.priorities.tree.total <= 0:
                return None
            slot = self.priorities.draw(size, rng)
            fresh = storage.not_stale(slot)
            if fresh.all():
                break
            self.priorities.remove(slot[~fresh])  # stale rows stay stale
        weight = self.priorities.weigh(slot, storage.valid_count)
        plan = window.plan(storage, slot)
        assert plan.ok.all(), "a row without a complete window has a priority"
        return plan, weight

    def sample_together(
        self, storage: RowStorage, window: Window, size: int, num: int, rng: np.random.Generator
    ) -> None:
        """What is learned from a batch decides about the next."""

    def update(self, slot: np.ndarray, priority: np.ndarray) -> None:
        self.priorities.update(slot, priority)

    def exhausted(self, slot: np.ndarray) -> None:
        self.priorities.remove(slot)

    def clear(self) -> None:
        self.priorities.clear()

    def state_dict(self) -> dict[str, Any]:
        return self.priorities.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.priorities.load_state_dict(state)


def _candidate_num(size: int) -> int:
    """Rows that are drawn for a batch of ``size``, some of which are no samples."""
    return size + size // 4 + 4


def join_plans(plans: list[Plan]) -> Plan:
    """Returns one plan of the candidates of all."""
    return Plan(*(np.concatenate([getattr(p, f) for p in plans]) for f in ("slot", "steps", "ok")))
