"""Dataclasses as schemas: types, bounds, defaults, unknown keys, signatures, documentation."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nervex.config.schema import IntOrInf, build, describe, key_paths, option
from nervex.config.source import ConfigSource, apply_overrides, read_source
from nervex.utils.errors import ConfigError


@dataclass
class Eps:
    type: Literal["exp", "linear"] = option("exp", doc="shape of the decay")
    start: float = option(0.95, ge=0, le=1, doc="exploration rate at iteration 0")


@dataclass
class Learn:
    learning_rate: float = option(gt=0)
    batch_size: int = option(64, doc="rows per update", unit="transitions", ge=1)
    hidden: list[int] = option([64, 64], ge=1)
    compile: bool = option(False)
    criterion: str = option("mse", choices=["mse", "huber"])
    clip: float | None = option(None, gt=0)


@dataclass
class Open:
    open_keys: ClassVar[bool] = True
    batch_size: int = option(8, ge=1)


@dataclass
class Top:
    learn: Learn = option()
    eps: Eps = option(default_factory=Eps)
    late_eps: Eps = option(default_factory=lambda: {"start": 0.1})
    extra_eps: Eps | None = option(None)
    user: Open = option()
    named: dict[str, Eps] = option({})


@dataclass
class One:
    value: Any = option()


def schema_of(annotation, **kwargs):
    @dataclass
    class Single:
        x: annotation = option(**kwargs)

    return Single


def built(annotation, value, **kwargs):
    return build(schema_of(annotation, **kwargs), {"x": value}, ConfigSource({}))["x"]


def error_of(annotation, value, **kwargs):
    with pytest.raises(ConfigError) as e:
        built(annotation, value, **kwargs)
    return str(e.value).removeprefix("'x' in config ")


def yaml_error(tmp_path, text, cls=Top, overrides=()):
    (tmp_path / "cartpole.yaml").write_text(text)
    source = apply_overrides(read_source(tmp_path / "cartpole.yaml"), overrides)
    with pytest.raises(ConfigError) as e:
        build(cls, source.data, source)
    return str(e.value)


EPS = {"type": "exp", "start": 0.95}


def test_defaults_are_filled_in():
    data = {"learn": {"learning_rate": 1, "hidden": (8,)}, "extra_eps": {"start": 0}, "named": {"a": {}}}
    assert build(Top, data, ConfigSource({})) == {
        "learn": {
            "learning_rate": 1.0,
            "batch_size": 64,
            "hidden": [8],
            "compile": False,
            "criterion": "mse",
            "clip": None,
        },
        "eps": EPS,
        "late_eps": {"type": "exp", "start": 0.1},
        "extra_eps": {"type": "exp", "start": 0.0},
        "user": {"batch_size": 8},
        "named": {"a": EPS},
    }


def test_defaults_of_a_section_survive_a_partial_section():
    data = {"learn": {"learning_rate": 1}, "late_eps": {"type": "linear"}}
    assert build(Top, data, ConfigSource({}))["late_eps"] == {"type": "linear", "start": 0.1}


def test_defaults_may_be_instances_anywhere():
    @dataclass
    class Deep:
        learn: Learn = option(default_factory=Learn)
        eps: Eps | None = option(default_factory=lambda: Eps("linear", 0))
        named: dict[str, Eps] = option(default_factory=lambda: {"a": Eps(start=1)})

    cfg = build(Deep, {"learn": {"learning_rate": 2}}, ConfigSource({}))
    assert cfg["learn"]["learning_rate"] == 2.0
    assert cfg["eps"] == {"type": "linear", "start": 0.0}
    assert cfg["named"] == {"a": {"type": "exp", "start": 1.0}}
    with pytest.raises(ConfigError, match=r"missing key 'learn\.learning_rate' in config"):
        build(Deep, {}, ConfigSource({}))


def test_an_empty_section_is_its_defaults():
    cfg = build(Top, {"learn": {"learning_rate": 1}, "eps": None}, ConfigSource({}))
    assert cfg["eps"] == EPS
    assert cfg["extra_eps"] is None


def test_nothing_is_aliased_and_nothing_changed():
    data = {"learn": {"learning_rate": 1, "hidden": [1]}, "user": {"mine": [1]}}
    one, two = (build(Top, data, ConfigSource({})) for _ in range(2))
    assert data == {"learn": {"learning_rate": 1, "hidden": [1]}, "user": {"mine": [1]}}
    one["learn"]["hidden"].append(2)
    one["user"]["mine"].append(2)
    one["named"]["x"] = 1
    fresh = build(Top, {"learn": {"learning_rate": 1}}, ConfigSource({}))
    fresh["learn"]["hidden"].append(3)
    assert build(Top, {"learn": {"learning_rate": 1}}, ConfigSource({}))["learn"]["hidden"] == [64, 64]
    assert two["learn"]["hidden"] == data["learn"]["hidden"] == data["user"]["mine"] == [1]
    assert two["named"] == {}


def test_unknown_key_names_line_and_near_name(tmp_path):
    error = yaml_error(tmp_path, "learn:\n  learning_rate: 1e-3\n  bach_size: 3\n")
    assert error == "unknown key 'learn.bach_size' in cartpole.yaml:3; did you mean 'batch_size'?"


def test_unknown_key_without_near_name_lists_the_known(tmp_path):
    error = yaml_error(tmp_path, "type: exp\nqqq: 1\n", Eps)
    assert error == "unknown key 'qqq' in cartpole.yaml:2; known here: type, start"


def test_key_at_the_wrong_level_is_told_where_it_belongs(tmp_path):
    error = yaml_error(tmp_path, "learn:\n  learning_rate: 1\n  start: 1\nbatch_size: 3\n")
    assert error == (
        "unknown key 'learn.start' in cartpole.yaml:3; did you mean 'eps.start'?\n"
        "unknown key 'batch_size' in cartpole.yaml:4; did you mean 'learn.batch_size'?"
    )


def test_keys_of_other_schemas_are_found_through_elsewhere():
    with pytest.raises(ConfigError, match=r"unknown key 'policy.nstep' in config; did you mean 'policy.learn.nstep'\?"):
        build(Eps, {"nstep": 1}, ConfigSource({}), ("policy",), {"nstep": ["eval.nstep", "policy.learn.nstep"]})


def test_wrong_type_names_line_and_expectation(tmp_path):
    error = yaml_error(tmp_path, "learn:\n  learning_rate: 1e-3\n  batch_size: sixty\n")
    assert error == "'learn.batch_size' in cartpole.yaml:3 is 'sixty' (str); expected int, at least 1"


def test_override_errors_say_command_line(tmp_path):
    error = yaml_error(tmp_path, "learn: {learning_rate: 1}", overrides=["learn.batch_size=0", "learn.foo=1"])
    assert error.splitlines()[0] == "'learn.batch_size' on the command line is 0; expected int, at least 1"
    assert error.splitlines()[1].startswith("unknown key 'learn.foo' on the command line; known here: learning_rate,")


def test_missing_key_is_located_at_its_section(tmp_path):
    error = yaml_error(tmp_path, "eps: {}\nlearn:\n  batch_size: 1\n")
    assert error == "missing key 'learn.learning_rate' in cartpole.yaml:2; expected float, greater than 0"
    assert yaml_error(tmp_path, "eps: {}\n").startswith("missing key 'learn.learning_rate' in cartpole.yaml; ")


def test_three_problems_are_told_and_the_rest_counted(tmp_path):
    text = "learn:\n  learning_rate: 0\n  batch_size: 0\n  hidden: [1, 0.5]\n  compile: 1\n  criterion: hubr\neps: 3\n"
    assert yaml_error(tmp_path, text).splitlines() == [
        "'learn.learning_rate' in cartpole.yaml:2 is 0; expected float, greater than 0",
        "'learn.batch_size' in cartpole.yaml:3 is 0; expected int, at least 1",
        "'learn.hidden[1]' in cartpole.yaml:4 is 0.5 (float); expected int, at least 1",
        "and 3 more",
    ]


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        (int, 64.0, 64),
        (int, 1e5, 100000),
        (float, 3, 3.0),
        (float, math.inf, math.inf),
        (Optional[int], None, None),  # noqa: UP045
        (int | None, 3, 3),
        (int | float, 3, 3),
        (int | float, 3.0, 3.0),
        (float | str, 3, 3.0),
        (int | str, "3", "3"),
        (bool | int, True, True),
        (str | list[str], ["a"], ["a"]),
        (Literal["a", 3], 3, 3),
        (list[float], [1, 2.5], [1.0, 2.5]),
        (tuple[int, ...], [1, 2], [1, 2]),
        (tuple[int, str], [1, "a"], [1, "a"]),
        (list, [1, "a"], [1, "a"]),
        (dict[str, float], {"a": 1}, {"a": 1.0}),
        (dict[str, list[int]], {"a": [1.0]}, {"a": [1]}),
        (Any, {"a": [None, "x"]}, {"a": [None, "x"]}),
        (IntOrInf, 3, 3),
        (IntOrInf, 3.0, 3),
        (IntOrInf, "inf", math.inf),
        (IntOrInf, "'inf'", math.inf),
        (IntOrInf, math.inf, math.inf),
        (IntOrInf | None, None, None),
        (IntOrInf | None, "inf", math.inf),
        (Eps | None, {"start": 1}, {"type": "exp", "start": 1.0}),
    ],
)
def test_accepted_values(annotation, value, expected):
    result = built(annotation, value)
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        (int, True, "is true (bool); expected int"),
        (int, 64.5, "is 64.5 (float); expected int"),
        (int, math.inf, "is inf (float); expected int"),
        (int, None, "is null; expected int"),
        (bool, 1, "is 1 (int); expected true or false"),
        (bool, "yes", "is 'yes' (str); expected true or false"),
        (float, "1", "is '1' (str); expected float"),
        (float, False, "is false (bool); expected float"),
        (float, math.nan, "is nan; expected float"),
        (float, 10**400, "expected float"),
        (str, 123, "is 123 (int); expected str (quote it: '123')"),
        (str, None, "is null; expected str"),
        (int | None, "a", "is 'a' (str); expected int or null"),
        (Literal["exp", "linear"], "lineer", "is 'lineer'; expected 'exp' or 'linear'; did you mean 'linear'?"),
        (Literal["exp", "linear"], 3, "is 3 (int); expected 'exp' or 'linear'"),
        (Literal[1], True, "is true (bool); expected 1"),
        (list[int], 3, "is 3 (int); expected list of int"),
        (tuple[int, str], [1], "is [1] (list); expected list of int, str"),
        (dict[str, int], [1], "is [1] (list); expected mapping of int"),
        (Eps, [1], "is [1] (list); expected mapping"),
        (int, {"a": 1}, "is a mapping; expected int"),
        (IntOrInf, 0, "is 0; expected positive int or inf"),
        (IntOrInf, 1.5, "is 1.5; expected positive int or inf"),
        (IntOrInf, -math.inf, "is -inf; expected positive int or inf"),
        (IntOrInf, math.nan, "is nan; expected positive int or inf"),
        (IntOrInf, "many", "is 'many' (str); expected positive int or inf"),
        (IntOrInf, True, "is true (bool); expected positive int or inf"),
        (Any, math.nan, "is nan; expected a number"),
    ],
)
def test_refused_values(annotation, value, expected):
    assert expected in error_of(annotation, value)


def test_nan_is_found_wherever_it_hides():
    hidden = {"a": [math.nan]}
    for annotation, value in ((Any, hidden), (dict, hidden), (list[Any], [hidden]), (int | dict, hidden)):
        with pytest.raises(ConfigError, match=r"is nan"):
            built(annotation, value)
    with pytest.raises(ConfigError, match=r"'mine\[0\]' in config is nan"):
        build(Open, {"mine": [math.nan]}, ConfigSource({}))


def test_problems_inside_a_union_are_located():
    assert "'x.start' in config is 2; expected float, from 0 to 1" in error_of(Eps | None, {"start": 2})
    assert "'x[1]' in config is 'a' (str); expected int" in error_of(list[int] | str, [1, "a"])


@pytest.mark.parametrize(
    ("bounds", "value", "expected"),
    [
        ({"ge": 1}, 0, "at least 1"),
        ({"gt": 0}, 0, "greater than 0"),
        ({"le": 1}, 2, "at most 1"),
        ({"lt": 1}, 1, "less than 1"),
        ({"ge": 0, "le": 1}, 2, "from 0 to 1"),
        ({"gt": 0, "lt": 1}, 1, "greater than 0 and less than 1"),
        ({"choices": [3, 5]}, 4, "one of 3, 5"),
    ],
)
def test_bounds(bounds, value, expected):
    assert error_of(int, value, **bounds) == f"is {value}; expected int, {expected}"


@given(st.integers(-5, 5), st.integers(-5, 5), st.integers(-5, 5), st.booleans(), st.booleans())
def test_bounds_are_those_of_mathematics(low, high, value, open_low, open_high):
    bounds = {"gt" if open_low else "ge": low, "lt" if open_high else "le": high}
    inside = (low < value if open_low else low <= value) and (value < high if open_high else value <= high)
    if inside:
        assert built(int | None, value, **bounds) == value
    else:
        error_of(int | None, value, **bounds)


def test_open_keys_keep_what_they_do_not_know_and_check_what_they_do():
    assert build(Open, {"batch_size": 3.0, "mine": {"x": (1,)}}, ConfigSource({})) == {
        "batch_size": 3,
        "mine": {"x": [1]},
    }
    with pytest.raises(ConfigError, match=r"'batch_size' in config is -1; expected int, at least 1"):
        build(Open, {"batch_size": -1}, ConfigSource({}))


def test_a_bad_default_is_the_programmers_error():
    @dataclass
    class Bad:
        x: int = option(0, ge=1)

    with pytest.raises(TypeError, match=r"'x' in the defaults of Bad is 0; expected int, at least 1"):
        build(Bad, {}, ConfigSource({}))
    with pytest.raises(TypeError, match=r"a schema cannot hold .*set.* \('x'\)"):
        built(set[int], [1])


def test_schemas_are_dataclasses_that_can_be_made():
    assert Eps().start == 0.95
    assert Eps(start=0.5) == Eps("exp", 0.5)
    one, two = Learn(learning_rate=1), Learn(learning_rate=1)
    one.hidden.append(1)
    assert two.hidden == [64, 64]
    with pytest.raises(TypeError, match=r"a required option has no default"):
        One()


def test_key_paths():
    assert key_paths(Top, ("policy",))["start"] == [
        "policy.eps.start",
        "policy.late_eps.start",
        "policy.extra_eps.start",
    ]
    assert key_paths(Top)["learn"] == ["learn"]


def test_describe():
    rows = {row["path"]: row for row in describe(Top, ("policy",))}
    assert rows["policy.learn.batch_size"] == {
        "path": "policy.learn.batch_size",
        "type": "int",
        "default": "64",
        "unit": "transitions",
        "doc": "rows per update",
        "constraint": "at least 1",
    }
    assert rows["policy.learn.learning_rate"]["default"] == "required"
    assert rows["policy.learn.compile"]["default"] == "false"
    assert rows["policy.learn.clip"]["type"] == "float or null"
    assert rows["policy.late_eps.start"]["default"] == "0.1"
    assert rows["policy.extra_eps"]["default"] == "null"
    assert rows["policy.named.<name>.type"]["type"] == "'exp' or 'linear'"
    assert "policy.learn" not in rows
