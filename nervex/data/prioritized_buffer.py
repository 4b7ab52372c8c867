"""A ring of Python objects, drawn in proportion to their priority."""

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, overload

import numpy as np
import torch

from nervex.config.schema import complete, option
from nervex.data.columns import to_numpy
from nervex.data.limiter import Limiter
from nervex.data.priorities import Priorities
from nervex.torch_utils.seeds import generator_state, load_generator_state
from nervex.utils.errors import CheckpointError, NumericalError, SpecError

_FREE = -1


@dataclass
class PrioritizedBufferConfig:
    """Arguments of :class:`PrioritizedBuffer`, as a section of a configuration."""

    maxlen: int = option(10_000, ge=1, unit="items", doc="capacity; the oldest items are overwritten")
    max_reuse: int | None = option(None, ge=1, doc="how often an item may be sampled; null: no limit")
    min_sample_ratio: float = option(1.0, gt=0, doc="items needed before anything is sampled, in batches")
    alpha: float = option(0.6, ge=0, le=1, doc="exponent of the priorities; 0: uniform")
    beta: float = option(0.4, ge=0, le=1, doc="exponent of the importance weights at the first sample")
    anneal_step: int = option(100_000, ge=0, unit="batches", doc="over which beta grows to 1")
    enable_track_used_data: bool = option(False, doc="keep items that left in used_data, until that is cleared")
    deepcopy: bool = option(False, doc="sample copies; false: the very objects that were appended")


class PrioritizedBuffer:
    """Holds the newest ``maxlen`` objects and draws lists of them, those of high priority more often.

    An object is whatever the user makes of a sample; it is neither looked into nor changed. Probabilities and
    importance weights are those of :class:`~nervex.data.priorities.Priorities`: an object enters with the largest
    priority seen so far, so without :meth:`update` all are equally likely. Draws are stratified: one call may return
    an object twice, and an object of little priority not at all.

    For columns of tensors :class:`~nervex.data.replay.Replay` is many times faster; this is the buffer for samples of
    any kind, one Python object each.

    Args:
        maxlen, max_reuse, min_sample_ratio, alpha, beta, anneal_step, enable_track_used_data, deepcopy: see
            :class:`PrioritizedBufferConfig`. Since one draw may hold an object twice, ``max_reuse`` can be exceeded
            by that.
        seed: of the draws.

    Attributes:
        push_count: objects appended so far.
        used_data: with ``enable_track_used_data``, what was overwritten or used up, oldest first; clear it.

    Raises:
        ConfigError: an argument is out of its range.
    """

    def __init__(
        self,
        maxlen: int = 10_000,
        max_reuse: int | None = None,
        min_sample_ratio: float = 1.0,
        alpha: float = 0.6,
        beta: float = 0.4,
        anneal_step: int = 100_000,
        enable_track_used_data: bool = False,
        deepcopy: bool = False,
        *,
        seed: int = 0,
    ) -> None:
        given = PrioritizedBufferConfig(
            maxlen, max_reuse, min_sample_ratio, alpha, beta, anneal_step, enable_track_used_data, deepcopy
        )
        self._cfg = cfg = complete(PrioritizedBufferConfig, asdict(given))
        self.maxlen: int = cfg["maxlen"]
        self._limiter = Limiter(cfg["min_sample_ratio"], math.inf if cfg["max_reuse"] is None else cfg["max_reuse"])
        self._priorities = Priorities(self.maxlen, cfg["alpha"], cfg["beta"], cfg["anneal_step"])
        self._rng = np.random.default_rng(seed)
        self.push_count = 0
        self.used_data: list[Any] = []
        self._empty()

    def _empty(self) -> None:
        self._item: list[Any] = [None] * self.maxlen
        self._index = np.full(self.maxlen, _FREE, dtype=np.int64)  # of the object in each slot, counted from the first
        self._use = np.zeros(self.maxlen, dtype=np.int64)
        self._count = 0

    @property
    def count(self) -> int:
        """Objects that are held."""
        return self._count

    @property
    def validlen(self) -> int:
        """Same as ``count``."""
        return self._count

    @property
    def beta(self) -> float:
        """Exponent of the importance weights now."""
        return self._priorities.beta

    def __len__(self) -> int:
        return self._count

    def append(self, data: Any) -> None:
        """Adds an object, in place of the oldest one when the ring is full."""
        self.extend([data])

    def extend(self, data: Iterable[Any]) -> None:
        """Adds objects one after the other; none of them when ``data`` raises before its end."""
        slots = [self._put(item) for item in list(data)]
        if slots:
            self._priorities.enter(np.array(slots, dtype=np.int64))

    def _put(self, item: Any) -> int:
        slot = self.push_count % self.maxlen
        self._release(slot)
        self._item[slot] = item
        self._index[slot] = self.push_count
        self._use[slot] = 0
        self._count += 1
        self.push_count += 1
        return slot

    def _release(self, slot: int) -> None:
        if self._index[slot] == _FREE:
            return
        if self._cfg["enable_track_used_data"]:
            self.used_data.append(self._item[slot])
        self._item[slot] = None
        self._index[slot] = _FREE
        self._count -= 1

    def needed(self, size: int) -> int:
        """Returns how many objects must be held before ``size`` of them can be sampled."""
        if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
            raise SpecError(f"PrioritizedBuffer: the size of a sample is {size!r}, expected a whole number, at least 1")
        return self._limiter.min_count(int(size), 1)

    @overload
    def sample(self, size: int, with_info: Literal[False] = False) -> list[Any]: ...
    @overload
    def sample(self, size: int, with_info: Literal[True]) -> tuple[list[Any], dict[str, torch.Tensor]]: ...
    def sample(self, size: int, with_info: bool = False) -> Any:
        """Returns a list of ``size`` objects; with ``with_info``, ``(objects, info)``.

        Args:
            size: how many.
            with_info: add ``info``: ``index`` int64 [size], which :meth:`update` takes back, and ``weight`` float32
                [size], the importance weights.

        Raises:
            SpecError: fewer objects are held than that needs, see :meth:`needed`.
        """
        needed = self.needed(size)
        if self._count < needed:
            held = f"{self._count} items are held" if self._count else "it is empty"
            ratio = "" if needed <= size else f" (min_sample_ratio {self._cfg['min_sample_ratio']:g})"
            raise SpecError(
                f"PrioritizedBuffer.sample: {size} items were asked for, which needs {needed}{ratio}, and {held}; "
                "append more first, or ask for fewer"
            )
        slot = self._priorities.draw(int(size), self._rng)
        weight = self._priorities.weigh(slot, self._count)
        info = {"index": torch.from_numpy(self._index[slot]), "weight": torch.from_numpy(weight)}
        items = [self._item[s] for s in slot.tolist()]
        if self._cfg["deepcopy"]:
            items = [copy.deepcopy(item) for item in items]
        self._spend(slot)
        return (items, info) if with_info else items

    def _spend(self, slot: np.ndarray) -> None:
        if self._cfg["max_reuse"] is None:
            return
        np.add.at(self._use, slot, 1)
        drawn = np.unique(slot)  # an object that was drawn twice leaves once
        spent = drawn[self._use[drawn] >= self._cfg["max_reuse"]]
        self._priorities.remove(spent)
        for s in spent.tolist():
            self._release(s)

    def update(self, info: Mapping[str, Any]) -> None:
        """Sets priorities: ``{'index': int [M], 'priority': float [M]}``, the indices being those of a sample's info.
        Objects that were overwritten or used up meanwhile are passed over; of equal indices the last one counts.

        Raises:
            SpecError: it is no such mapping, the shapes differ, or an index was never given out.
            NumericalError: a priority is not finite.
        """
        if not isinstance(info, Mapping) or not {"index", "priority"} <= info.keys():
            got = sorted(info) if isinstance(info, Mapping) else type(info).__name__
            raise SpecError(
                f"PrioritizedBuffer.update got {got}, expected a mapping with 'index' and 'priority'; take the index "
                "from sample(size, with_info=True)"
            )
        index, priority = (_vector(info[name]) for name in ("index", "priority"))
        if (
            index.ndim != 1
            or index.shape != priority.shape
            or (len(index) and (index.dtype.kind not in "iu" or priority.dtype.kind not in "iuf"))
        ):
            raise SpecError(
                f"PrioritizedBuffer.update: index is {index.dtype} {list(index.shape)} and priority "
                f"{priority.dtype} {list(priority.shape)}, expected int [M] and float [M]"
            )
        unknown = index[(index < 0) | (index >= self.push_count)]
        if len(unknown):
            raise SpecError(
                f"PrioritizedBuffer.update: there was never an item {unknown[0]}, {self.push_count} were appended; "
                "take the index from sample(size, with_info=True)"
            )
        finite = np.isfinite(priority)
        if not finite.all():
            bad = int(np.flatnonzero(~finite)[0])
            raise NumericalError(f"the priority of item {index[bad]} is {priority[bad]}, expected finite numbers")
        slot = index % self.maxlen
        held = self._index[slot] == index
        self._priorities.update(slot[held], priority[held])

    def clear(self) -> None:
        """Drops all objects."""
        for slot in np.argsort(self._index, kind="stable").tolist():
            self._release(slot)
        self._priorities.clear()

    def state_dict(self) -> dict[str, Any]:
        """Returns the objects (not copied), priorities, counters and the generator. It can be written by
        ``nervex.torch_utils.save_state`` when the objects are plain data: nested dicts, lists, tensors, numbers, text.
        """
        slots = np.flatnonzero(self._index != _FREE)
        return {
            "maxlen": self.maxlen,
            "slot": slots,
            "item": [self._item[s] for s in slots.tolist()],
            "index": self._index[slots],
            "use": self._use[slots],
            "push_count": self.push_count,
            "priorities": self._priorities.state_dict(),
            "rng": generator_state(self._rng),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` gave.

        Raises:
            CheckpointError: it is the state of a buffer of another size.
        """
        if state["maxlen"] != self.maxlen:
            raise CheckpointError(
                f"the saved buffer has maxlen {state['maxlen']}, this one {self.maxlen}; make one of the same size"
            )
        self._empty()
        slots = np.asarray(state["slot"])
        for slot, item in zip(slots.tolist(), state["item"], strict=True):
            self._item[slot] = item
        self._index[slots], self._use[slots] = state["index"], state["use"]
        self._count = len(slots)
        self.push_count = int(state["push_count"])
        self._priorities.load_state_dict(state["priorities"])
        load_generator_state(self._rng, state["rng"])


def _vector(value: Any) -> np.ndarray:
    array: np.ndarray = to_numpy(value) if isinstance(value, torch.Tensor) else np.asarray(value)
    return array
