from collections import namedtuple

import numpy as np
import pytest
import torch
from easydict import EasyDict
from hypothesis import given
from hypothesis import strategies as st

from nervex.data.columns import flatten, nbytes, nest, stack, to_numpy, to_plain
from nervex.data.lanes import LaneBlock
from nervex.utils.errors import SpecError

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


def test_samples_become_a_batch():
    samples = [
        {"obs": EasyDict(a=torch.tensor([1.0, 2.0])), "action": 1, "done": np.bool_(False)},
        {"obs": {"a": torch.tensor([3.0, 4.0])}, "action": 0, "done": np.bool_(True)},
    ]
    batch = stack(samples)
    assert batch["obs"]["a"].tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert batch["action"].dtype == torch.int64 and batch["action"].tolist() == [1, 0]
    assert batch["done"].dtype == torch.bool and batch["done"].tolist() == [False, True]
    assert stack([torch.zeros(2), torch.ones(2)]).tolist() == [[0.0, 0.0], [1.0, 1.0]]


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "cannot make a batch of no items"),
        ([{"a": 1}, {"b": 1}], r"item 1 of a batch holds \{b: int\}, item 0 holds \{a: int\}; give all"),
        ([{"a": torch.zeros(2)}, {"a": np.zeros(3)}], r"item 1 of a batch holds \{a: float64 \[3\]\}, item 0 holds"),
        ([{"data": "placeholder"}] * 2, r"the items hold \{data: str\}, which cannot all be tensors"),
    ],
)
def test_samples_that_are_no_batch(items, message):
    with pytest.raises(SpecError, match=message):
        stack(items)
