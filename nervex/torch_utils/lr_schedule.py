"""Learning rates that change with the learner's iterations."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch

from nervex.utils.errors import CheckpointError, ConfigError, did_you_mean

#: factor as a function of (progress p from 0 to 1, factor at the end)
_SHAPES: dict[str, Callable[[float, float], float]] = {
    "constant": lambda p, end: 1.0,
    "linear": lambda p, end: 1 + (end - 1) * p,
    "cosine": lambda p, end: end + (1 - end) * (1 + math.cos(math.pi * p)) / 2,
    "exp": lambda p, end: end**p,
}

SCHEDULE_TYPES = tuple(_SHAPES)


class LRSchedule:
    """Sets the learning rate of every parameter group of some optimizers to its initial one times f(k).

        k < warmup:  f(k) = (k + 1) / (warmup + 1)
        after that:  p = min((k − warmup) / (length − warmup), 1)
            constant:  f = 1
            linear:    f = 1 + (end − 1)·p
            cosine:    f = end + (1 − end)·(1 + cos(π·p)) / 2     (Loshchilov & Hutter 2017,
                       https://arxiv.org/abs/1608.03983, eq. 5)
            exp:       f = end^p

    k counts the calls of :meth:`step`: call it after each update, so that update k (from 0) has the rate f(k) and the
    last of ``length`` updates is one step short of the end. Later ones stay at the end.

    Args:
        optimizer: one, or several whose rates move together; their present rates are the initial ones.
        type: ``'constant'``, ``'linear'``, ``'cosine'`` or ``'exp'``.
        length: learner iterations until the end, those of the warm-up among them; ``'constant'`` needs none.
        end_factor: f at the end.
        warmup: learner iterations during which the rate rises linearly.

    Raises:
        ConfigError: an unknown type, or a number out of its range.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer | Iterable[torch.optim.Optimizer],
        type: str = "constant",
        length: float | None = None,
        end_factor: float = 0.0,
        warmup: int = 0,
    ) -> None:
        if type not in _SHAPES:
            raise ConfigError(f"LRSchedule: unknown type '{type}'{did_you_mean(type, _SHAPES)} "
                              f"(known: {', '.join(_SHAPES)})")  # fmt: skip
        if warmup < 0:
            raise ConfigError(f"LRSchedule: warmup is {warmup}, expected at least 0")
        if type != "constant" and (length is None or not warmup < length < math.inf):
            raise ConfigError(f"LRSchedule: a '{type}' schedule needs a length above its warmup of {warmup}, got "
                              f"{length}; set it to the learner iterations of the run")  # fmt: skip
        lowest = "above 0" if type == "exp" else "at least 0"
        if end_factor < 0 or (type == "exp" and end_factor == 0):
            raise ConfigError(f"LRSchedule: end_factor of a '{type}' schedule is {end_factor}, expected {lowest}")
        self._optimizers = [optimizer] if isinstance(optimizer, torch.optim.Optimizer) else list(optimizer)
        self._shape = _SHAPES[type]
        self._span = 1.0 if length is None else length - warmup
        self._end = end_factor
        self._warmup = warmup
        self._initial = [float(group["lr"]) for group in self._groups()]
        self._iter = 0
        self._set()

    @property
    def factor(self) -> float:
        """The present f(k)."""
        if self._iter < self._warmup:
            return (self._iter + 1) / (self._warmup + 1)
        return self._shape(min((self._iter - self._warmup) / self._span, 1.0), self._end)

    def step(self) -> None:
        """Goes on by one learner iteration."""
        self._iter += 1
        self._set()

    def state_dict(self) -> dict[str, Any]:
        """Returns the iteration and the initial rates."""
        return {"iteration": self._iter, "initial_lr": list(self._initial)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` gave, and sets the rates.

        Raises:
            CheckpointError: the state is that of another number of parameter groups.
        """
        if len(state["initial_lr"]) != len(self._initial):
            raise CheckpointError(
                f"the learning rate schedule was saved for {len(state['initial_lr'])} parameter groups, this one has "
                f"{len(self._initial)}; use the same policy"
            )
        self._iter, self._initial = int(state["iteration"]), [float(lr) for lr in state["initial_lr"]]
        self._set()

    def _groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self._optimizers for group in optimizer.param_groups]

    def _set(self) -> None:
        factor = self.factor
        for group, initial in zip(self._groups(), self._initial, strict=True):
            group["lr"] = initial * factor
