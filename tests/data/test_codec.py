"""Frames stored once: what is read is what was written, bit for bit, whatever the rows hold."""

import itertools
from functools import partial

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nervex.data.codec import FramePool, FrameStack, RowColumn, frame_layout
from nervex.data.lz4_store import Lz4Store
from nervex.data.memory import StorageOptions
from nervex.data.record_store import ArrayStore
from nervex.data.storage import RowStorage

LANES = 3
STACK = 3
STACKED = StorageOptions(codec={"obs": "frame_stack"})
STORES = {"array": ArrayStore, "lz4": Lz4Store}


class Screen:
    """The observations of one lane: ``next_row`` of a kind, as envs of all sorts give them.

    Frames come from few different ones, so that rows are equal by chance, too.
    """

    def __init__(self, rng, dtype=np.uint8, channels=1, kinds=4):
        self.rng, self.channels, self.kinds = rng, channels, kinds
        self.dtype = np.dtype(dtype)
        self.stack = self.random()

    def frame(self):
        value = self.rng.integers(0, self.kinds, self.channels)
        if self.dtype.kind == "f":
            bits = np.array([0, 0x80000000, 0x7FC00001, 0x7FC00002], np.uint32)  # 0, −0 and two NaN
            return np.tile(bits.view(np.float32)[value][:, None, None], (1, 2, 3))
        return np.tile(value.astype(self.dtype)[:, None, None], (1, 2, 3))

    def random(self):
        return np.concatenate([self.frame() for _ in range(STACK)])

    def next_row(self, kind):
        if kind == "shift":
            self.stack = np.concatenate([self.stack[self.channels :], self.frame()])
        elif kind == "black":  # an episode begins, nothing was seen before
            self.stack = np.concatenate([np.zeros_like(self.stack[self.channels :]), self.frame()])
        elif kind == "repeat":  # an episode begins, its first frame stands for those before
            self.stack = np.concatenate([self.frame()] * STACK)
        elif kind == "jump":
            self.stack = self.random()
        return self.stack  # or the same again


def block(rows):
    """Columns of rows [T][b]."""
    obs = np.array(rows)
    return {"obs": obs, "valid": np.ones(obs.shape[:2], bool)}


def assert_sound(column):
    """Every reference is counted, and no frame is kept that no row refers to."""
    pool = column.pool
    counted = np.bincount(column._ref.ravel(), minlength=pool.store.capacity)
    counted[0] = 0
    np.testing.assert_array_equal(pool._count, counted)
    assert pool.used == np.count_nonzero(counted)
    assert len(set(pool._free)) == len(pool._free)


kinds = st.lists(st.sampled_from(["shift", "shift", "shift", "black", "repeat", "jump", "same"]), max_size=9)
lanes = st.lists(st.integers(0, LANES - 1), min_size=1, max_size=LANES, unique=True)
pushes = st.lists(st.one_of(st.tuples(lanes, kinds), st.just("clear"), st.just("resume")), max_size=12)


def pair(ring_len, dtype, options=STACKED):
    """A storage that keeps frames once, and its twin that keeps every row."""
    return RowStorage(ring_len * LANES, LANES, options=options), RowStorage(ring_len * LANES, LANES)


def assert_same_rows(packed, raw):
    held = np.flatnonzero(raw.newer(np.arange(raw.capacity)) >= 0)
    if raw.column:
        got, expected = packed.read("obs", held), raw.column["obs"][held]
        assert got.dtype == expected.dtype and got.tobytes() == expected.tobytes()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(1, 6), pushes, st.sampled_from(["u1", "f4"]), st.integers(1, 2), st.booleans(), st.integers(0, 9))
@example(1, [([0, 1, 2], ["shift"] * 3)] * 3, "u1", 1, False, 0)
@example(2, [([1], ["shift"] * 9), "resume", ([1, 0], ["shift"] * 2), "clear", ([1], ["shift"] * 3)], "f4", 2, True, 1)
def test_what_is_read_is_what_was_written(ring_len, operations, dtype, channels, padded, seed):
    """Several lanes, any blocks, gaps, ring wrap-around, resumes; rows that are shifts and rows that are not."""
    rng = np.random.default_rng(seed)
    packed, raw = pair(ring_len, dtype)
    screens = [Screen(rng, dtype, channels) for _ in range(LANES)]
    for operation in operations:
        if operation == "clear":
            packed.clear()
            raw.clear()
        elif operation == "resume":
            state = packed.state_dict()
            packed = RowStorage(ring_len * LANES, LANES, options=STACKED)
            packed.load_state_dict(state)
        else:
            chosen, sorts = operation
            rows = [[screens[lane].next_row(sort).copy() for lane in chosen] for sort in sorts]
            if not rows:
                continue
            length = rng.integers(0, len(rows) + 1, len(chosen)) if padded else None
            for storage in (packed, raw):
                storage.add(block(rows), np.array(chosen), length)
        assert_same_rows(packed, raw)
        if packed.table is not None:
            assert_sound(packed.table.packed["obs"])


@pytest.mark.parametrize("start", ["black", "repeat"])
def test_a_frame_a_row_is_all_that_is_kept(start):
    """Through ends of episodes and the wrap-around of the ring; the oldest rows keep the frames of rows gone."""
    rng = np.random.default_rng(0)
    packed, raw = pair(50, np.uint8)
    screens = [Screen(rng, kinds=250) for _ in range(LANES)]
    for t in range(170):
        rows = [[s.next_row(start if t % 20 == 0 else "shift").copy() for s in screens]]
        for storage in (packed, raw):
            storage.add(block(rows), np.arange(LANES))
        column = packed.table.packed["obs"]
        assert column.pool.used <= min(t + 1, 50) * LANES + (STACK - 1) * LANES
    assert_same_rows(packed, raw)
    assert column.pool.store.capacity < 50 * LANES * 1.2 + 20, "no need to grow"


def test_colors_shift_by_three():
    rng = np.random.default_rng(0)
    packed, raw = pair(30, np.uint8)
    screens = [Screen(rng, channels=3, kinds=200) for _ in range(LANES)]
    for _ in range(70):
        rows = [[s.next_row("shift").copy() for s in screens]]
        for storage in (packed, raw):
            storage.add(block(rows), np.arange(LANES))
    assert_same_rows(packed, raw)
    column = packed.table.packed["obs"]
    assert column.pool.used <= (30 + STACK) * 3 * LANES < 30 * 3 * STACK * LANES / 2


def test_rows_that_share_nothing_are_kept_whole():
    rng = np.random.default_rng(0)
    packed, raw = pair(40, np.uint8)
    for _ in range(60):
        rows = rng.integers(0, 255, (1, LANES, STACK, 2, 3)).astype(np.uint8)
        for storage in (packed, raw):
            storage.add(block(rows), np.arange(LANES))
    assert_same_rows(packed, raw)
    assert packed.table.packed["obs"].pool.used == 40 * LANES * STACK
    assert_sound(packed.table.packed["obs"])


@pytest.mark.parametrize("kind", STORES)
def test_items_share_frames_whoever_wrote_them(kind):
    """Finished items of two envs in turn, with observation and next observation."""
    rng = np.random.default_rng(0)
    options = StorageOptions(codec=dict.fromkeys(("obs", "next_obs"), "frame_stack"), lz4=kind == "lz4")
    packed, raw = RowStorage(60, 1, options=options, in_time=False), RowStorage(60, 1, in_time=False)
    screens = [Screen(rng, kinds=250) for _ in range(2)]
    now = [s.next_row("repeat").copy() for s in screens]
    for t in range(90):
        then = [s.next_row("shift").copy() for s in screens]
        items = {"obs": np.array(now)[:, None], "next_obs": np.array(then)[:, None], "valid": np.ones((2, 1), bool)}
        now = then if t % 15 else [s.next_row("black").copy() for s in screens]
        for storage in (packed, raw):
            storage.add(items, np.zeros(1, np.int64))
    for name in ("obs", "next_obs"):
        assert packed.read(name, np.arange(60)).tobytes() == raw.column[name].tobytes()
    pools = {id(c.pool) for c in packed.table.packed.values()}
    assert len(pools) == 1 and packed.table.packed["obs"].pool.used <= 60 + 20
    other = RowStorage(60, 1, options=options, in_time=False)
    other.load_state_dict(packed.state_dict())
    assert other.read("next_obs", np.arange(60)).tobytes() == raw.column["next_obs"].tobytes()
    assert other.table.packed["obs"].pool.used == packed.table.packed["obs"].pool.used


def test_a_still_screen_does_not_overflow_its_count():
    options = StorageOptions(codec={"obs": "frame_stack"})
    storage = RowStorage(40_000, 1, options=options, in_time=False)
    still = np.full((40_000, 1, 2, 1, 1), 7, np.uint8)
    storage.add({"obs": still, "valid": np.ones((40_000, 1), bool)}, np.zeros(1, np.int64))
    pool = storage.table.packed["obs"].pool
    assert pool.used == 1 and pool._count.max() == 80_000


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.sampled_from(list(itertools.product(STORES, STORES))))
def test_stores_hold_records_and_hand_them_over(writes, kinds_of_store):
    """A store grows, gives back what was last put, and takes the state of a store of either kind."""
    rng = np.random.default_rng(0)
    made, other = (STORES[kind](64, 4) for kind in kinds_of_store)
    told = {}
    for store in (made, other):
        store.grow(6)
    for i in writes:
        record = rng.integers(0, 3, (1, 64)).astype(np.uint8)
        made.put(np.array([i]), record)
        told[i] = record[0]
    index = np.array(sorted(told))
    other.load_state_dict(index, made.state_dict(index))
    again = np.concatenate([index, index[::-1]])
    for store in (made, other):
        np.testing.assert_array_equal(store.get(again), [told[i] for i in again.tolist()])
    made.drop(index)
    assert made.growing_bytes == 0


def test_compression_is_counted():
    store = Lz4Store(1000, 5)
    empty = store.nbytes
    store.put(np.arange(2), np.zeros((2, 1000), np.uint8))
    assert 2 * 20 < store.nbytes - empty < 2 * 100
    store.put(np.arange(2), np.random.default_rng(0).integers(0, 255, (2, 1000)).astype(np.uint8))
    assert 2 * 1000 < store.nbytes - empty < 2 * 1100
    store.drop(np.arange(2))
    assert store.nbytes == empty


def test_whole_rows_may_be_compressed():
    column = RowColumn(np.float32, (6, 3, 2), Lz4Store)
    rows = np.random.default_rng(0).standard_normal((4, 3, 2)).astype(np.float32)
    column.write(np.array([5, 0, 2, 3]), rows)
    np.testing.assert_array_equal(column.read(np.array([[0, 2], [3, 5]])), rows[[[1, 2], [3, 0]]])


def test_frames_of_a_pool_are_used_again():
    pool = FramePool(ArrayStore(2, 3))
    first = pool.add(np.array([[1, 1], [2, 2]], np.uint8))
    pool.hold(first)
    pool.release(first[:1])
    assert pool.used == 1
    second = pool.add(np.array([[3, 3], [4, 4]], np.uint8))  # one in the free place, one in new room
    pool.hold(second)
    assert first[0] in second and len({*first.tolist(), *second.tolist()}) == 3
    np.testing.assert_array_equal(pool.store.get(np.concatenate([first[1:], second])), [[2, 2], [3, 3], [4, 4]])


def test_frames_are_the_last_two_dimensions():
    byte = np.dtype(np.uint8)
    assert frame_layout(byte, (4, 84, 84)) == (4, 84 * 84)
    assert frame_layout(byte, (2, 4, 84, 84)) == (8, 84 * 84)
    assert frame_layout(np.dtype(np.float32), (5, 3)) == (5, 12)
    assert frame_layout(byte, (17,)) == (1, 17) and frame_layout(byte, ()) == (1, 1)


def test_a_stack_of_vectors():
    make = partial(FrameStack, np.float32, (4, 3, 2), 1)
    column = make(FramePool(ArrayStore(8, 10)))
    stream = np.arange(12, dtype=np.float32).reshape(6, 2)
    rows = np.stack([stream[t : t + 3] for t in range(4)])
    column.write(np.arange(4), rows)
    np.testing.assert_array_equal(column.read(np.arange(4)), rows)
    assert column.pool.used == column.pool.added == 6
