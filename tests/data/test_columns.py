from collections import namedtuple

import numpy as np
import pytest
import torch
from easydict import EasyDict
from hypothesis import given
from hypothesis import strategies as st

from nervex.data.columns import flatten, nbytes, nest, to_numpy, to_plain
from nervex.data.lanes import LaneBlock

names = st.text("abcxyz_", min_size=1, max_size=3)
trees = st.dictionaries(
    names,
    st.recursive(
        st.integers(0, 9).map(lambda n: np.full((2, 1), n)),
        lambda children: st.dictionaries(names, children, min_size=1, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)


@given(trees)
def test_nest_is_the_inverse_of_flatten(tree):
    flat = flatten(tree)
    assert nest(flat) == tree or repr(nest(flat)) == repr({k: tree[k] for k in nest(flat)})
    assert flatten(nest(flat)).keys() == flat.keys()
    for name, leaf in flat.items():
        node = tree
        for key in name.split("/"):
            node = node[key]
        assert node is leaf


def test_the_order_of_keys_is_fixed():
    one, two = np.zeros(1), np.ones(1)
    assert list(flatten({"b": one, "a": {"d": two, "c": one}})) == list(flatten({"a": {"c": one, "d": two}, "b": one}))


def test_what_users_return_becomes_plain():
    pair = namedtuple("pair", ["left", "right"])
    x = np.zeros(2)
    plain = to_plain(EasyDict(obs=pair(x, EasyDict(deep=x)), list=[1, 2]))
    assert type(plain) is dict and type(plain["obs"]) is dict and type(plain["obs"]["right"]) is dict
    assert plain["obs"]["left"] is x and plain["obs"]["right"]["deep"] is x
    assert plain["list"] == [1, 2]


def test_arrays_and_tensors_share_their_memory():
    array = np.arange(3.0)
    tensor = torch.from_numpy(array)
    back = to_numpy({"b": tensor})["b"]
    array[0] = 7
    assert tensor[0] == 7 and back[0] == 7
    needs_grad = torch.ones(2, requires_grad=True)
    assert to_numpy({"g": needs_grad})["g"].tolist() == [1, 1]
    assert to_numpy({"n": 3.0})["n"].shape == ()


def test_bytes():
    assert nbytes({"a": np.zeros((3, 2), np.float32), "b": np.zeros(5, bool)}) == 29


def test_a_lane_block_is_a_mapping_of_lanes():
    block = LaneBlock(np.array([3, 1]), {"x": torch.tensor([[30.0], [10.0]])})
    assert list(block) == [3, 1] and len(block) == 2 and 1 in block
    assert block[1]["x"].tolist() == [10.0] and block[3]["x"].tolist() == [30.0]
    with pytest.raises(KeyError):
        block[0]
