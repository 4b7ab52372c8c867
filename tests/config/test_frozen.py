"""The resolved configuration cannot be changed and says which key is not there."""

import copy
import json
import pickle

import pytest

from nervex.config.frozen import FrozenConfig
from nervex.utils.errors import ConfigError


@pytest.fixture
def data():
    return {"policy": {"learn": {"algo": {"nstep": 3}}, "model": {"obs_dim": 4}}, "hooks": [{"name": "a"}, [1], {1, 2}]}


@pytest.fixture
def cfg(data):
    return FrozenConfig(data)


def test_attribute_and_item_access(cfg, data):
    assert cfg.policy.learn.algo.nstep == cfg["policy"]["learn"]["algo"]["nstep"] == 3
    assert cfg.hooks[0].name == "a"
    assert dict(**cfg.policy.model) == {"obs_dim": 4}
    assert isinstance(cfg, dict)
    assert cfg == data
    assert cfg.get("nothing", 7) == 7
    assert "policy" in dir(cfg)


def test_missing_keys_give_path_and_near_name(cfg):
    with pytest.raises(AttributeError) as e:
        cfg.policy.learn.algo.nstpe
    assert str(e.value) == "no key 'policy.learn.algo.nstpe'; did you mean 'nstep'?"
    with pytest.raises(KeyError, match=r"no key 'hooks\[0\]\.nam'; did you mean 'name'"):
        cfg.hooks[0]["nam"]
    assert not hasattr(cfg, "absent")
    assert getattr(cfg.policy, "absent", 5) == 5
    assert "absent" not in cfg


def _delete_attribute(c):
    del c.learn


def _delete_item(c):
    del c["learn"]


def _or(c):
    c |= {"learn": 1}


@pytest.mark.parametrize(
    "change",
    [
        lambda c: setattr(c, "learn", 1),
        lambda c: c.__setitem__("learn", 1),
        lambda c: c.pop("learn"),
        lambda c: c.pop("learn", None),
        lambda c: c.setdefault("learn", 1),
        lambda c: c.update(learn=1),
        lambda c: c.popitem(),
        lambda c: c.clear(),
        _delete_attribute,
        _delete_item,
        _or,
    ],
)
def test_nothing_changes_it(cfg, data, change):
    with pytest.raises(
        ConfigError, match=r"^cannot change 'policy(\.learn)?': the resolved configuration is read-only"
    ):
        change(cfg.policy)
    assert cfg == data


def test_input_is_not_aliased(cfg, data):
    data["policy"]["learn"]["algo"]["nstep"] = 99
    data["hooks"][1].append(2)
    data["hooks"][2].add(3)
    assert cfg.hooks[2] == {1, 2}
    assert cfg.policy.learn.algo.nstep == 3
    assert cfg.hooks[1] == [1]


@pytest.mark.parametrize("thaw", [FrozenConfig.to_dict, FrozenConfig.copy])
def test_copies_are_plain_and_free(cfg, data, thaw):
    plain = thaw(cfg)
    assert plain == data
    assert type(plain["policy"]["learn"]) is dict and type(plain["hooks"][0]) is dict
    plain["policy"]["learn"]["x"] = 1
    plain["hooks"][1].append(2)
    assert cfg == data
    assert json.loads(json.dumps(cfg.policy)) == data["policy"]


@pytest.mark.parametrize("duplicate", [copy.deepcopy, copy.copy, lambda c: pickle.loads(pickle.dumps(c))])
def test_duplicates_are_equal_and_still_frozen(cfg, duplicate):
    twin = duplicate(cfg.policy)
    assert twin == cfg.policy
    with pytest.raises(ConfigError, match=r"cannot change 'policy\.learn\.algo\.nstep'"):
        twin.learn.algo.nstep = 4
    if duplicate is copy.deepcopy:
        assert twin is not cfg.policy
