"""Arguments of a user's own classes and functions, checked against their signatures."""

import functools

import pytest

from nervex.config.schema import check_signature
from nervex.config.source import ConfigSource
from nervex.utils.errors import ConfigError


class Net:
    def __init__(
        self, obs_dim: int, action_dim: int, *, embedding_dim: int = 64, head: object = None, width: float = 1
    ):
        pass


def sloppy(size: int = None):  # noqa: RUF013 (users annotate like this)
    pass


class AnyNet:
    def __init__(self, obs_dim, **kwargs):
        pass


SOURCE = ConfigSource({}, {("policy", "model"): 7, ("policy", "model", "embeding_dim"): 9}, "cartpole.yaml")


def signature_error(function, kwargs, **options):
    with pytest.raises(ConfigError) as e:
        check_signature(function, kwargs, SOURCE, ("policy", "model"), **options)
    return str(e.value)


def test_signature_accepts_and_converts():
    kwargs = {"obs_dim": 4.0, "action_dim": 2, "head": [1], "width": 2}
    result = check_signature(Net, kwargs, SOURCE, ("policy", "model"))
    assert result == {"obs_dim": 4, "action_dim": 2, "head": [1], "width": 2.0}
    assert type(result["obs_dim"]) is int
    assert result["head"] is not kwargs["head"]
    assert check_signature(AnyNet, {"obs_dim": 1, "x": 2}, SOURCE, ()) == {"obs_dim": 1, "x": 2}
    assert check_signature(functools.partial(Net, action_dim=2), {"obs_dim": 4}, SOURCE, ()) == {"obs_dim": 4}
    assert check_signature(Net, None, SOURCE, (), later=("obs_dim", "action_dim")) == {}
    assert check_signature(sloppy, {"size": None}, SOURCE, ()) == {"size": None}
    assert check_signature(print, {"end": "x"}, SOURCE, ()) == {"end": "x"}


def test_signature_refuses():
    full = {"obs_dim": 4, "action_dim": 2}
    assert signature_error(Net, {**full, "embeding_dim": 3}) == (
        "unknown key 'policy.model.embeding_dim' in cartpole.yaml:9; did you mean 'embedding_dim'?"
    )
    assert signature_error(functools.partial(Net, head=None), {**full, "qqq": 3}) == (
        "unknown key 'policy.model.qqq' in cartpole.yaml:7; Net takes: obs_dim, action_dim, embedding_dim, head, width"
    )
    assert signature_error(Net, {"obs_dim": 4}) == (
        "missing key 'policy.model.action_dim' in cartpole.yaml:7; Net needs it"
    )
    assert signature_error(Net, {**full, "embedding_dim": "sixty"}) == (
        "'policy.model.embedding_dim' in cartpole.yaml:7 is 'sixty' (str); expected int"
    )
    assert signature_error(AnyNet, {}) == "missing key 'policy.model.obs_dim' in cartpole.yaml:7; AnyNet needs it"
    assert signature_error(Net, [1]) == "'policy.model' in cartpole.yaml:7 is [1] (list); expected mapping"
