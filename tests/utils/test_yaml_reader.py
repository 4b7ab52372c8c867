"""Strict YAML: what is accepted, and the one clear error for each thing that is not."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nervex.utils.errors import ConfigError
from nervex.utils.yaml_reader import MAX_BYTES, dotted, parse_yaml, read_yaml, to_plain


def value_of(text):
    return parse_yaml(text, "x.yaml").data


def read_error(tmp_path, content):
    file = tmp_path / "x.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError) as e:
        read_yaml(file)
    return str(e.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e-3", 0.001),
        ("1E5", 100000.0),
        ("-2.5e+2", -250.0),
        (".5", 0.5),
        ("3.", 3.0),
        ("1_000.5", 1000.5),
        ("inf", math.inf),
        ("-inf", -math.inf),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("0", 0),
        ("-7", -7),
        ("1_000_000", 1000000),
        ("0xff", 255),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
    ],
)
def test_scalars_mean_what_they_look_like(text, expected):
    value = value_of(text)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    "text", ["yes", "no", "on", "off", "y", "2021-01-01", "1:30", "010", "e5", "1.2.3", "=", "<<", "'inf'", '"1e3"']
)
def test_all_else_is_a_string(text):
    assert value_of(text) == text.strip("'\"")


def test_nan_is_a_float():
    assert math.isnan(value_of(".nan"))


def test_bool_words_of_old_yaml_are_keys():
    assert value_of("on: 1\ny: 2\noff: 3") == {"on": 1, "y": 2, "off": 3}


def test_lines_of_keys_and_items():
    parsed = parse_yaml("a:\n  b: 1\n\n  c:\n    - 5\n    - {d: 6}\n", "x.yaml")
    assert parsed.data == {"a": {"b": 1, "c": [5, {"d": 6}]}}
    assert parsed.lines == {
        ("a",): 1,
        ("a", "b"): 2,
        ("a", "c"): 4,
        ("a", "c", 0): 5,
        ("a", "c", 1): 6,
        ("a", "c", 1, "d"): 6,
    }


def test_aliases_are_copies_and_merges_keep_the_lines_of_the_winner():
    parsed = parse_yaml(
        "p: &p {a: 1, sub: {b: 2}}\nq: &q\n  a: 3\nr:\n  <<: [*q, *p]\n  sub: 4\ns: *p\nt: {<<: *q}\n", "x.yaml"
    )
    assert parsed.data["r"] == {"a": 3, "sub": 4}
    assert parsed.data["t"] == {"a": 3}
    assert parsed.lines["r", "a"] == 3
    assert parsed.lines["r", "sub"] == 6
    assert ("r", "sub", "b") not in parsed.lines
    parsed.data["s"]["sub"]["b"] = 99
    assert parsed.data["p"]["sub"]["b"] == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "x.yaml is empty; expected a mapping such as 'policy: ...'"),
        ("# only words\n", "x.yaml is empty; expected a mapping such as 'policy: ...'"),
        ("- 1", "the top level of x.yaml is a list; expected a mapping such as 'policy: ...'"),
        ("hello", "the top level of x.yaml is a str; expected a mapping such as 'policy: ...'"),
        ("a:\n  b: 1\n  b: 2", "duplicate key 'a.b' in x.yaml:3; line 2 sets it already"),
        ("a: &a {}\nb:\n  <<: *a\n  <<: *a", "duplicate key 'b.<<' in x.yaml:4; line 3 sets it already"),
        ("a: 1\nb: !foo 1", "x.yaml:2 has the tag '!foo'; tags are not allowed, use plain values"),
        (
            "a: !!python/object/apply:os.system [ls]",
            "x.yaml:1 has the tag '!!python/object/apply:os.system'; tags are not allowed, use plain values",
        ),
        ("a: !!str 1", "x.yaml:1 has the tag '!!str'; tags are not allowed, use plain values"),
        ("a:\n  b: [1, 2\nc: 3", "x.yaml:2, column 6 is not valid YAML: while parsing a flow sequence"),
        ("a:\n\tb: 1", "indent with spaces, not tabs"),
        ("a: b: c", "x.yaml:1, column 5 is not valid YAML: mapping values are not allowed here"),
        ("a: *x", "x.yaml:1, column 4 is not valid YAML: found undefined alias 'x'"),
        ("a: &a [*a]", "the alias of the value in x.yaml:1 stands inside that value; expected no recursion"),
        ("a: &a {<<: *a}", "the alias of the value in x.yaml:1 stands inside that value; expected no recursion"),
        ("b: 1\n<<: 3", "'<<' in x.yaml:2 merges what is not a mapping; expected '<<: *name'"),
        ("a: 1\n---\nb: 1", "x.yaml:2 begins a second document ('---'); expected only one"),
        ("a:\n  1: 2", "key '1' in x.yaml:2 reads as int; keys are strings, quote it"),
        ("true: 2", "key 'true' in x.yaml:1 reads as bool; keys are strings, quote it"),
        ("? [1]\n: 2", "a key in x.yaml:1 is a list or mapping; keys are strings"),
        ("a:\n  __class__: 1", "key 'a.__class__' in x.yaml:2 is reserved by Python; expected another name"),
        ("a: 1e999", "'a' in x.yaml:1 is 1e999, which is too large for a float; write inf"),
        ("a: " + "9" * 5000, "'a' in x.yaml:1 is a number of 5000 digits"),
        ("a: " + "[" * 100_000, "x.yaml:1 is nested more than 64 levels deep"),
        ('a: "\\UFFFFFFFF"', "x.yaml is not valid YAML: "),
        ("%YAML 1." + "1" * 5000 + "\n---\na: 1", "x.yaml is not valid YAML: "),
        ("a: 1\nb: \x00", "x.yaml:2 holds a character that YAML does not allow"),
        (b"a: 1\nb: \xff\xfe", "x.yaml:2 is not UTF-8 text (byte 0xff)"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "x.yaml:1 is not UTF-8 text (byte 0x89)"),
        ("a" * (MAX_BYTES + 1), f"x.yaml has {MAX_BYTES + 1} bytes; a configuration has at most {MAX_BYTES}"),
    ],
)
def test_one_clear_error(tmp_path, content, message):
    error = read_error(tmp_path, content)
    assert message in error
    assert "\n" not in error


def test_alias_bombs_are_refused(tmp_path):
    def bomb(item):
        return "".join(item(i) for i in range(1, 12))

    lists = "a0: &a0 [x, x]\n" + bomb(lambda i: f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n")
    merges = "a0: &a0 {x: 1}\n" + bomb(lambda i: f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}\n")
    for text in (lists, merges):
        assert "expands to more than 100000 values; use fewer aliases" in read_error(tmp_path, text)
    chain = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 200))
    assert "is nested more than 64 levels deep" in read_error(tmp_path, chain)


def test_wide_files_are_refused(tmp_path):
    assert "goes beyond 100000 values" in read_error(tmp_path, "a: [" + "1," * 110_000 + "]")


def test_missing_file_names_the_nearest_one(tmp_path):
    (tmp_path / "cartpole_dqn.yaml").write_text("a: 1")
    with pytest.raises(ConfigError, match=r"no file .*cartpol_dqn.yaml; did you mean 'cartpole_dqn.yaml'\?"):
        read_yaml(tmp_path / "cartpol_dqn.yaml")
    with pytest.raises(ConfigError, match=r"no file .*nowhere/x.yaml$"):
        read_yaml(tmp_path / "nowhere" / "x.yaml")
    with pytest.raises(ConfigError, match=r"is a directory; expected a YAML file"):
        read_yaml(tmp_path)
    with pytest.raises(ConfigError, match=r"is not a regular file; expected a YAML file"):
        read_yaml("/dev/null")
    with pytest.raises(ConfigError, match=r"cannot read"):
        read_yaml(tmp_path / ("x" * 5000))


def test_byte_order_mark_is_no_part_of_the_first_key(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    assert read_yaml(file).data == {"a": 1, "b": 2}


def test_texts_without_lines_are_called_by_name():
    with pytest.raises(ConfigError, match=r"^'a=\[1' on the command line is not valid YAML: "):
        parse_yaml("[1", "'a=[1' on the command line", numbered=False)


def test_dotted():
    assert dotted(("policy", "model", "hidden", 2, "x")) == "policy.model.hidden[2].x"
    assert dotted(()) == ""


def test_to_plain_refuses_what_yaml_cannot_hold():
    with pytest.raises(ConfigError, match=r"'a.b' in config is of type object; expected numbers"):
        to_plain({"a": {"b": object()}}, "config")
    with pytest.raises(ConfigError, match=r"key 3 of 'a' in config is of type int; expected a string"):
        to_plain({"a": {3: 1}}, "config")
    with pytest.raises(ConfigError, match=r"'a' in config is an int of 5001 bits"):
        to_plain({"a": 2**5000}, "config")
    loop: dict = {}
    loop["a"] = loop
    with pytest.raises(ConfigError, match=r"nested more than 64 levels"):
        to_plain(loop, "config")


PIECES = [
    "a",
    "b: ",
    ": ",
    "- ",
    "\n",
    "\n  ",
    "{",
    "}",
    "[",
    "]",
    ", ",
    "&x ",
    "*x",
    "<<: ",
    "!t ",
    "'",
    '"',
    "#",
    "|",
    ">",
]
PIECES += ["---", "...", "%", "@", "1", "1e3", "\t", "?", "\\", "\x00", "é", "\ud800", "true", "null", "__a__"]


@given(st.lists(st.sampled_from(PIECES), max_size=20).map("".join))
@settings(max_examples=500, deadline=None)
def test_any_text_is_data_or_one_error(text):
    try:
        value = value_of(text)
    except ConfigError as e:
        assert "x.yaml" in str(e)
        assert len(str(e)) < 500
    else:
        assert to_plain(value, "x.yaml") == value
