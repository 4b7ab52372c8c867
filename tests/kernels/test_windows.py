"""n-step windows found by the compiled loop are those that array operations find."""

import sys

import numpy as np
import pytest

from nervex.data import window
from nervex.data.window import NStepWindow
from nervex.kernels.patience import MANY_CALLS, kernels_are_worth_it
from nervex.kernels.row_flags import ENDED, GAP, SEAM, VALID, WRITTEN


class Rows:
    """As much of a storage as a window asks for."""

    def __init__(self, flags, lane_num):
        self.flags, self.lane_num, self.capacity = flags, lane_num, len(flags)

    def step(self, slot, num):
        return (slot + num * self.lane_num) % self.capacity


@pytest.mark.parametrize("nstep", [1, 2, 5])
@pytest.mark.parametrize("seed", range(4))
def test_both_ways_find_the_same(monkeypatch, nstep, seed):
    rng = np.random.default_rng(seed)
    lane_num, length = int(rng.integers(1, 5)), int(rng.integers(6, 20))
    kinds = np.array([WRITTEN | VALID, WRITTEN | VALID, WRITTEN | VALID, WRITTEN | VALID | ENDED, WRITTEN,
                      WRITTEN | VALID | GAP, WRITTEN | VALID | SEAM, 0], np.uint8)  # fmt: skip
    rows = Rows(rng.choice(kinds, size=lane_num * length), lane_num)
    slot = rng.integers(0, rows.capacity, 300)
    plans = []
    for compiled in (True, False):
        monkeypatch.setattr(window, "kernels_are_worth_it", lambda calls, compiled=compiled: compiled)
        plans.append(NStepWindow(nstep, 0.9).plan(rows, slot))
    assert np.array_equal(plans[0].ok, plans[1].ok) and 0 < plans[0].ok.sum() < 300
    ok = plans[0].ok
    assert np.array_equal(plans[0].steps[ok], plans[1].steps[ok])
    assert nstep == 1 or len(set(plans[0].steps[ok])) > 1


def test_kernels_are_called_once_they_pay(monkeypatch):
    monkeypatch.setitem(sys.modules, "nervex.kernels.jit", None)
    monkeypatch.delitem(sys.modules, "nervex.kernels.jit")
    assert not kernels_are_worth_it(MANY_CALLS - 1) and kernels_are_worth_it(MANY_CALLS)
    monkeypatch.setitem(sys.modules, "nervex.kernels.jit", object())
    assert kernels_are_worth_it(1)
