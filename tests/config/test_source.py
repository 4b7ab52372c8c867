"""Sources: copies, positions, overrides."""

from types import MappingProxyType

import numpy as np
import pytest
from easydict import EasyDict

from nervex.config.source import ConfigSource, apply_overrides, fail, locate, read_source, where
from nervex.utils.errors import ConfigError

TEXT = "policy:\n  learn:\n    batch_size: 64\n    algo: 3\n  empty:\nenv:\n  wrappers: [x, y]\n"


@pytest.fixture
def source(tmp_path):
    (tmp_path / "cartpole.yaml").write_text(TEXT)
    return read_source(tmp_path / "cartpole.yaml")


def test_read_source(source, tmp_path):
    assert source.data == {
        "policy": {"learn": {"batch_size": 64, "algo": 3}, "empty": None},
        "env": {"wrappers": ["x", "y"]},
    }
    assert source.name == "cartpole.yaml"
    assert source.directory == tmp_path.resolve()


def test_locate(source):
    assert locate(source, ("policy", "learn", "batch_size")) == "cartpole.yaml:3"
    assert locate(source, ("policy", "learn", "absent", "deep")) == "cartpole.yaml:2"
    assert locate(source, ("absent",)) == "cartpole.yaml"
    assert where(source, ("env", "wrappers", 1)) == "in cartpole.yaml:7"


def test_fail(source):
    with pytest.raises(ConfigError) as e:
        fail(source, ("policy", "learn", "batch_size"), "is 64, more than the buffer holds (32)")
    assert str(e.value) == "'policy.learn.batch_size' in cartpole.yaml:3 is 64, more than the buffer holds (32)"


def test_from_dict_copies_into_plain_data():
    data = EasyDict(a={"b": [1, {"c": 2}], "t": (1, (2,))}, n=np.int64(3))
    source = ConfigSource.from_dict(data)
    assert source.data == {"a": {"b": [1, {"c": 2}], "t": [1, [2]]}, "n": 3}
    assert type(source.data["a"]) is dict and type(source.data["a"]["b"][1]) is dict
    assert type(source.data["n"]) is int
    source.data["a"]["b"][1]["c"] = 99
    assert data.a.b[1].c == 2
    assert locate(source, ("a", "b")) == "config"
    assert source.directory is None
    assert ConfigSource.from_dict(MappingProxyType({"a": 1}), "mine").data == {"a": 1}


def test_from_dict_refuses_what_is_no_configuration():
    with pytest.raises(ConfigError, match=r"^mine is a list; expected a mapping$"):
        ConfigSource.from_dict([1], "mine")
    with pytest.raises(ConfigError, match=r"'a' in mine is of type ndarray"):
        ConfigSource.from_dict({"a": np.zeros(2)}, "mine")


def test_overrides(source):
    new = apply_overrides(
        source,
        [
            "policy.learn.batch_size=1e-3",
            "env.wrappers=[a, {b: c}]",
            "env.id= Acrobot-v1",
            "a.b.c=x=y",
            "policy.empty.z=1",
            "env.none=",
        ],
    )
    assert new.data == {
        "policy": {"learn": {"batch_size": 0.001, "algo": 3}, "empty": {"z": 1}},
        "env": {"wrappers": ["a", {"b": "c"}], "id": "Acrobot-v1", "none": None},
        "a": {"b": {"c": "x=y"}},
    }
    assert source.data["policy"]["learn"]["batch_size"] == 64
    assert locate(source, ("policy", "learn", "batch_size")) == "cartpole.yaml:3"
    assert (new.name, new.directory) == (source.name, source.directory)


def test_overridden_keys_stand_on_the_command_line(source):
    new = apply_overrides(source, ["policy.learn={batch_size: 1}", "a.b=1", "env.wrappers=[z]"])
    assert where(new, ("policy", "learn", "batch_size")) == "on the command line"
    assert locate(new, ("a", "b")) == "the command line"
    assert locate(new, ("a", "c")) == "the command line"
    assert locate(new, ("env", "wrappers", 1)) == "the command line"
    assert locate(new, ("policy", "empty")) == "cartpole.yaml:5"


def test_the_last_override_wins(source):
    new = apply_overrides(source, ["a.b=1", "a={c: 2}", "a.d=3"])
    assert new.data["a"] == {"c": 2, "d": 3}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("policy.learn", "'policy.learn' on the command line has no '='; expected key.sub=value"),
        ("=3", "'=3' on the command line has an empty key; expected key.sub=value"),
        ("a..b=3", "'a..b=3' on the command line has an empty key; expected key.sub=value"),
        (
            "policy.learn.algo.nstep=3",
            "cannot set 'policy.learn.algo.nstep' on the command line: 'policy.learn.algo' is 3, not a mapping",
        ),
        (
            "env.wrappers.x=3",
            "cannot set 'env.wrappers.x' on the command line: 'env.wrappers' is ['x', 'y'], not a mapping",
        ),
        ("a=!!python/object:x y", "'a=!!python/object:x y' on the command line has the tag '!!python/object:x'"),
        ("a=[1", "'a=[1' on the command line is not valid YAML: "),
        ("a=#fff", "'a=#fff' on the command line gives only a YAML comment; quote the value"),
        ("a={1: 2}", "key '1' in 'a={1: 2}' on the command line reads as int"),
    ],
)
def test_bad_overrides(source, override, message):
    with pytest.raises(ConfigError) as e:
        apply_overrides(source, [override])
    assert message in str(e.value)
