"""Nested containers to other dtypes and kinds: values, shapes, types of the containers, refusals."""

from collections import OrderedDict, namedtuple

import numpy as np
import pytest
import torch
from easydict import EasyDict

from nervex.torch_utils import (
    LogDict,
    build_log_buffer,
    get_tensor_data,
    same_shape,
    tensor_to_list,
    to_dtype,
    to_item,
    to_list,
    to_ndarray,
    to_tensor,
)
from nervex.utils.errors import SpecError

Pair = namedtuple("Pair", "a b")


def test_to_dtype_casts_every_tensor_and_no_other():
    item = {
        "x": torch.tensor([1, 2]),
        "l": [torch.tensor(3), None, "s"],
        "p": Pair(torch.tensor(True), (torch.ones(1),)),
    }
    cast = to_dtype(item, torch.float64)
    assert cast["x"].dtype is cast["l"][0].dtype is cast["p"].a.dtype is cast["p"].b[0].dtype is torch.float64
    assert cast["x"].tolist() == [1.0, 2.0] and cast["p"].a.item() == 1.0 and cast["l"][1:] == [None, "s"]
    assert item["x"].dtype is torch.int64 and type(cast["p"]) is Pair
    with pytest.raises(TypeError, match="to_dtype: got a int, expected Tensor, or a nested container of them"):
        to_dtype({"a": [3]}, torch.float32)


def test_to_tensor_of_numbers_lists_and_arrays():
    item = EasyDict(n=2, f=0.5, b=True, a=np.arange(3), l=[1, 2, 3], mixed=[1, "s", None], t=torch.ones(1))
    item["p"] = Pair(1, 2.5)
    made = to_tensor(item)
    assert type(made) is EasyDict and type(made["p"]) is Pair
    assert made.n.shape == () and made.n.item() == 2 and made.n.dtype is torch.int64
    assert made.f.dtype is torch.float32 and made.b.dtype is torch.bool and made.a.dtype is torch.int64
    assert made.l.tolist() == [1, 2, 3] and made.a.tolist() == [0, 1, 2]
    assert made.mixed[0].item() == 1 and made.mixed[1:] == ["s", None]
    assert made["p"].a.item() == 1 and made["p"].b.item() == 2.5
    assert to_tensor([1, 2], torch.float64).dtype is torch.float64
    assert to_tensor(np.array([1.5]), torch.int32).tolist() == [1]
    assert to_tensor([[1, 2], [3, 4]])[1].tolist() == [3, 4]
    assert to_tensor(np.float32(0.25)).item() == 0.25 and to_tensor([]) == []
    with pytest.raises(TypeError, match="to_tensor: got a object"):
        to_tensor([object()])


def test_to_ndarray_shares_memory_and_casts():
    x = torch.arange(4.0, requires_grad=True)
    made = to_ndarray({"x": x, "n": 3, "l": [torch.tensor([True])]})
    assert made["x"].tolist() == [0.0, 1.0, 2.0, 3.0] and made["n"].shape == () and made["n"] == 3
    assert made["l"][0].dtype == np.bool_ and np.shares_memory(made["x"], x.detach().numpy())
    assert to_ndarray(x, np.int16).dtype == np.int16 and to_ndarray(x, np.int16).tolist() == [0, 1, 2, 3]
    with pytest.raises(TypeError, match="to_ndarray: got a set"):
        to_ndarray({1})


def test_to_list_gives_python_numbers_in_the_shape():
    item = {"x": torch.tensor([[1, 2], [3, 4]]), "a": np.array([0.5]), "n": np.int8(7), "z": torch.tensor(2.0), "k": 1}
    assert to_list(item) == {"x": [[1, 2], [3, 4]], "a": [0.5], "n": 7, "z": 2.0, "k": 1}
    assert type(to_list(item)["n"]) is int and tensor_to_list(torch.tensor([True, False])) == [True, False]
    with pytest.raises(TypeError, match="to_list: got a complex"):
        to_list(1j)


def test_to_item_takes_single_elements_of_any_shape():
    item = to_item({"a": torch.tensor([[3]]), "b": np.array(0.5), "c": [np.float64(1.5), True], "d": None})
    assert item == {"a": 3, "b": 0.5, "c": [1.5, True], "d": None} and type(item["a"]) is int
    for bad in (torch.ones(2), np.ones((1, 3)), torch.empty(0)):
        with pytest.raises(SpecError, match=r"to_item: a \w+ has shape \[.*\], expected one element"):
            to_item([bad])


def test_same_shape():
    assert same_shape([torch.ones(2, 3), torch.zeros(2, 3)]) is True
    assert same_shape([torch.ones(2, 3), torch.ones(2, 3), torch.ones(3, 2)]) is False
    assert same_shape([torch.ones(2), torch.ones(2, 1)]) is False
    assert same_shape([]) is True


def test_get_tensor_data_is_a_copy_without_a_graph():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    y = 2 * x
    held = get_tensor_data(OrderedDict(y=y, l=(x,), s="s"))
    assert type(held) is OrderedDict and held["y"].tolist() == [2.0, 4.0] and held["s"] == "s"
    assert not held["y"].requires_grad and not held["l"][0].requires_grad
    held["l"][0].fill_(9)
    assert x.tolist() == [1.0, 2.0]
    with pytest.raises(TypeError, match="get_tensor_data: got a float"):
        get_tensor_data([1.0])


def test_log_dict_turns_tensors_to_numbers_however_they_come_in():
    log = LogDict({"a": torch.tensor(1.5, requires_grad=True)}, b=torch.tensor([2]))
    log["c"] = torch.tensor([[1, 2]])
    log.update({"d": {"inner": torch.tensor([3.0])}}, e="text")
    log |= {"f": torch.tensor(False)}
    assert log.setdefault("g", torch.tensor(4)) == 4 and log.setdefault("g", 5) == 4
    expected = {"a": 1.5, "b": 2, "c": [[1, 2]], "d": {"inner": 3.0}, "e": "text", "f": False, "g": 4}
    assert log == expected and type(log["b"]) is int and type(log) is LogDict


def test_log_buffer_is_a_log_dict():
    buffer = build_log_buffer()
    assert buffer == {} and type(buffer) is LogDict
    buffer["loss"] = torch.tensor(0.25)
    assert buffer["loss"] == 0.25 and build_log_buffer({"x": torch.ones(1)}) == {"x": 1.0}
    assert build_log_buffer() is not buffer
