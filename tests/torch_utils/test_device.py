"""Trees on devices, and the number of threads."""

from collections import OrderedDict, namedtuple

import numpy as np
import pytest
import torch
from easydict import EasyDict

from nervex.torch_utils import device
from nervex.torch_utils.device import device_of, pick_threads, to_device

Pair = namedtuple("Pair", "a b")


def test_every_tensor_moves_and_every_type_stays():
    item = {
        "d": EasyDict(x=torch.ones(2), name="n"),
        "o": OrderedDict(k=torch.ones(1)),
        "l": [torch.ones(1), (torch.ones(1), None)],
        "p": Pair(torch.ones(1), 3),
        "plain": (1, 2.5, True, "s", None),
    }
    # the meta device is one to which every machine can move
    moved = to_device(item, "meta")
    assert moved["d"].x.is_meta and moved["o"]["k"].is_meta and moved["l"][0].is_meta and moved["l"][1][0].is_meta
    assert type(moved["p"]) is Pair and moved["p"].a.is_meta and moved["p"].b == 3
    assert type(moved["d"]) is EasyDict and type(moved["o"]) is OrderedDict and type(moved["l"][1]) is tuple
    assert moved["plain"] == item["plain"] and moved["d"].name == "n" and list(moved) == list(item)
    assert not item["d"].x.is_meta and not item["l"][0].is_meta, "the caller's tree was changed"


def test_ignored_keys_stay_at_any_depth():
    moved = to_device({"a": {"info": torch.ones(1), "x": torch.ones(1)}, "info": [torch.ones(1)]}, "meta", ["info"])
    assert not moved["a"]["info"].is_meta and not moved["info"][0].is_meta and moved["a"]["x"].is_meta


def test_what_is_there_already_is_not_copied():
    tensor = torch.ones(2)
    assert to_device([tensor], "cpu")[0] is tensor


def test_modules_move():
    assert to_device(torch.nn.Linear(1, 1), "meta").weight.is_meta


@pytest.mark.parametrize("item", [np.ones(2), {1}, object()])
def test_what_cannot_move_is_refused(item):
    with pytest.raises(TypeError, match=r"to_device cannot move a \w+ to meta; make it a tensor first"):
        to_device({"a": [item]}, "meta")


def test_threads_grow_with_the_work_and_not_beyond_the_cpus(monkeypatch):
    monkeypatch.setattr(device, "_usable_cpus", lambda: 4)
    assert pick_threads(param_count=0, batch_size=1) == 1
    assert pick_threads(param_count=9_000, batch_size=256) == 1  # a 64-64 network
    assert pick_threads(param_count=3 * 73_000, batch_size=256) == 1  # SAC, 256-256
    assert pick_threads(param_count=1_700_000, batch_size=256) == 1  # the Nature CNN
    assert pick_threads(param_count=10_000_000, batch_size=166) == 1  # 9.96 GFLOP
    assert pick_threads(param_count=10_000_000, batch_size=167) == 2  # 10.02 GFLOP
    assert pick_threads(param_count=10_000_000, batch_size=500) == 4
    assert pick_threads(param_count=10_000_000, batch_size=10_000) == 4
    monkeypatch.setattr(device, "_usable_cpus", lambda: 1)
    assert pick_threads(param_count=10_000_000, batch_size=10_000) == 1


def test_usable_cpus_are_counted():
    assert device._usable_cpus() >= 1


def test_the_device_of_a_module():
    assert device_of(torch.nn.Linear(1, 1).to("meta")) == torch.device("meta")
    assert device_of(torch.nn.ReLU()) == torch.device("cpu")
