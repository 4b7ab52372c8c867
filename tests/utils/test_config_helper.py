"""EasyDict files round-trip; merging copies."""

import copy
import math
import subprocess
import sys

import numpy as np
import pytest
from easydict import EasyDict
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nervex.utils.config_helper import deep_merge_dicts, deep_update, flatten_dict, read_config, save_config
from nervex.utils.errors import ConfigError

WORDS = ["inf", "-inf", ".inf", ".nan", "1e3", "1e-3", "yes", "no", "on", "y", "null", "~", "", "true", "0x1f", "010"]
WORDS += [
    "1:30",
    "2021-01-01",
    "<<",
    "=",
    "- a",
    "a: b",
    "#c",
    "!t",
    "*x",
    "&x",
    "a\nb",
    " a ",
    "\ufeffa",
    "\x85",
    "😀",
]
WORDS += ["1_000", "0o17", ".5", "'", '"', "%a", "@a", "---", "...", "?", "\ud800", "\t", "a\\", "x" * 300, "é" * 90]
METHODS = set(dir(EasyDict()))

keys = st.one_of(st.text(max_size=8), st.sampled_from(WORDS)).filter(
    lambda k: k not in METHODS and not k.startswith("__")
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**80), 2**80),
    st.floats(allow_nan=False),
    st.text(),
    st.sampled_from(WORDS),
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=12
)
configs = st.dictionaries(keys, values, max_size=5)


def types_of(value):
    if isinstance(value, dict):
        return {k: types_of(v) for k, v in value.items()}
    return [types_of(v) for v in value] if isinstance(value, list) else type(value)


@given(configs)
@example({"w": WORDS, **{w: w for w in WORDS if w not in METHODS}})
@example({"f": [1e-3, 1e-7, 1e22, 1e300, math.inf, -math.inf, -0.0, 5e-324], "n": [[[]], [{}, None]]})
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_read_gives_what_save_was_given(tmp_path, cfg):
    save_config(cfg, tmp_path / "c.yaml")
    back = read_config(tmp_path / "c.yaml")
    assert back == cfg
    assert types_of(back) == types_of(cfg)
    assert list(back) == list(cfg)


def test_read_config_gives_attributes(tmp_path):
    (tmp_path / "c.yaml").write_text("policy:\n  learn: {learning_rate: 1e-3}\n  hooks: [{name: a}]\n")
    cfg = read_config(str(tmp_path / "c.yaml"))
    assert cfg.policy.learn.learning_rate == 0.001
    assert cfg.policy.hooks[0].name == "a"


def test_save_takes_easydicts_tuples_and_numpy_numbers(tmp_path):
    shared = [1, 2]
    cfg = EasyDict({"a": (1, (2, 3)), "b": np.float32(0.5), "c": np.int64(7), "d": shared, "e": shared})
    save_config(cfg, tmp_path / "c.yaml")
    assert read_config(tmp_path / "c.yaml") == {"a": [1, [2, 3]], "b": 0.5, "c": 7, "d": [1, 2], "e": [1, 2]}
    assert "&" not in (tmp_path / "c.yaml").read_text()


def test_save_says_what_it_cannot_write(tmp_path):
    with pytest.raises(ConfigError, match=r"'a.net' in the configuration is of type object"):
        save_config({"a": {"net": object()}}, tmp_path / "c.yaml")
    assert not (tmp_path / "c.yaml").exists()
    with pytest.raises(ConfigError, match=r"cannot write .*nowhere.*No such file"):
        save_config({}, tmp_path / "nowhere" / "c.yaml")


def test_deep_merge_copies():
    original = EasyDict(a={"b": 1, "c": [1, {"d": 2}]}, e=5)
    new = {"a": {"b": [7], "x": {"y": 1}}, "e": {"f": 1}}
    before = copy.deepcopy(original), copy.deepcopy(new)
    merged = deep_merge_dicts(original, new)
    assert merged == {"a": {"b": [7], "c": [1, {"d": 2}], "x": {"y": 1}}, "e": {"f": 1}}
    assert merged.a.x.y == 1
    merged.a.c[1].d = 99
    merged.a.b.append(8)
    merged.a.x.y = 99
    assert (original, new) == before
    assert deep_merge_dicts(None, None) == {}
    assert type(deep_merge_dicts({}, {"a": 1})) is dict


def test_deep_update_refuses_new_keys_and_leaves_the_original_whole():
    original = {"a": 1, "learn": {"batch_size": 64}}
    with pytest.raises(ConfigError, match=r"^unknown key 'learn.bach_size'; did you mean 'batch_size'\?$"):
        deep_update(original, {"a": 2, "learn": {"bach_size": 3}})
    assert original == {"a": 1, "learn": {"batch_size": 64}}
    updated = deep_update(original, {"learn": {"batch_size": 3}})
    assert updated is original
    assert original == {"a": 1, "learn": {"batch_size": 3}}


def test_deep_update_whitelist_and_type_changes():
    original = {"env": {"id": 1, "deep": {"x": 1}}, "noise": {"type": "gauss", "sigma": 1}}
    deep_update(original, {"env": {"new": 2, "deep": {"y": 2}}}, whitelist=["env"])
    assert original["env"] == {"id": 1, "deep": {"x": 1, "y": 2}, "new": 2}
    deep_update(original, {"noise": {"type": "gauss", "sigma": 2}}, override_all_if_type_changes=["noise"])
    assert original["noise"] == {"type": "gauss", "sigma": 2}
    deep_update(original, {"noise": {"type": "ou", "theta": 3}}, override_all_if_type_changes=["noise"])
    assert original["noise"] == {"type": "ou", "theta": 3}
    with pytest.raises(ConfigError, match=r"unknown key 'noise.new'"):
        deep_update(original, {"noise": {"new": 3}}, whitelist=["env"])


def test_deep_update_does_not_alias():
    new = {"a": {"b": [1]}}
    original = deep_update({}, new, new_keys_allowed=True)
    original["a"]["b"].append(2)
    assert new == {"a": {"b": [1]}}


def test_flatten_dict():
    nested = {"a": {"b": {"c": 1}, "d": [1, {"e": 2}]}, "f": {}, "g": None}
    assert flatten_dict(nested) == {"a/b/c": 1, "a/d": [1, {"e": 2}], "f": {}, "g": None}
    assert flatten_dict({"a": {"b": 1}}, ".") == {"a.b": 1}


def test_imports_no_torch():
    code = "import sys, nervex.utils.config_helper, nervex.config.schema, nervex.config.frozen; "
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
