"""Numbers and invariants of the buffer of objects."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nervex.data import PrioritizedBuffer
from nervex.torch_utils import load_state, save_state
from nervex.utils.errors import CheckpointError, ConfigError, NumericalError, SpecError


def held(buffer):
    """Returns index -> object of all that is held."""
    state = buffer.state_dict()
    return dict(sorted(zip(state["index"].tolist(), state["item"], strict=True)))


def filled(priorities, **options):
    buffer = PrioritizedBuffer(maxlen=len(priorities), **options)
    buffer.extend(range(len(priorities)))
    buffer.update({"index": torch.arange(len(priorities)), "priority": torch.tensor(priorities)})
    return buffer


def test_any_object_comes_back_as_it_is():
    buffer = PrioritizedBuffer(maxlen=5)
    objects = [{"data": "placeholder"}, "text", 7, None, torch.zeros(2)]
    for item in objects:
        buffer.append(item)
    drawn = [item for _ in range(50) for item in buffer.sample(5)]
    assert {id(item) for item in drawn} == {id(item) for item in objects}
    assert objects[0] == {"data": "placeholder"}  # nothing was written into it
    own = PrioritizedBuffer(maxlen=5, deepcopy=True)
    own.append(objects[4])
    (copied,) = own.sample(1)
    assert copied is not objects[4] and torch.equal(copied, objects[4])


def test_without_update_all_are_equally_likely_and_weigh_one():
    buffer = PrioritizedBuffer(maxlen=8)
    buffer.extend(range(8))
    items, info = buffer.sample(8, with_info=True)
    assert sorted(items) == list(range(8))  # strata of equal size: each once
    assert info["index"].dtype == torch.int64 and info["index"].tolist() == items
    assert info["weight"].dtype == torch.float32 and info["weight"].tolist() == [1.0] * 8


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_frequencies_follow_the_priorities(alpha):
    priorities = [0.5, 1.0, 2.0, 8.0]
    buffer = filled(priorities, alpha=alpha)
    share = np.bincount([i for _ in range(5000) for i in buffer.sample(4)], minlength=4) / 20_000
    power = np.array(priorities) ** alpha
    np.testing.assert_allclose(share, power / power.sum(), atol=0.01)


def test_weights_are_those_of_the_formula():
    priorities, alpha, beta = [0.5, 1.0, 2.0, 8.0], 0.7, 0.5
    buffer = filled(priorities, alpha=alpha, beta=beta, anneal_step=4)
    probability = np.array(priorities) ** alpha / (np.array(priorities) ** alpha).sum()
    for batch in range(6):
        exponent = min(beta + 0.5 * batch / 4, 1.0)
        assert buffer.beta == pytest.approx(exponent)
        items, info = buffer.sample(4, with_info=True)
        expected = (4 * probability[items]) ** -exponent
        np.testing.assert_allclose(info["weight"].numpy(), expected / expected.max(), rtol=1e-5)


def test_a_new_object_enters_with_the_largest_priority():
    buffer = filled([1.0, 3.0, 1.0, 1.0], alpha=1.0)
    buffer.append("new")  # in place of object 0
    share = np.mean([item == "new" for _ in range(2000) for item in buffer.sample(4)])
    assert share == pytest.approx(3 / 8, abs=0.02)


def test_priorities_of_what_was_overwritten_are_passed_over():
    buffer = filled([1.0, 1.0], alpha=1.0)
    buffer.append(2)  # in place of object 0, in its slot
    buffer.update({"index": [0, 1], "priority": [100.0, 1.0]})
    share = np.mean([item == 2 for _ in range(1000) for item in buffer.sample(2)])
    assert share == pytest.approx(1 / 2, abs=0.02)
    buffer.update({"index": [1, 1], "priority": [100.0, 3.0]})  # of equal indices the last one counts
    share = np.mean([item == 1 for _ in range(1000) for item in buffer.sample(2)])
    assert share == pytest.approx(3 / 4, abs=0.02)


def test_an_error_in_the_middle_of_extend_adds_nothing():
    def broken():
        yield 1
        raise OSError("away")

    buffer = PrioritizedBuffer(maxlen=8)
    with pytest.raises(OSError, match="away"):
        buffer.extend(broken())
    assert len(buffer) == buffer.push_count == 0
    buffer.append(2)
    assert buffer.sample(1) == [2]


def test_extend_across_the_end_keeps_the_newest():
    """The historical one rewrote the first items: of 5 and 6 in 8 slots it lost three and held three twice."""
    buffer = PrioritizedBuffer(maxlen=8)
    buffer.extend(range(5))
    buffer.extend(range(5, 11))
    assert held(buffer) == {i: i for i in range(3, 11)}
    assert sorted(buffer.sample(8)) == list(range(3, 11))


def test_the_count_is_right_when_a_draw_uses_an_object_up_twice():
    """The historical one counted down once per duplicate index."""
    for seed in range(50):
        buffer = PrioritizedBuffer(maxlen=8, max_reuse=1, alpha=1.0, seed=seed)
        buffer.extend(range(8))
        buffer.update({"index": np.arange(8), "priority": [50.0] + [1.0] * 7})
        items = buffer.sample(4)
        assert items.count(0) > 1
        assert buffer.count == 8 - len(set(items)) == len(held(buffer))
        assert not set(items) & set(held(buffer).values())


@settings(max_examples=60, deadline=None)
@given(
    maxlen=st.integers(1, 9),
    max_reuse=st.none() | st.integers(1, 3),
    actions=st.lists(st.integers(0, 12) | st.just("sample") | st.just("clear"), max_size=25),
)
def test_the_ring_against_a_list(maxlen, max_reuse, actions):
    buffer = PrioritizedBuffer(maxlen=maxlen, max_reuse=max_reuse, enable_track_used_data=True)
    model, uses, gone, pushed = {}, {}, [], 0
    for action in actions:
        if action == "clear":
            buffer.clear()
            gone += model.values()
            model.clear()
        elif action == "sample":
            if not model:
                continue
            size = len(model)
            items, info = buffer.sample(size, with_info=True)
            assert [model[i] for i in info["index"].tolist()] == items
            for i in info["index"].tolist():
                uses[i] += 1
            for i in [i for i in sorted(model) if max_reuse is not None and uses[i] >= max_reuse]:
                gone.append(model.pop(i))
        else:
            buffer.extend(f"object {pushed + i}" for i in range(action))
            for i in range(pushed, pushed + action):
                model[i], uses[i] = f"object {i}", 0
                if i - maxlen in model:
                    gone.append(model.pop(i - maxlen))
            pushed += action
        assert held(buffer) == model and len(buffer) == buffer.validlen == len(model)
        assert buffer.push_count == pushed and sorted(buffer.used_data) == sorted(gone)
        leaves = buffer.state_dict()["priorities"]["leaf"]
        assert np.count_nonzero(leaves) == len(model)  # what is gone cannot be drawn


def test_the_same_seed_draws_the_same():
    draws = []
    for seed in (3, 3, 4):
        buffer = PrioritizedBuffer(maxlen=100, seed=seed)
        buffer.extend(range(100))
        draws.append([buffer.sample(10) for _ in range(5)])
    assert draws[0] == draws[1] != draws[2]


def test_it_goes_on_exactly_after_a_checkpoint(tmp_path):
    def make():
        return PrioritizedBuffer(maxlen=8, max_reuse=5)

    buffer = make()
    buffer.extend({"obs": torch.full((2,), float(i)), "action": i} for i in range(11))
    buffer.sample(4)
    buffer.update({"index": [5, 6, 7], "priority": [4.0, 2.0, 0.5]})
    save_state(tmp_path / "state", {"buffer": buffer.state_dict()})
    other = make()
    other.append("is forgotten")
    other.load_state_dict(load_state(tmp_path / "state")[0]["buffer"])
    for _ in range(6):
        for one in (buffer, other):
            one.append({"obs": torch.zeros(2), "action": -1})
        (items, info), (again, same) = buffer.sample(4, with_info=True), other.sample(4, with_info=True)
        assert [i["action"] for i in items] == [i["action"] for i in again]
        assert all(torch.equal(a["obs"], b["obs"]) for a, b in zip(items, again, strict=True))
        assert all(torch.equal(info[k], same[k]) for k in info)
        assert buffer.count == other.count
    with pytest.raises(CheckpointError, match="the saved buffer has maxlen 8, this one 9; make one of the same size"):
        PrioritizedBuffer(maxlen=9).load_state_dict(buffer.state_dict())
    buffer.append(object())
    with pytest.raises(TypeError, match="object"):
        save_state(tmp_path / "other", {"buffer": buffer.state_dict()})


def test_too_few_objects_are_one_clear_error():
    buffer = PrioritizedBuffer(maxlen=10, min_sample_ratio=2)
    with pytest.raises(
        SpecError, match=r"4 items were asked for, which needs 8 \(min_sample_ratio 2\), and it is empty"
    ):
        buffer.sample(4)
    buffer.extend("abc")
    assert buffer.needed(4) == 8
    with pytest.raises(SpecError, match="and 3 items are held; append more first, or ask for fewer"):
        buffer.sample(4)
    assert len(buffer.sample(1)) == 1
    plain = PrioritizedBuffer()
    plain.append(1)
    with pytest.raises(SpecError, match="2 items were asked for, which needs 2, and 1 items are held"):
        plain.sample(2)


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "4"])
def test_a_size_is_a_number_of_items(size):
    buffer = PrioritizedBuffer()
    buffer.append(1)
    with pytest.raises(SpecError, match="expected a whole number, at least 1"):
        buffer.sample(size)


@pytest.mark.parametrize(
    ("info", "error", "message"),
    [
        ([1, 2], SpecError, "update got list, expected a mapping with 'index' and 'priority'"),
        ({"priority": [1.0]}, SpecError, r"update got \['priority'\], expected"),
        (
            {"index": [0, 1], "priority": [1.0]},
            SpecError,
            r"index is int64 \[2\] and priority float64 \[1\], expected int \[M\]",
        ),
        ({"index": [0], "priority": [None]}, SpecError, r"priority object \[1\], expected int \[M\] and float"),
        ({"index": [0], "priority": [1j]}, SpecError, "priority complex128"),
        ({"index": [0.5], "priority": [1.0]}, SpecError, r"index is float64 \[1\]"),
        ({"index": [[0]], "priority": [[1.0]]}, SpecError, r"index is int64 \[1, 1\]"),
        ({"index": [0, 9], "priority": [1.0, 1.0]}, SpecError, "there was never an item 9, 2 were appended"),
        ({"index": [-1], "priority": [1.0]}, SpecError, "there was never an item -1"),
        ({"index": [0, 1], "priority": [1.0, float("nan")]}, NumericalError, "the priority of item 1 is nan"),
    ],
)
def test_a_wrong_update_is_one_clear_error(info, error, message):
    buffer = PrioritizedBuffer()
    buffer.extend([{"data": 1}, "no dict"])
    with pytest.raises(error, match=message):
        buffer.update(info)
    buffer.update({"index": [1], "priority": [2.0]})  # what the object is does not matter


@pytest.mark.parametrize(
    ("options", "message"),
    [({"maxlen": 0}, "maxlen"), ({"alpha": 1.5}, "alpha"), ({"max_reuse": 0}, "max_reuse"), ({"beta": -1}, "beta")],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ConfigError, match=message):
        PrioritizedBuffer(**options)
