"""Feature functions against values worked out by hand, slow loops, and their inverses."""

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nervex.envs import common
from nervex.utils.errors import SpecError

KINDS = {"numpy": np.asarray, "list": lambda v: np.asarray(v).tolist(), "tensor": torch.as_tensor}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "v", "args", "expected"),
    [
        ("num_first_one_hot", [2, 0], (3,), [[0, 1], [0, 0], [1, 0]]),
        ("num_first_one_hot", [[1.0]], (2,), [[[0]], [[1]]]),
        ("sqrt_one_hot", [0, 3, 4, 8.9, 10], (10,), np.eye(4)[[0, 1, 2, 2, 3]]),
        ("sqrt_one_hot", [-2, 99], (10,), np.eye(4)[[0, 3]]),
        ("div_one_hot", [0, 3, 4, 10], (10, 4), np.eye(3)[[0, 0, 1, 2]]),
        ("div_one_hot", [-1, 77, 2.5], (10, 2.5), np.eye(5)[[0, 4, 1]]),
        ("div_one_hot", [0.3, 0.7], (0.3, 0.1), np.eye(3)[[2, 2]]),
        ("clip_one_hot", [-4, 1, 9], (3,), np.eye(3)[[0, 1, 2]]),
        ("reorder_one_hot", [[70, 10]], ({10: 0, 70: 2}, 3), [np.eye(3)[[2, 0]]]),
        ("reorder_one_hot", [7, 1], ({10: 0, 70: 2}, 3, lambda i: 10 * i), np.eye(3)[[2, 0]]),
        ("reorder_one_hot_array", [[3, 0]], ([1, -1, -1, 0], 2), [np.eye(2)[[0, 1]]]),
        ("reorder_one_hot_array", [5], ([1, -1, -1, 0], 2, lambda ids: ids - 5), np.eye(2)[[1]]),
        ("reorder_boolean_vector", [70, 10, 70], ({10: 0, 70: 2}, 4), [1, 0, 1, 0]),
        ("reorder_boolean_vector", np.zeros(0, np.int64), ({10: 0}, 2), [0, 0]),
        ("batch_binary_encode", [6, 1], (4,), [[0, 1, 1, 0], [0, 0, 0, 1]]),
        ("batch_binary_encode", [[(1 << 63) - 1]], (63,), np.ones((1, 1, 63))),
        ("div_func", [3, 5], (2,), [[1.5], [2.5]]),
        ("div_func", [[3.0, 5.0]], (2, 0), [[[1.5, 2.5]]]),
        ("div_func", [3.0], (2, -1), [[1.5]]),
        ("affine_transform", [-1.0, 0.0, 0.5], (None, None, -2, 4), [-2, 1, 2.5]),
        ("affine_transform", [-1.0, 0.5, 8.0], (3.0, 1.0), [-2, 2.5, 4]),
    ],
)  # fmt: skip
def test_by_hand(kind: str, name: str, v: Any, args: tuple, expected: Any) -> None:
    got = getattr(common, name)(KINDS[kind](v), *args)
    assert isinstance(got, torch.Tensor if kind == "tensor" else np.ndarray)
    if name not in ("div_func", "affine_transform"):
        assert got.dtype == (torch.float32 if kind == "tensor" else np.float32)
    np.testing.assert_array_equal(np.asarray(got), np.asarray(expected))
    assert got.shape == np.shape(expected)


def test_a_number_alone_has_no_dimension_of_its_own() -> None:
    assert common.sqrt_one_hot(9, 10).tolist() == [0, 0, 0, 1]
    assert common.num_first_one_hot(1, 3).tolist() == [0, 1, 0]
    assert common.batch_binary_encode(5, 3).tolist() == [1, 0, 1]


@settings(max_examples=40)
@given(hnp.arrays(np.int64, hnp.array_shapes(max_dims=3), elements=st.integers(0, 2**20 - 1)))
def test_binary_codes_are_read_back(x: np.ndarray) -> None:
    code = common.batch_binary_encode(x, 20)
    assert code.shape == (*x.shape, 20)
    assert [int("".join("01"[int(bit)] for bit in row), 2) for row in code.reshape(-1, 20)] == x.reshape(-1).tolist()


@settings(max_examples=40)
@given(hnp.arrays(np.float32, hnp.array_shapes(max_dims=2), elements=st.floats(0, 50, width=32)), st.integers(1, 60))
def test_bins_against_a_slow_loop(v: np.ndarray, max_val: int) -> None:
    for name, args, bin_of in [
        ("sqrt_one_hot", (max_val,), lambda x: math.isqrt(int(x))),
        ("div_one_hot", (max_val, 4), lambda x: int(x // 4)),
    ]:
        got = getattr(common, name)(v, *args)
        assert got.shape == (*v.shape, bin_of(max_val) + 1)
        assert (got.sum(-1) == 1).all()
        expected = [bin_of(min(float(x), max_val)) for x in v.reshape(-1)]
        assert got.argmax(-1).reshape(-1).tolist() == expected


@settings(max_examples=40)
@given(st.permutations(range(6)), st.lists(st.integers(0, 5), min_size=1))
def test_table_and_dictionary_say_the_same_and_come_back(order: list[int], ids: list[int]) -> None:
    array = common.reorder_one_hot_array(ids, order, 6)
    np.testing.assert_array_equal(array, common.reorder_one_hot(ids, dict(enumerate(order)), 6))
    assert [order.index(i) for i in array.argmax(-1)] == ids
    assert common.reorder_boolean_vector(ids, dict(enumerate(order)), 6).nonzero()[0].tolist() == sorted(
        {order[i] for i in ids}
    )


def test_position_vector() -> None:
    x = np.linspace(-3, 400, 2 * 32).reshape(2, 32)
    expected = np.zeros((2, 64))
    for row in range(2):
        for i in range(32):
            expected[row, 2 * i] = math.sin(x[row, i] / 10000 ** (i / 32))
            expected[row, 2 * i + 1] = math.cos(x[row, i] / 10000 ** (i / 32))
    got = common.get_postion_vector(x)
    assert got.dtype == np.float32 and got.shape == (2, 64)
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert common.get_postion_vector([5.0] * 32).tolist() == common.get_position_vector(5.0).tolist()
    # 10000^(16/32) = 100: half a turn of frequency 16 after 100π
    np.testing.assert_allclose(common.get_position_vector(100 * math.pi)[32:34], [0, -1], atol=1e-6)


@settings(max_examples=40)
@given(hnp.arrays(np.float32, 5, elements=st.floats(-3, 3, width=32)), st.floats(-9, 9), st.floats(0.01, 9))
def test_an_affine_map_keeps_its_bounds_and_is_undone(data: np.ndarray, low: float, width: float) -> None:
    got = common.affine_transform(data, min_val=low, max_val=low + width)
    assert got.dtype == np.float32
    assert (got >= low - 1e-5).all() and (got <= low + width + 1e-5).all()
    np.testing.assert_allclose((got - low) / width * 2 - 1, data.clip(-1, 1), atol=2e-3)


def test_gradients_pass_where_they_exist() -> None:
    x = torch.tensor([0.5, -0.5, 2.0], requires_grad=True)
    common.affine_transform(x, min_val=-2, max_val=4).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [3, 3, 0]
    y = torch.tensor([1.0], requires_grad=True)
    common.div_func(y, 4).sum().backward()
    assert y.grad is not None and y.grad.tolist() == [0.25]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: common.num_first_one_hot([0, 3], 3), "num_first_one_hot got 3; expected values from 0 to 2"),
        (lambda: common.num_first_one_hot([0.5], 3), r"float64 \[1\] that are not all whole numbers"),
        (lambda: common.num_first_one_hot([0], 0), "got num=0; expected at least one class"),
        (lambda: common.sqrt_one_hot([float("nan")], 3), "sqrt_one_hot got .* no numbers"),
        (lambda: common.sqrt_one_hot([1], -1), "max_val=-1; expected a finite number that is not negative"),
        (lambda: common.div_one_hot([1], 3, 0), "ratio=0; the width of a bin is a positive number"),
        (lambda: common.div_one_hot([1], float("inf"), 1), "max_val=inf"),
        (lambda: common.div_func([1, 2], 0), "other=0; divide by the range"),
        (lambda: common.div_func([1, 2], 3, 2), r"shape \[2\] and unsqueeze_dim=2; expected one from -2 to 1"),
        (lambda: common.clip_one_hot(["a"], 3), "clip_one_hot got <U1"),
        (lambda: common.clip_one_hot([1], 0), "got num=0"),
        (lambda: common.reorder_one_hot([71], {10: 0, 70: 1}, 2), "the id 71, which is not among the 2 of its"),
        (lambda: common.reorder_one_hot([70], {70: 2}, 2), "reorder_one_hot got 2; expected values from 0 to 1"),
        (lambda: common.reorder_one_hot_array([4], [0, 1], 2), "reorder_one_hot_array got 4; expected values from 0"),
        (lambda: common.reorder_one_hot_array([1], [0, -1], 2), "reorder_one_hot_array got -1"),
        (lambda: common.reorder_one_hot_array([1], [[0]], 2), r"a table int64 \[1, 1\]; expected integers \[K\]"),
        (lambda: common.reorder_boolean_vector([[1]], {1: 0}, 2), r"ids of shape \[1, 1\]; expected a list"),
        (lambda: common.reorder_boolean_vector([1], {1: 2}, 2), "reorder_boolean_vector got 2"),
        (lambda: common.batch_binary_encode([8], 3), "batch_binary_encode got 8; expected values from 0 to 7"),
        (lambda: common.batch_binary_encode([-1], 3), "got -1"),
        (lambda: common.batch_binary_encode([1], 64), "bit_num=64; expected 1 to 63"),
        (lambda: common.get_position_vector([1.0, 2.0]), r"float64 \[2\]; expected 32 positions"),
        (lambda: common.get_position_vector(float("inf")), "a position that is not finite"),
        (lambda: common.affine_transform([0.0]), "give alpha and beta, or min_val and max_val"),
        (lambda: common.affine_transform([0.0], 1.0, 0.0, -1, 1), "give alpha and beta, or"),
        (lambda: common.affine_transform([0.0], alpha=1.0), "give alpha and beta, or"),
        (lambda: common.affine_transform([0.0], min_val=2, max_val=1), "min_val=2, max_val=1; expected finite"),
    ],
)  # fmt: skip
def test_wrong_values_are_one_clear_sentence(call: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_no_torch_is_imported() -> None:
    code = (
        "import sys\nfrom nervex.envs.common import sqrt_one_hot, affine_transform\n"
        "assert sqrt_one_hot([4], 9).argmax() == 2 and affine_transform(0.0, 2.0, 1.0) == 1.0\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
