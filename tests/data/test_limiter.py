"""Limits on what is drawn: per row stored, per row, by age; and the rates that a run shows."""

import numpy as np
import pytest

from nervex.data.limiter import Limiter, Thruput
from nervex.data.replay import Replay
from nervex.data.window import NStepWindow, SequenceWindow
from nervex.utils.errors import ConfigError

LANES = 2


def versions(values):
    """Rows whose observation is the version of the weights that acted, [T, 2]."""
    version = np.asarray(values)[:, None].repeat(LANES, 1)
    ends = np.zeros(version.shape, bool)
    return {
        "obs": version.astype(np.float32), "reward": np.zeros(version.shape, np.float32), "policy_version": version,
        "valid": ~ends, "terminated": ends, "truncated": ends, "episode_step": version,
    }  # fmt: skip


def replay_of(values, sampler="uniform", window=None, **cfg):
    replay = Replay({"meta_maxlen": 400, "sampler": sampler, **cfg}, LANES, window or NStepWindow(1, 0.9))
    replay.push_data(versions(values), np.arange(LANES))
    return replay


def drawn(replay, num=60, **kwargs):
    batches = [replay.sample(16, **kwargs) for _ in range(num)]
    return {int(v) for batch in batches for v in batch["policy_version"].reshape(-1)}


@pytest.mark.parametrize("sampler", ["uniform", "prioritized"])
def test_rows_that_are_too_old_are_not_drawn(sampler):
    replay = replay_of(range(40), sampler, max_staleness=10)
    assert drawn(replay) == set(range(29, 39))  # 39, the newest version, has no successor yet; 29 is 10 older
    assert drawn(replay, policy_version=44) == set(range(34, 39)), "the learner is ahead of the actors"
    replay.push_data(versions([40, 41]), np.arange(LANES))
    assert drawn(replay) == set(range(34, 41)), "the newest version known counts"
    assert drawn(replay, policy_version=50) == {40}
    assert replay.sample(4, policy_version=99) is None
    replay.push_data(versions([99, 99, 99]), np.arange(LANES))
    assert drawn(replay) == {99}
    unlimited = replay_of(range(40), sampler)
    assert drawn(unlimited, policy_version=1000) == set(range(39))


def test_priorities_of_stale_rows_go_and_the_others_keep_their_share():
    replay = replay_of(range(21), "prioritized", max_staleness=10, alpha=1.0)
    ids = np.arange(40)
    replay.update({"index": ids, "priority": np.where(ids < 20, 1000.0, np.where(ids < 30, 1.0, 3.0))})
    counts = np.zeros(21)
    for _ in range(200):
        batch = replay.sample(16)
        np.add.at(counts, batch["policy_version"].numpy(), 1)
        probability = np.where(batch["policy_version"].numpy() < 15, 1, 3)
        expected = (probability / probability.min()) ** -replay.sampler.beta
        np.testing.assert_allclose(batch["weight"], expected / expected.max(), rtol=1e-3)
    assert counts[:10].sum() == 0
    assert counts[15:20].sum() / counts[10:15].sum() == pytest.approx(3, rel=0.1)


def test_the_oldest_row_of_an_item_counts():
    replay = Replay({"max_staleness": 3, "unroll_len": 3}, 1)
    version = np.arange(12).reshape(3, 4, order="F")  # items [0 1 2], [3 4 5], [6 7 8], [9 10 11]
    replay.push_data({"policy_version": version, "x": version, "valid": np.ones((3, 4), bool)})
    assert {int(v) for v in replay.sample(50)["x"][0]} == {9}
    assert {int(v) for v in replay.sample(50, policy_version=9)["x"][0]} == {9}


def test_what_is_stale_stays_so_after_a_resume():
    replay = replay_of(range(20), max_staleness=5)
    drawn(replay, policy_version=30, num=0)
    assert replay.sample(4, policy_version=24) is None
    other = replay_of(range(3), max_staleness=5)
    other.load_state_dict(replay.state_dict())
    assert other.sample(4) is None


def test_samples_per_insert():
    """80 rows are stored; 2.5 samples of each may be drawn."""
    replay = replay_of(range(40), samples_per_insert=2.5)
    assert [replay.sample(50) is not None for _ in range(6)] == [True] * 4 + [False] * 2
    state = replay._rng.bit_generator.state
    assert replay.sample(50) is None and replay._rng.bit_generator.state == state
    replay.push_data(versions(range(9)), np.arange(LANES))
    assert replay.sample(45) is not None and replay.sample(1) is None
    assert replay.metrics()["samples_per_insert"] == 2.5


@pytest.mark.parametrize(("per_insert", "expected"), [(1.0, 160), (8.0, 32), (2.5, 64)])
def test_rows_needed_under_a_limit_of_samples(per_insert, expected):
    """So that the batches of the first loop can all be drawn."""
    limiter = Limiter(samples_per_insert=per_insert)
    assert limiter.min_count(32, 5) == expected
    limiter.inserted = expected
    for _ in range(5):
        assert limiter.may_sample(32)
        limiter.sampled += 32


def test_uses_of_unrolls_are_counted_at_their_first_rows():
    """The listing of what is left looked at the wrong rows."""
    replay = replay_of(range(21), window=SequenceWindow(4, 3), max_reuse=2)
    some = replay.sample(10)["policy_version"][0].tolist()
    rest = replay.sample(14)["policy_version"][0].tolist()  # all uses that are left
    assert replay.sample(1) is None
    assert sorted(some + rest) == sorted([*range(0, 18, 3)] * 4)  # 2 lanes, 2 uses


def test_a_limit_that_allows_nothing_is_refused():
    for key in ("samples_per_insert", "max_staleness"):
        with pytest.raises(ConfigError, match=key):
            Replay({key: -1}, 1)


def test_rates_forget_the_past():
    now = [0.0]
    meter = Thruput(window_s=30, clock=lambda: now[0])
    assert meter.rate(0) == 0
    for _ in range(100):
        now[0] += 1
        rate = meter.rate(5)
    assert rate == pytest.approx(5)
    for _ in range(30):
        now[0] += 1
        rate = meter.rate(0)
    assert rate == pytest.approx(5 * 0.01, rel=0.02)  # of 30 s ago a hundredth is left
    now[0] += 1000
    assert meter.rate(3000) == pytest.approx(3, rel=0.01)


def test_a_run_shows_its_rates():
    now = [0.0]
    replay = replay_of(range(10))
    replay._thruput = tuple(Thruput(clock=lambda: now[0]) for _ in range(2))
    replay.sample(7)
    now[0] += 1
    metrics = replay.metrics()
    assert metrics["time/insert_per_s"] > 0 and metrics["time/sample_per_s"] > 0
    assert metrics["time/sample_per_s"] / metrics["time/insert_per_s"] == pytest.approx(7 / 20, rel=0.01)
    other = replay_of(range(10))
    other.load_state_dict(replay.state_dict())
    assert other.metrics()["time/insert_per_s"] == 0, "what came before a resume is not counted again"
