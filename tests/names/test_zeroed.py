"""What a function is replaced by."""

import abc
import sys
from collections import namedtuple
from enum import Enum
from types import ModuleType

import numpy as np
import pytest
import replace_by_zeros
import torch
from names_table import Name
from torch import nn
from zeroed import replace, zeroed, zeros

Pair = namedtuple("Pair", "a b")


class Thing:
    """Something with a property, methods, and state."""

    def __init__(self) -> None:
        self.x = 3

    @property
    def val(self) -> int:
        return self.x

    @staticmethod
    def twice(x: int) -> int:
        return 2 * x

    def put(self, x: int) -> None:
        self.x = x

    def get(self) -> list[int]:
        return [self.x]


def test_zeros_keep_the_structure() -> None:
    value = {"t": torch.ones(2, dtype=torch.int8), "l": [1, 2.5, True, "s"], "p": Pair(np.ones(3), (None,))}
    found = zeros(value)
    assert found["t"].tolist() == [0, 0] and found["t"].dtype is torch.int8 and found["l"] == [0, 0.0, False, ""]
    assert type(found["p"]) is Pair and found["p"].a.tolist() == [0, 0, 0] and found["p"].b == (None,)
    assert value["l"] == [1, 2.5, True, "s"] and value["t"].tolist() == [1, 1]


def test_zeros_of_tensors_have_zero_gradients() -> None:
    x = torch.ones(2, requires_grad=True)
    zeros(3 * x).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [0, 0]
    assert zeros(x / 0).tolist() == [0, 0]


def test_zeros_of_functions_modules_and_objects() -> None:
    assert zeros(lambda x: x + 1)(3) == 0
    assert zeros(nn.Linear(2, 3))(torch.ones(1, 2)).tolist() == [[0, 0, 0]]
    assert zeros(nn.LayerNorm)(3)(torch.ones(1, 3)).tolist() == [[0, 0, 0]]
    thing = Thing()
    assert zeros(thing).x == 0 and thing.x == 3 and zeros(object()) is None


def test_what_is_there_for_its_effect_does_nothing() -> None:
    seen: list[int] = []

    def effect(x: int) -> None:
        seen.append(x)

    zeroed(effect)(1)
    assert seen == []


@pytest.mark.parametrize("method, expected", [("val", (0, 6, [7])), ("twice", (7, 0, [7])), ("put", (3, 6, [3])),
                                              ("get", (7, 6, [0])), (None, (0, 0, [0]))])  # fmt: skip
def test_one_method_or_all(method: str | None, expected: tuple[int, int, list[int]]) -> None:
    copy = type("Thing", (Thing,), dict(Thing.__dict__))
    replace(copy, method)
    thing = copy()
    thing.put(7)
    assert (thing.val, thing.twice(3), thing.get()) == expected


def test_an_abstract_method_need_not_be_written_any_more() -> None:
    class Base(abc.ABC):
        @abc.abstractmethod
        def size(self) -> int: ...

    with pytest.raises(TypeError, match="abstract"):
        Base()  # type: ignore[abstract]
    replace(Base)
    assert Base().size() is None  # type: ignore[abstract, func-returns-value]


def test_values_of_an_enumeration() -> None:
    kind = Enum("kind", {"A": 3, "B": "x"})
    replace(kind)
    assert [member.value for member in kind] == [0, ""] and kind.A.name == "A"


def test_named_tuples_are_made_of_zeros() -> None:
    kind = namedtuple("kind", "x y")
    replace(kind)
    assert tuple(kind(torch.ones(1), y=2.5)) == (torch.zeros(1), 0.0)


def test_a_function_is_replaced_wherever_it_is_held() -> None:
    def function() -> int:
        return 5

    modules = [ModuleType(f"held_{i}") for i in range(2)]
    for module, name in zip(modules, ("f", "g"), strict=True):
        setattr(module, name, function)
        sys.modules[module.__name__] = module
    replace(function)
    assert modules[0].f() == 0 and modules[1].g() == 0
    for module in modules:
        del sys.modules[module.__name__]


def test_the_command_notices_tests_that_notice_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    tests = [f"tests/names/{case}_case.py" for case in ("blind", "sharp")]
    names = [Name("nervex.utils", "flatten_dict", (), test) for test in tests]
    assert [replace_by_zeros.judge(name, None, {})[0] for name in names] == [False, True]
    monkeypatch.setattr(replace_by_zeros, "read_names", lambda: names)
    assert replace_by_zeros.main(["--only", "blind_case"]) == 1
