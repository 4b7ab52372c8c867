from collections import namedtuple
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nervex.utils import default_get, dicts_to_lists, iter_mapping, list_split, lists_to_dicts, squeeze
from nervex.utils.errors import SpecError

Step = namedtuple("Step", ["obs", "reward"])


def test_iter_mapping_calls_when_asked() -> None:
    asked: list[int] = []
    mapped = iter_mapping([1, 2, 3], lambda x: asked.append(x) or 10 * x)
    assert asked == []
    assert next(mapped) == 10 and asked == [1]
    assert list(mapped) == [20, 30]


def test_lists_to_dicts() -> None:
    assert lists_to_dicts([{"a": 1, "b": 2}, {"a": 3, "b": 4}]) == {"a": [1, 3], "b": [2, 4]}
    nested = [{"a": {"x": 1}, "b": 5}, {"a": {"x": 2}, "b": 6}]
    assert lists_to_dicts(nested) == {"a": [{"x": 1}, {"x": 2}], "b": [5, 6]}
    assert lists_to_dicts(nested, recursive=True) == {"a": {"x": [1, 2]}, "b": [5, 6]}
    assert lists_to_dicts([Step(1, 0.5), Step(2, 1.5)]) == Step([1, 2], [0.5, 1.5])


@settings(max_examples=40)
@given(st.lists(st.fixed_dictionaries({"a": st.integers(), "b": st.booleans()}), min_size=1))
def test_lists_to_dicts_is_undone(data: list[dict[str, Any]]) -> None:
    assert dicts_to_lists(lists_to_dicts(data)) == data


@settings(max_examples=40)
@given(st.lists(st.integers()), st.integers(1, 7))
def test_list_split(data: list[int], step: int) -> None:
    blocks, residual = list_split(data, step)
    assert len(blocks) == len(data) // step and all(len(block) == step for block in blocks)
    assert (residual is None) == (len(data) % step == 0)
    assert [x for block in blocks for x in block] + list(residual or []) == data


def test_squeeze() -> None:
    assert [squeeze(x) for x in ([7], (7,), {"a": 7}, 7)] == [7, 7, 7, 7]
    assert [squeeze(x) for x in ([], [1, 2], {"a": 1, "b": 2}, "x")] == [[], [1, 2], {"a": 1, "b": 2}, "x"]


def test_default_get() -> None:
    def never() -> int:
        raise AssertionError("called although the key is there")

    assert default_get({"a": None}, "a", 3, never) is None
    assert default_get({}, "a", 3) == 3
    assert default_get({}, "a", 3, lambda: 4, lambda x: x > 3) == 4
    with pytest.raises(SpecError, match="there is no 'epoch', and no default for it; did you mean 'epochs'"):
        default_get({"epochs": 1}, "epoch")
    with pytest.raises(SpecError, match="the default -1 of 'a' is no sound value"):
        default_get({}, "a", -1, judge_fn=lambda x: x > 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lists_to_dicts([]), "lists_to_dicts got an empty list"),
        (lambda: lists_to_dicts([{"a": 1}, {"b": 1}]), r"the keys \['b'\] in item 1, \['a'\] in item 0"),
        (lambda: lists_to_dicts([{"a": 1}, 2]), "lists_to_dicts got dict, int; expected mappings"),
        (lambda: lists_to_dicts([Step(1, 2), (1, 2)]), "got Step, tuple; expected namedtuples of one type"),
        (lambda: dicts_to_lists({"a": [1], "b": [1, 2]}), r"lengths \{'a': 1, 'b': 2\}; expected one length"),
        (lambda: dicts_to_lists({}), "dicts_to_lists got {}; expected a mapping of at least one list"),
        (lambda: dicts_to_lists({"a": 1}), "expected a mapping of at least one list"),
        (lambda: list_split([1], 0), "list_split got step=0; expected at least 1"),
    ],
)
def test_wrong_data_is_one_clear_sentence(call: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        call()
