"""Comparison of states: bit for bit, with the first difference named."""

from typing import Any

import numpy as np
import pytest
import torch

from nervex.entry.state_diff import compare_states


def state(**changes: Any) -> dict[str, Any]:
    tree = {
        "weights": {"w": torch.tensor([[1.0, float("nan")], [0.0, 3.0]]), "b": torch.ones(2, dtype=torch.bfloat16)},
        "rng": [1, 2.5, "x", b"y", None, True],
        "array": {"a": np.arange(3), "zero": np.zeros(0), "scalar": np.float32(1), "empty": {}},
        "log": {"metrics.jsonl": 10},
        "run": {"wall_s": 1.0, "cpu_s": 1.0, "loop": 3},
        "policy": {"_optimizer": {"state": {0: torch.zeros(2)}}, "_count": 4},
    }
    return {**tree, **changes}


def test_equal_states_have_equal_digests() -> None:
    one, two = (
        compare_states(state(), state(log={}, run={"wall_s": 9.0, "cpu_s": 0.0, "loop": 3})),
        compare_states(state(), state()),
    )
    assert [p.first for p in one] == [None] * len(one)
    assert [p.digest for p in one] == [p.digest for p in two]
    assert [p.part for p in one] == ["weights", "rng", "array", "run", "policy/_optimizer", "policy/_count"]
    assert {p.part: p.leaf_num for p in one}["rng"] == 6


@pytest.mark.parametrize(
    ("changes", "part", "first"),
    [
        ({"weights": {"w": torch.tensor([[1.0, float("nan")], [-0.0, 3.0]]), "b": torch.ones(2, dtype=torch.bfloat16)}},
         "weights", "weights/w: 1 of 4 elements, first [2] 0.0, then -0.0"),
        ({"weights": {"w": torch.tensor([[1.0, float("nan")], [0.0, 3.0]]), "b": torch.ones(2)}},
         "weights", "weights/b is torch.bfloat16 [2], then torch.float32 [2]"),
        ({"rng": [1, 2.5, "x", b"y", None, 1]}, "rng", "rng/5 is True, then 1"),
        ({"rng": [1, 2.5, "x", b"y", None]}, "rng", "rng/5 is in the first only"),
        ({"run": {"loop": 4}}, "run", "run/loop is 3, then 4"),
        ({"policy": {"_optimizer": {"state": {0: torch.tensor([0.0, 1.0])}}, "_count": 4}}, "policy/_optimizer",
         "policy/_optimizer/state/0: 1 of 2 elements, first [1] 0.0, then 1.0"),
    ],
)  # fmt: skip
def test_the_first_difference_is_named(changes: dict[str, Any], part: str, first: str) -> None:
    different = [p for p in compare_states(state(), state(**changes)) if p.first is not None]
    assert [(p.part, p.first) for p in different] == [(part, first)]


def test_a_part_that_only_one_has() -> None:
    found = compare_states(state(), {k: v for k, v in state().items() if k != "rng"})
    assert [p.part for p in found if p.first is not None] == ["rng"]
