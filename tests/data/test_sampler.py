import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from replay_twin import Feeder, chi_square, make_replay

from nervex.data.window import NStepWindow
from nervex.utils.errors import NumericalError

MIXED = [[(3, "terminated"), (5, "truncated")], [(7, "truncated")], [(1, "terminated"), (4, "terminated")]]


def filled(rows=(9, 4, 13), nstep=2, **cfg):
    """A replay whose lanes are not in step, and its feeder."""
    replay = make_replay(3, NStepWindow(nstep, 0.9), **cfg)
    feeder = Feeder(replay, MIXED)
    for lane, row_num in enumerate(rows):
        feeder.push([lane], row_num)
    return replay, feeder


def drawn(replay, batches, size):
    """How often each row id came up."""
    ids = torch.cat([replay.sample(size)["index"] for _ in range(batches)])
    return {int(k): int(n) for k, n in zip(*torch.unique(ids, return_counts=True), strict=True)}


@pytest.mark.parametrize("maxlen", [30, 100])
def test_uniform_means_every_sampleable_transition_equally_often(maxlen):
    replay, feeder = filled(meta_maxlen=maxlen)
    feeder.push([1], 8)
    expected = feeder.expected(2, 0.9)
    assert len(expected) > 12
    counts = drawn(replay, 300, 64)
    assert counts.keys() == expected.keys()
    assert chi_square(list(counts.values()), np.full(len(counts), 1 / len(counts)))


def test_uniform_when_hardly_any_row_qualifies():
    """Lane 0 has 4000 rows, all but a few used up: too few for a draw to hit, so that they are listed."""
    replay = make_replay(1, NStepWindow(1, 0.9), meta_maxlen=4000, max_reuse=10_000)
    feeder = Feeder(replay, [[(100_000, "terminated")]])
    feeder.push([0], 4000)
    fresh = [17, 1234, 3998]
    replay.storage.use_count[np.setdiff1d(np.arange(4000), fresh)] = 10_000
    counts = drawn(replay, 40, 64)
    assert sorted(counts) == fresh
    assert chi_square(list(counts.values()), np.full(3, 1 / 3))


def test_uniform_weights_are_one():
    replay, _ = filled()
    assert replay.sample(5)["weight"].tolist() == [1.0] * 5


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(["uniform", "prioritized"]), st.integers(1, 3), st.integers(1, 9), st.integers(0, 99),
    st.lists(st.integers(0, 6), max_size=8),
)  # fmt: skip
def test_rows_are_used_up_and_counted_right(sampler, max_use, size, seed, pushes):
    replay, feeder = filled(meta_maxlen=45, max_reuse=max_use, sampler=sampler, seed=seed)
    uses = {}
    for row_num in [*pushes, *[0] * 130]:
        feeder.push([0, 2], row_num)
        present = feeder.expected(2, 0.9)
        batch = replay.sample(size)
        usable = {i for i in present if uses.get(i, 0) < max_use}
        left = sum(max_use - uses.get(i, 0) for i in usable)
        assert (batch is None) == (left < size if sampler == "uniform" else not usable)
        if batch is None:
            continue
        index = batch["index"].tolist()
        assert set(index) <= usable
        for i in index:
            uses[i] = uses.get(i, 0) + 1
        assert sampler != "uniform" or all(uses[i] <= max_use for i in index)  # within one batch too
        skewed = torch.tensor([1000.0 if i % 5 == 0 else 0.001 for i in index])
        replay.update({"index": batch["index"], "priority": skewed})  # does not bring used up rows back
        held = {
            feeder.row_id(lane, r): twin.rows[r]["valid"] for lane, twin in enumerate(feeder.twins) for r in twin.held()
        }
        spent = sum(n >= max_use for i, n in uses.items() if i in held)
        assert replay.storage.spent_count == spent
        assert replay.count == sum(held.values()) - spent
    while replay.sample(1) is not None:
        pass
    assert {i for i in feeder.expected(2, 0.9) if replay.storage.use_count[replay.storage.slot_of(np.array([i]))[0]]} \
        == feeder.expected(2, 0.9).keys()  # every use of the limit could be had  # fmt: skip


@pytest.mark.parametrize(("max_use", "uses"), [(1, 1), (2, 2), (2.5, 2), (3, 3)])
def test_a_uniform_batch_may_take_all_uses_that_are_left(max_use, uses):
    replay, feeder = filled(max_reuse=max_use)
    ids = sorted(feeder.expected(2, 0.9))
    assert replay.sample(len(ids) * uses + 1) is None
    index = replay.sample(len(ids) * uses)["index"].tolist()
    assert sorted(index) == sorted(ids * uses)
    assert replay.sample(1) is None
    assert replay.count == feeder.held_valid() - len(ids)


def test_a_row_drawn_twice_in_a_batch_is_used_up_once():
    replay, feeder, _ = prioritized(lambda i: 1000.0 if i == 1 else 0.1, max_reuse=2)
    index = replay.sample(16)["index"].tolist()
    assert index.count(1) > 8
    assert replay.count == feeder.held_valid() - sum(index.count(i) >= 2 for i in set(index))


# Prioritized


def prioritized(priority_of, alpha=0.7, beta=0.4, **cfg):
    """A replay whose sampleable rows have the priorities ``priority_of(row id)``; and {row id: priority}."""
    replay, feeder = filled(sampler="prioritized", alpha=alpha, beta=beta, **cfg)
    priority = {i: priority_of(i) for i in feeder.expected(2, 0.9)}
    replay.update({"index": np.array(list(priority)), "priority": np.array(list(priority.values()))})
    return replay, feeder, priority


@pytest.mark.parametrize("alpha", [0.0, 0.7, 1.0])
def test_probabilities_are_proportional_to_powers_of_priorities(alpha):
    replay, _, priority = prioritized(lambda i: 0.5 + i % 7, alpha=alpha)
    counts = drawn(replay, 300, 64)
    assert counts.keys() == priority.keys()
    p = np.array([priority[i] ** alpha for i in counts])
    assert chi_square(list(counts.values()), p / p.sum())


def test_the_chi_square_test_can_fail():
    counts = np.random.default_rng(0).multinomial(20_000, [0.3, 0.3, 0.4])
    assert chi_square(counts, [0.3, 0.3, 0.4])
    assert not chi_square(counts, [0.31, 0.31, 0.38])


def test_importance_weights():
    replay, _, priority = prioritized(lambda i: 0.5 + i % 7, beta=0.4, anneal_step=4)
    total = sum((p + 1e-6) ** 0.7 for p in priority.values())
    for beta in (0.4, 0.55, 0.7, 0.85, 1.0, 1.0):
        assert replay.sampler.beta == pytest.approx(beta)
        batch = replay.sample(32)
        probability = np.array([(priority[i] + 1e-6) ** 0.7 / total for i in batch["index"].tolist()])
        weight = (len(priority) * probability) ** -beta
        np.testing.assert_allclose(batch["weight"].numpy(), weight / weight.max(), rtol=1e-5)
        assert batch["weight"].max() == 1 and batch["weight"].min() < 0.9


def test_no_annealing_means_full_correction():
    replay, _, _ = prioritized(lambda i: 1.0, anneal_step=0)
    assert replay.sampler.beta == 1.0


def leaf(replay, row_id):
    slot, present = replay.storage.slot_of(np.array([row_id]))
    assert present[0]
    return float(replay.sampler.priorities.tree[slot][0])


def test_a_row_enters_with_the_largest_priority_once_it_is_complete():
    replay = make_replay(1, NStepWindow(2, 0.9), sampler="prioritized", alpha=0.5)
    feeder = Feeder(replay, [[(50, "terminated")]])
    feeder.push([0], 3)
    assert [leaf(replay, i) for i in range(3)] == [1, 0, 0]
    replay.update({"index": torch.tensor([0]), "priority": torch.tensor([4.0])})
    feeder.push([0], 1)
    assert [leaf(replay, i) for i in range(4)] == pytest.approx([2, 2, 0, 0], rel=1e-5)
    replay.update({"index": torch.tensor([0, 1]), "priority": torch.tensor([0.25, 0.25])})
    feeder.push([0], 1)
    assert [leaf(replay, i) for i in range(5)] == pytest.approx([0.5, 0.5, 2, 0, 0], rel=1e-5)


def test_priorities_of_overwritten_rows_are_passed_over():
    replay = make_replay(1, NStepWindow(1, 0.9), sampler="prioritized", meta_maxlen=6)
    feeder = Feeder(replay, [[(50, "terminated")]])
    feeder.push([0], 6)
    old = replay.sample(8)["index"]
    feeder.push([0], 4)  # rows 0 to 3 are gone
    before = {i: leaf(replay, i) for i in range(4, 10)}
    replay.update({"index": torch.tensor([0, 1, 2, 3]), "priority": torch.full((4,), 50.0)})
    assert {i: leaf(replay, i) for i in range(4, 10)} == before
    assert replay.sampler.priorities.largest == 1
    replay.update({"index": old, "priority": torch.full((8,), 9.0)})
    changed = [i for i in range(4, 10) if leaf(replay, i) != before[i]]
    assert changed == sorted({i for i in old.tolist() if i >= 4})


def test_incomplete_rows_take_no_priority():
    replay = make_replay(1, NStepWindow(1, 0.9), sampler="prioritized")
    Feeder(replay, [[(3, "terminated")]]).push([0], 5)
    replay.update({"index": np.arange(5), "priority": np.full(5, 2.0)})
    assert [leaf(replay, i) > 0 for i in range(5)] == [True, True, True, False, False]


def test_duplicate_indices_take_the_last_priority():
    replay, _, priority = prioritized(lambda i: 1.0, alpha=1.0)
    one = next(iter(priority))
    replay.update({"index": np.array([one, one, one]), "priority": np.array([3.0, 9.0, 5.0])})
    assert leaf(replay, one) == pytest.approx(5, rel=1e-5)


def test_the_loop_is_closed():
    """A batch carries ``weight`` and ``index``; what comes back changes what is drawn next."""
    replay, feeder, _ = prioritized(lambda i: 1.0, alpha=1.0)
    batch = replay.sample(16)
    chosen = batch["index"][0]
    td_error = torch.where(batch["index"] == chosen, -100.0, 1.0).requires_grad_()  # its absolute value counts
    replay.update({"index": batch["index"], "priority": td_error})
    counts = drawn(replay, 20, 64)
    assert counts[int(chosen)] > 0.75 * 20 * 64
    batch = replay.sample(640)
    weight = dict(zip(batch["index"].tolist(), batch["weight"].tolist(), strict=True))
    assert weight[int(chosen)] == min(weight.values()) < 0.2
    assert len(weight) > 1 and feeder.expected(2, 0.9).keys() >= weight.keys()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_priority_that_is_not_finite_is_refused(bad):
    replay, _, priority = prioritized(lambda i: 1.0)
    total = replay.sampler.priorities.tree.total
    with pytest.raises(NumericalError, match=r"priority of the row \d+ is (nan|inf), expected finite numbers"):
        replay.update({"index": np.array(list(priority)[:2]), "priority": np.array([1.0, bad])})
    assert replay.sampler.priorities.tree.total == total


def test_clear_forgets_priorities():
    replay, feeder, _ = prioritized(lambda i: 3.0)
    feeder.clear()
    assert replay.sample(2) is None
    feeder.push([0, 1, 2], 4)
    assert set(drawn(replay, 30, 16)) == feeder.expected(2, 0.9).keys()


def test_priorities_of_a_cleared_replay_do_not_meet_new_rows():
    replay, feeder, _ = prioritized(lambda i: 1.0)
    batch = replay.sample(8)
    feeder.clear()
    feeder.push([0, 1, 2], 9)
    before = replay.sampler.priorities.tree.total
    replay.update({"index": batch["index"], "priority": torch.full((8,), 70.0)})
    assert replay.sampler.priorities.tree.total == before
