"""How many faults of its envs a manager mends before it gives up, and what it says of each."""

import logging
import time
import traceback
from collections import deque

from nervex.utils.errors import ConfigError, EnvFault

_logger = logging.getLogger("nervex")


MOST_IN_A_ROW = 5  # failures to begin an episode, whatever time they take


def give_up(fault: EnvFault, times: int) -> EnvFault:
    """Returns what is raised when an env has failed ``times`` times in a row, ``fault`` being the last one."""
    error = EnvFault(f"{fault}; it has failed so {times} times in a row, mend the env", fault.env_id, fault.step)
    for note in getattr(fault, "__notes__", ()):
        error.add_note(note)
    error.__cause__ = fault.__cause__
    return error


class FaultBudget:
    """Allows ``budget`` faults within any ``window_s`` seconds.

    The first, second, fourth, eighth, ... fault is logged, so that an env that fails for days does not flood the log.

    Args:
        budget: faults; 0: none is mended.
        window_s: seconds.

    Attributes:
        count: faults that were mended so far.
    """

    def __init__(self, budget: int, window_s: float) -> None:
        if budget < 0:
            raise ConfigError(f"fault_budget of an env manager is {budget}, expected 0 or more")
        if not float(window_s) > 0:
            raise ConfigError(f"fault_window_s of an env manager is {window_s}, expected a number above 0")
        self.count = 0
        self._budget = budget
        self._window_s = window_s
        self._recent: deque[float] = deque()

    def spend(self, fault: EnvFault) -> None:
        """Takes note of a fault that is about to be mended.

        Raises:
            EnvFault: it is one too many.
        """
        now = time.monotonic()
        self._recent.append(now)
        while self._recent[0] < now - self._window_s:
            self._recent.popleft()
        if len(self._recent) > self._budget:
            raise self._too_many(fault) if self._budget else fault
        self.count += 1
        if self.count & (self.count - 1) == 0:
            _logger.warning(  # text, as a record that is kept must not keep the envs
                "%s; the env is replaced and its episode cut off there (fault %d; shown next: fault %d)%s",
                str(fault), self.count, 2 * self.count, _traceback_of(fault),
            )  # fmt: skip

    def _too_many(self, fault: EnvFault) -> EnvFault:
        error = EnvFault(
            f"{fault}; this was fault {len(self._recent)} within {self._window_s:g} s, env.manager.fault_budget allows "
            f"{self._budget}; mend the env, or raise fault_budget",
            fault.env_id,
            fault.step,
        )
        for note in getattr(fault, "__notes__", ()):
            error.add_note(note)
        error.__cause__ = fault.__cause__
        return error


def _traceback_of(fault: EnvFault) -> str:
    """Returns the traceback in the env, if it raised: here that is the cause, from another process it is a note."""
    if fault.__cause__ is not None:
        return "\n" + "".join(traceback.format_exception(fault.__cause__))
    return "".join(f"\n{note}" for note in getattr(fault, "__notes__", ()))
