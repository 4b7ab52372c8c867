"""State trees come back exactly as they were."""

import json
import math
import re
from collections import OrderedDict, namedtuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nervex.torch_utils.state_tree import decode_state, encode_state
from nervex.torch_utils.tensor_file import DTYPE_NAMES

torch.set_num_threads(1)


def round_trip(tree):
    structure, tensors = encode_state(tree)
    text = json.dumps(structure, allow_nan=False)
    return decode_state(json.loads(text), {name: t.clone() for name, t in tensors.items()})


def assert_same(a, b):
    # C's long long and long are two NumPy types of one dtype
    assert type(a) is type(b) or (isinstance(a, np.generic) and isinstance(b, np.generic)), (a, b)
    if isinstance(a, dict):
        assert [(type(k), k) for k in a] == [(type(k), k) for k in b]
        for k in a:
            assert_same(a[k], b[k])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert a.contiguous().reshape(-1).view(torch.uint8).tolist() == b.reshape(-1).view(torch.uint8).tolist()
    elif isinstance(a, np.ndarray | np.generic):
        assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        assert a.dtype.byteorder == b.dtype.byteorder
    elif isinstance(a, float):
        assert a.hex() == b.hex() and math.copysign(1, a) == math.copysign(1, b)
    else:
        assert a == b


_NP_DTYPES = ["?", "b", "h", "i", "q", "B", "H", "I", "Q", "e", "f", "d", "F", "D", ">f4", ">i8", ">u2", ">c8"]
_TORCH_DTYPES = [*DTYPE_NAMES, torch.complex64, torch.complex128]
_arrays = st.sampled_from(_NP_DTYPES).flatmap(
    lambda d: hnp.arrays(np.dtype(d), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
)


@st.composite
def _tensors(draw):
    dtype = draw(st.sampled_from(_TORCH_DTYPES))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    count = math.prod(shape) * dtype.itemsize
    data = draw(st.binary(min_size=count, max_size=count))
    if dtype is torch.bool:
        data = bytes(b & 1 for b in data)
    flat = torch.tensor(list(data), dtype=torch.uint8)
    return flat.view(dtype).reshape(shape) if count else torch.empty(shape, dtype=dtype)


_leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=-(2**200), max_value=2**200),
    st.floats(),
    st.text(),
    st.text(st.characters(categories=["Cs", "L"])),
    st.binary(),
    _arrays,
    _arrays.filter(lambda a: a.size > 0).map(lambda a: a.reshape(-1)[0]),
    _tensors(),
)
_keys = st.one_of(st.text(max_size=5), st.integers(), st.sampled_from(["", "a/b", "__metadata__", "0"]))
_trees = st.recursive(
    _leaves,
    lambda sub: st.one_of(
        st.lists(sub, max_size=3),
        st.lists(sub, max_size=3).map(tuple),
        st.dictionaries(_keys, sub, max_size=4),
        st.dictionaries(_keys, sub, max_size=3).map(OrderedDict),
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(_trees)
def test_round_trip_is_exact(tree):
    assert_same(tree, round_trip(tree))


@pytest.mark.parametrize(
    "tree",
    [
        {1: "int", "1": "str", -(10**30): 0},
        {"a": {"b": torch.zeros(2)}, "a/b": torch.ones(3), "a/b#2": torch.ones(1)},
        {"__metadata__": torch.ones(1), "": torch.zeros(1)},
        torch.tensor(3.0),
        {"\ud83d\ude00": "\ud83d\ude00", "é": np.array(1)},
        [float("inf"), float("-inf"), float("nan"), -0.0, 5e-324, 1e400, 0.1],
        [2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 16**5000, True, 1, 1.0],
        [(), [], {}, OrderedDict(), ((),), b"", ""],
        [np.float32(0.1), np.bool_(True), np.int8(-3), np.uint64(2**64 - 1), np.float64("nan"), np.complex64(1j)],
        {"dict": 1}, {"tensor": "x"}, [{"tuple": [1]}],
    ],
)  # fmt: skip
def test_traps_round_trip(tree):
    assert_same(tree, round_trip(tree))


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12).reshape(3, 4)[:, ::-2],
        np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        np.broadcast_to(np.float32(2), (2, 3)),
        np.frombuffer(b"12345678", dtype=np.int32),
        np.array(7, dtype=np.uint16),
    ],
)
def test_odd_memory_is_saved_by_value_and_comes_back_writable(array):
    back = round_trip({"x": array})["x"]
    assert back.dtype == array.dtype and back.shape == array.shape and np.array_equal(back, array)
    back[...] = 0


@pytest.mark.parametrize(
    "tensor", [torch.arange(6).reshape(2, 3).T, torch.ones(3).expand(2, 3), torch.tensor([1 + 2j]).conj()]
)
def test_views_of_tensors_are_saved_by_value(tensor):
    assert_same(tensor.resolve_conj().contiguous(), round_trip(tensor))


def test_encoding_copies_no_memory():
    array, tensor = np.zeros(5), torch.zeros(5)
    _, tensors = encode_state({"a": array, "t": tensor})
    array[0], tensor[0] = 1, 2
    assert tensors["a"][0] == 1 and tensors["t"][0] == 2


def test_module_and_optimizer_state_round_trip():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    tree = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    back = round_trip(tree)
    assert_same(tree, back)
    model.load_state_dict(back["model"])
    optimizer.load_state_dict(back["optimizer"])


Pair = namedtuple("Pair", "a b")


class _Int(int):
    pass


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ({1, 2}, "builtins.set"),
        (lambda: 0, "builtins.function"),
        (object(), "builtins.object"),
        (Pair(1, 2), "Pair"),
        (_Int(3), "_Int"),
        (np.float64, "builtins.type"),
        (np.ma.array([1]), "MaskedArray"),
        (torch.nn.Linear(1, 1), "Linear"),
        (1j, "builtins.complex"),
        (np.array(["a"]), "NumPy dtype <U1"),
        (np.array([None]), "NumPy dtype object"),
        (np.datetime64("2020-01-01"), r"NumPy dtype datetime64"),
        (np.zeros(2, dtype=[("x", "f4")]), r"NumPy dtype \[\('x'"),
        (np.longdouble(1), "NumPy dtype float128"),
        (torch.nn.Parameter(torch.zeros(1)), r"Parameter with requires_grad=True; save its .detach\(\)"),
        (torch.zeros(2, requires_grad=True), "requires_grad=True"),
        (torch.zeros(2, 2).to_sparse(), "torch.sparse_coo tensor"),
        (torch.zeros(2, device="meta"), "on meta"),
        (torch.zeros(2, dtype=torch.uint8).view(torch.bits8), "torch.bits8, which cannot be saved"),
    ],
)
def test_what_cannot_be_saved_is_refused_with_its_path(value, name):
    with pytest.raises(TypeError, match=re.escape("state ['replay'][3][1] ") + f".*{name}"):
        encode_state({"replay": {3: [0, value]}})


@pytest.mark.parametrize("key", [1.0, None, True, (1, 2), b"k", np.int64(3)])
def test_keys_other_than_str_and_int_are_refused(key):
    with pytest.raises(TypeError, match=r"state \['a'\] has the key .* of type .*; use str or int"):
        encode_state({"a": {key: 1}})


def test_a_tree_that_holds_itself_is_refused():
    tree = {}
    tree["self"] = tree
    with pytest.raises(TypeError, match="does it hold itself"):
        encode_state(tree)


@pytest.mark.parametrize(
    "structure",
    [
        {"unknown": 1}, {}, {"a": 1, "b": 2}, {"tensor": "absent"}, {"tensor": ["x"]}, {"array": ["x", "<f8"]},
        {"array": ["x", "O"]}, {"array": []}, {"array": 3}, {"scalar": ["O", "00"]}, {"scalar": ["<U1", "61000000"]},
        {"scalar": ["<f8", "00"]},
        {"scalar": ["<f8", "zz"]}, {"int": 3}, {"int": "x"}, {"float": "00"}, {"bytes": "***"}, {"text": "f"},
        {"tuple": 1}, {"dict": [1]}, {"items": [[1]]}, {"items": [[[1], 2]]}, {"items": [[True, 2]]},
        {"ordered": 5}, {"complex": "x"}, {"array": ["x", "no such dtype"]},
    ],
)  # fmt: skip
def test_foreign_structures_are_value_errors(structure):
    with pytest.raises(ValueError):
        decode_state({"dict": {"a": structure}}, {"x": torch.zeros(3)})


def test_deep_foreign_structure_is_a_value_error():
    structure = []
    for _ in range(100_000):
        structure = [structure]
    with pytest.raises(ValueError, match="not a state tree"):
        decode_state(structure, {})
