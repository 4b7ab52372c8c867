import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nervex.data.storage import ENDED, RowStorage
from nervex.utils.errors import SpecError


def block(values, valid=None):
    """Columns of one block: ``id`` int64 [T, b] beside ``valid``."""
    values = np.asarray(values, np.int64)
    return {"id": values, "valid": np.ones(values.shape, bool) if valid is None else np.asarray(valid, bool)}


def ids_of(storage, lane):
    """Rows of a lane, oldest first, read through the slots that the storage names."""
    slots = np.arange(lane, storage.capacity, storage.lane_num)
    newer = storage.newer(slots)
    held = slots[newer >= 0]
    return storage.column["id"][held[np.argsort(-newer[newer >= 0])]].tolist()


pushes = st.lists(
    st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=3, unique=True), st.integers(0, 11), st.data()),
    min_size=1,
    max_size=8,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(1, 6), pushes)
def test_each_lane_keeps_its_newest_rows_whatever_the_blocks(ring_len, steps):
    storage = RowStorage(ring_len * 3, 3)
    told = [[], [], []]
    counter = 0
    for lanes, row_num, data in steps:
        length = data.draw(st.none() | st.lists(st.integers(0, row_num), min_size=len(lanes), max_size=len(lanes)))
        values = np.full((row_num, len(lanes)), -1)
        for b, lane in enumerate(lanes):
            for t in range(row_num if length is None else length[b]):
                counter += 1
                values[t, b] = counter
                told[lane].append(counter)
        slots = storage.add(block(values), np.array(lanes), None if length is None else np.array(length))
        assert len(set(slots.tolist())) == len(slots)
        for lane in range(3):
            assert ids_of(storage, lane) == told[lane][-ring_len:]
            assert storage.head[lane] == len(told[lane])
        written = sum(min(len(told[lane]), ring_len) for lane in range(3))
        assert storage.valid_count == written
        assert storage.written() >= max(slots, default=-1) + 1


def test_wrap_around_keeps_every_row_once():
    # 5 rows and then 6 into 8 slots
    storage = RowStorage(8, 1)
    storage.add(block(np.arange(5)[:, None]), np.array([0]))
    storage.add(block(np.arange(5, 11)[:, None]), np.array([0]))
    assert ids_of(storage, 0) == [3, 4, 5, 6, 7, 8, 9, 10]


def test_block_longer_than_the_ring_with_lanes_of_different_length():
    storage = RowStorage(8, 2)
    values = np.stack([np.arange(10), np.arange(100, 110)], 1)
    storage.add(block(values), np.array([0, 1]), np.array([10, 2]))
    assert ids_of(storage, 0) == [6, 7, 8, 9] and ids_of(storage, 1) == [100, 101]
    storage.add(block(values), np.array([0, 1]), np.array([1, 5]))
    assert ids_of(storage, 0) == [7, 8, 9, 0] and ids_of(storage, 1) == [101, 102, 103, 104]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(1, 5), st.lists(st.integers(0, 7), min_size=1, max_size=8), st.integers(1, 3))
@example(4, [6, 6], 2)
def test_row_ids_name_rows_for_ever(ring_len, sizes, lane_num):
    storage = RowStorage(ring_len * lane_num, lane_num)
    assert storage.capacity == ring_len * lane_num
    row_num = 0
    for size in sizes:
        values = (row_num + np.arange(size))[:, None] * lane_num + np.arange(lane_num)  # the very ids expected
        storage.add(block(values), np.arange(lane_num))
        row_num += size
        ids = np.arange(row_num * lane_num)
        slot, present = storage.slot_of(ids)
        assert present.tolist() == [i // lane_num >= row_num - ring_len for i in ids]
        np.testing.assert_array_equal(storage.row_id(slot[present]), ids[present])
        np.testing.assert_array_equal(storage.column["id"][slot[present]], ids[present])
        assert not storage.slot_of(np.arange(row_num * lane_num, (row_num + 2) * lane_num))[1].any()


def test_the_first_row_and_the_row_after_a_gap_are_marked():
    storage = RowStorage(16, 2)
    storage.add(block(np.zeros((2, 2))), np.array([0, 1]))
    assert np.flatnonzero(storage.gap).tolist() == [0, 1]
    storage.mark_gap(np.array([1]))
    storage.add(block(np.zeros((1, 1))), np.array([0]))
    assert np.flatnonzero(storage.gap).tolist() == [0, 1]
    storage.add(block(np.zeros((2, 2))), np.array([1, 0]))
    assert np.flatnonzero(storage.gap).tolist() == [0, 1, 2 * 2 + 1]


@pytest.mark.parametrize("length", [None, np.array([0, 0])])
def test_a_block_without_rows_leaves_a_pending_gap_pending(length):
    storage = RowStorage(8, 2)
    storage.add(block(np.zeros((3, 2))), np.array([0, 1]))
    storage.mark_gap(np.array([0]))
    storage.add(block(np.zeros((0 if length is None else 2, 2))), np.array([0, 1]), length)
    storage.add(block(np.zeros((1, 2))), np.array([0, 1]))
    assert np.flatnonzero(storage.gap).tolist() == [0, 1, 3 * 2]


def test_a_mark_goes_with_the_row_that_it_stood_at():
    storage = RowStorage(3, 1)
    for _ in range(4):
        storage.add(block(np.zeros((1, 1))), np.array([0]))
    assert not storage.gap.any()


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.one_of(st.integers(1, 4), st.lists(st.integers(0, 5), min_size=1, max_size=8)), max_size=15),
    st.integers(1, 3),
)
def test_uses_are_counted_with_duplicates(steps, max_use):
    """A number is a push of so many rows, a list the rows that a batch used."""
    storage = RowStorage(6, 1, max_use)
    uses = {}  # slot -> uses
    head = 0
    for step in steps:
        if isinstance(step, int):
            storage.add(block(np.zeros((step, 1))), np.array([0]))
            uses |= {(head + i) % 6: 0 for i in range(step)}
            head += step
        elif uses:
            slots = [s for s in step if s in uses]
            spent = storage.use(np.array(slots, np.int64))
            for slot in slots:
                uses[slot] += 1
            assert spent.tolist() == sorted({s for s in slots if uses[s] >= max_use})
        assert storage.spent_count == sum(n >= max_use for n in uses.values())
        assert storage.valid_count == len(uses)


def test_clear_forgets_rows_and_their_marks():
    storage = RowStorage(6, 2, max_use=1)
    storage.add(block(np.ones((2, 2))), np.array([0, 1]))
    storage.use(np.array([0, 1]))
    storage.clear()
    assert (storage.valid_count, storage.spent_count, storage.written()) == (0, 0, 0)
    assert (storage.newer(np.arange(6)) == -1).all()
    storage.add(block(np.ones((1, 2))), np.array([0, 1]))
    assert (storage.valid_count, storage.spent_count) == (2, 0)
    assert np.flatnonzero(storage.gap).tolist() == [0, 1] and not storage.use_count.any()


def test_clear_leaves_no_valid_row_and_does_not_touch_the_rest():
    """What it would cost to write the whole memory at each iteration of an on-policy run."""
    storage = RowStorage(6, 2)
    storage.add(block(np.ones((3, 2))), np.array([0, 1]))
    held = {k: v.copy() for k, v in storage.column.items()}
    storage.clear()
    assert not storage.column["valid"].any()
    assert all((storage.column[k] == v).all() for k, v in held.items() if k != "valid")
    storage.add(block(np.ones((3, 2)), np.zeros((3, 2), bool)), np.array([0, 1]))
    assert storage.valid_count == 0


def test_state_of_another_layout_is_refused():
    saved = RowStorage(12, 2).state_dict()
    with pytest.raises(SpecError, match=r"\[rows, lanes, stride\] \[6, 2, 1\], this replay \[4, 3, 1\]; resume with"):
        RowStorage(12, 3).load_state_dict(saved)


def test_capacity_is_rounded_up_to_whole_rows():
    assert RowStorage(7, 3).capacity == 9


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"valid": (np.bool_, ())}, r"holds the columns \['id', 'valid'\], the new rows have \['valid'\]"),
        (
            {"valid": (np.bool_, ()), "id": (np.int64, ()), "x": (np.int64, ())},
            r"holds the columns \['id', 'valid'\], the new rows have \['id', 'valid', 'x'\]",
        ),
        ({"valid": (np.bool_, ()), "id": (np.int32, ())}, r"'id' holds rows int64 \[\], got int32 \[\]"),
        ({"valid": (np.bool_, ()), "id": (np.int64, (2,))}, r"'id' holds rows int64 \[\], got int64 \[2\]"),
        ({"id": (np.int64, ())}, r"rows need the bool column 'valid' \[T, b\], got only \['id'\]"),
    ],
)
def test_rows_must_have_the_columns_of_those_before(columns, message):
    storage = RowStorage(8, 2)
    storage.add(block(np.zeros((1, 2))), np.array([0, 1]))
    with pytest.raises(SpecError, match=message):
        storage.add({k: np.zeros((1, 2, *shape), dtype) for k, (dtype, shape) in columns.items()}, np.array([0, 1]))


@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (2, 2)])
def test_columns_must_share_their_leading_dimensions(shape):
    storage = RowStorage(8, 2)
    columns = {"id": np.zeros(shape, np.int64), "valid": np.ones((1, 2), bool)}
    with pytest.raises(SpecError, match=rf"column 'id' has the leading dimensions \[{shape[0]}, {shape[1]}\]"):
        storage.add(columns, np.array([0, 1]))


def test_memory_is_counted():
    storage = RowStorage(10, 1)
    storage.add(block(np.zeros((1, 1))), np.array([0]))
    assert storage.nbytes == 10 * (8 + 1 + 7) + 10 + 10 * 4  # id, valid, filled up to 8 bytes; flags; use_count


def test_rows_that_are_cut_off_end_their_episodes_as_a_time_limit_does():
    def block(valid, lanes, **ends):
        off = np.zeros((len(valid), lanes), dtype=bool)
        columns = {"obs": np.arange(len(valid) * lanes, dtype=np.float32).reshape(len(valid), lanes)}
        columns |= {"valid": np.repeat(np.array(valid)[:, None], lanes, axis=1), "terminated": off, "truncated": off}
        return columns | ends

    storage = RowStorage(30, 3)
    storage.cut_off(np.arange(3))  # there are no rows yet
    terminated = np.array([[False] * 3, [False, True, False]])
    storage.add(block([True, True], 3, terminated=terminated), np.arange(3))
    storage.add(block([False], 1), np.array([2]))  # the newest row of lane 2 is a dummy
    storage.cut_off(np.arange(3))
    truncated = storage.column["truncated"].reshape(-1, 3)
    assert truncated.any(axis=0).tolist() == [True, False, False] and truncated[1, 0]
    ended = (storage.flags & ENDED > 0).reshape(-1, 3)
    assert ended[:3].tolist() == [[False] * 3, [True, True, False], [False] * 3]
    fresh = RowStorage(30, 3)
    fresh.load_state_dict(storage.state_dict())
    np.testing.assert_array_equal(fresh.flags & ENDED, storage.flags & ENDED)
