"""Interquartile mean and bootstrap intervals against hand numbers and complete enumeration."""

from itertools import product

import numpy as np
import pytest

from nervex.utils.statistics import bootstrap_band, bootstrap_interval, difference_interval, iqm

SCORE = np.array([12.0, 3.0, 7.5, 40.0, 8.0])


def enumerated(score: np.ndarray) -> np.ndarray:
    """The IQM of each of the R^R resamples of one task."""
    return np.array([iqm(np.array(drawn)) for drawn in product(score, repeat=len(score))])


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        ([5], 5),
        ([1, 2, 9], 4),  # a quarter of 3 is less than one value
        ([100, 1, 2, -50], 1.5),
        ([12, 3, 7.5, 40, 8], (12 + 7.5 + 8) / 3),
        ([1, 2, 3, 4, 5, 6, 7, 800], 4.5),
        ([9, 9, 9, 9, 9, 9, 9, 9, 0, 100], 9),
    ],
)
def test_iqm_by_hand(score: list[float], expected: float) -> None:
    assert iqm(np.array(score)) == pytest.approx(expected, abs=1e-12)


def test_iqm_is_over_the_last_dimension_and_leaves_its_argument() -> None:
    score = np.stack([SCORE, SCORE + 1])
    before = score.copy()
    assert iqm(score) == pytest.approx([27.5 / 3, 27.5 / 3 + 1])
    assert (score == before).all()


@pytest.mark.parametrize("shape", [(0,), (3, 0), ()])
def test_no_scores_are_refused(shape: tuple[int, ...]) -> None:
    empty = np.zeros(shape)
    with pytest.raises(ValueError, match="at least one"):
        iqm(empty)
    with pytest.raises(ValueError, match=r"\[runs\] or \[runs, tasks\]"):
        bootstrap_interval(empty)
    with pytest.raises(ValueError, match=r"\[runs\] or \[runs, tasks\]"):
        difference_interval(SCORE, empty)


def test_interval_equals_the_quantiles_of_all_resamples() -> None:
    interval = bootstrap_interval(SCORE, resample_num=200_000)
    low, high = np.quantile(enumerated(SCORE), [0.025, 0.975])
    assert interval.value == pytest.approx(27.5 / 3)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=0.15)
    assert low < interval.value < high


def test_level_and_statistic() -> None:
    interval = bootstrap_interval(SCORE, statistic=lambda x: x.mean(axis=-1), level=0.5, resample_num=100_000)
    means = np.array([np.mean(drawn) for drawn in product(SCORE, repeat=5)])
    assert interval.value == pytest.approx(SCORE.mean())
    assert (interval.low, interval.high) == pytest.approx(tuple(np.quantile(means, [0.25, 0.75])), abs=0.15)


def test_interval_is_deterministic_and_narrows_with_more_runs() -> None:
    score = np.random.default_rng(1).normal(size=160)
    assert bootstrap_interval(score) == bootstrap_interval(score)
    few, many = bootstrap_interval(score[:10]), bootstrap_interval(score)
    assert many.high - many.low < (few.high - few.low) / 2


def test_equal_scores_have_an_interval_of_no_width() -> None:
    assert tuple(bootstrap_interval(np.full(5, 3.0))) == (3, 3, 3)
    assert tuple(bootstrap_interval(np.array([7.0]))) == (7, 7, 7)


def test_tasks_are_strata() -> None:
    """Each task is constant over its runs, so that no resample can differ; pooled resampling would."""
    score = np.array([[0.0, 10.0, 500.0, 9.0]] * 5)
    assert tuple(bootstrap_interval(score)) == (9.5, 9.5, 9.5)
    pooled = bootstrap_interval(score.reshape(-1))
    assert pooled.high > pooled.low


def test_strata_of_two_tasks_equal_enumeration() -> None:
    score = np.array([[1.0, 20.0], [2.0, 50.0], [4.0, 30.0]])
    all_means = [
        iqm(np.array([*first, *second])) for first in product(score[:, 0], repeat=3)
        for second in product(score[:, 1], repeat=3)
    ]  # fmt: skip
    interval = bootstrap_interval(score, resample_num=200_000)
    assert (interval.low, interval.high) == pytest.approx(tuple(np.quantile(all_means, [0.025, 0.975])), abs=0.15)


def test_difference_resamples_both_groups_independently() -> None:
    other = np.array([1.0, 2.0, 3.0, 10.0, 30.0])
    interval = difference_interval(SCORE, other, resample_num=200_000)
    differences = np.subtract.outer(enumerated(SCORE), enumerated(other)).ravel()
    assert interval.value == pytest.approx(27.5 / 3 - 5)
    assert (interval.low, interval.high) == pytest.approx(tuple(np.quantile(differences, [0.025, 0.975])), abs=0.25)
    same = difference_interval(SCORE, SCORE)  # equal groups do not cancel
    assert same.value == 0 and same.low < -2 and same.high > 2


def test_difference_takes_groups_of_different_sizes() -> None:
    assert tuple(difference_interval(np.full(5, 3.0), np.array([1.0, 1.0]))) == (2, 2, 2)


def test_band_equals_the_interval_at_each_point() -> None:
    curves = np.stack([SCORE, 2 * SCORE, np.full(5, 4.0)], axis=1)  # [R, P]
    value, low, high = bootstrap_band(curves, resample_num=100_000)
    assert value == pytest.approx([27.5 / 3, 55 / 3, 4])
    assert low[1] == pytest.approx(2 * low[0]) and high[1] == pytest.approx(2 * high[0])
    assert (low[2], high[2]) == (4, 4)
    ends = np.quantile(enumerated(SCORE), [0.025, 0.975])
    assert (low[0], high[0]) == pytest.approx(tuple(ends), abs=0.2)
