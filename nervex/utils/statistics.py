"""Statistics of few runs: interquartile mean and stratified bootstrap intervals.

Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice",
https://arxiv.org/abs/2108.13264, section 4. Letters: ``R`` runs (seeds), ``K`` tasks. Scores are [R] or [R, K].
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

RESAMPLE_NUM = 10_000

Statistic = Callable[[np.ndarray], np.ndarray]


class Interval(NamedTuple):
    """A point estimate and the ends of its interval."""

    value: float
    low: float
    high: float


def iqm(score: np.ndarray) -> np.ndarray:
    """Returns the interquartile mean over the last dimension.

        IQM(x) = mean of sorted x without its ⌊N/4⌋ lowest and ⌊N/4⌋ highest values

    Whole values are left out, as in the authors' own code: 1 of 5 at each end, none of 3.

    Args:
        score: [..., N], N ≥ 1.

    Returns:
        float64 [...].

    Raises:
        ValueError: there are no scores.
    """
    score = np.asarray(score, dtype=np.float64)
    size = score.shape[-1] if score.ndim else 0
    if size == 0:
        raise ValueError(f"the interquartile mean needs at least one score, got shape {list(score.shape)}")
    cut = size // 4
    score = np.sort(score, axis=-1)
    return np.asarray(score[..., cut : size - cut].mean(axis=-1))


def bootstrap_interval(
    score: np.ndarray,
    statistic: Statistic = iqm,
    level: float = 0.95,
    resample_num: int = RESAMPLE_NUM,
    seed: int = 0,
) -> Interval:
    """Returns a statistic of all scores with its stratified bootstrap percentile interval.

    A resample draws, for every task by itself (the strata), R of its R runs with replacement; the interval ends at the
    (1 ± level)/2 quantiles of the statistic over resamples.

    Args:
        score: [R] or [R, K].
        statistic: maps [..., N] to [...]; it is given the N = R·K scores of a resample.
        level: probability that the interval is to cover.
        resample_num: resamples.
        seed: of the resampling; the same scores give the same interval.

    Raises:
        ValueError: there are no scores.
    """
    score = _check(score)
    value = float(statistic(score.reshape(-1)))
    return Interval(value, *_ends(statistic(_resample(score, resample_num, np.random.default_rng(seed))), level))


def difference_interval(
    score: np.ndarray,
    other: np.ndarray,
    statistic: Statistic = iqm,
    level: float = 0.95,
    resample_num: int = RESAMPLE_NUM,
    seed: int = 0,
) -> Interval:
    """Returns statistic(score) − statistic(other) with its bootstrap interval; the two groups are resampled
    independently of each other, see :func:`bootstrap_interval`.

    Args:
        score: [R] or [R, K].
        other: [R'] or [R', K].
        statistic, level, resample_num, seed: see :func:`bootstrap_interval`.

    Raises:
        ValueError: a group has no scores.
    """
    score, other = _check(score), _check(other)
    rng = np.random.default_rng(seed)
    resampled = statistic(_resample(score, resample_num, rng)) - statistic(_resample(other, resample_num, rng))
    return Interval(float(statistic(score.reshape(-1)) - statistic(other.reshape(-1))), *_ends(resampled, level))


def bootstrap_band(
    score: np.ndarray,
    statistic: Statistic = iqm,
    level: float = 0.95,
    resample_num: int = 2000,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns a statistic over runs and its interval at every point of their curves.

    Args:
        score: [R, P], P points; each resample draws whole curves.
        statistic, level, resample_num, seed: see :func:`bootstrap_interval`.

    Returns:
        Value, low and high, float64 [P] each.

    Raises:
        ValueError: there are no scores.
    """
    score = _check(score).T  # [P, R]
    run = np.random.default_rng(seed).integers(score.shape[1], size=(resample_num, score.shape[1]))
    band = [np.quantile(statistic(point[run]), _quantiles(level)) for point in score]
    low, high = np.array(band).T
    return statistic(score), low, high


def _check(score: np.ndarray) -> np.ndarray:
    score = np.asarray(score, dtype=np.float64)
    if score.ndim not in (1, 2) or score.size == 0:
        raise ValueError(f"expected scores [runs] or [runs, tasks], at least one, got shape {list(score.shape)}")
    return score


def _resample(score: np.ndarray, resample_num: int, rng: np.random.Generator) -> np.ndarray:
    """Returns [resample_num, R·K]: every task's runs drawn with replacement."""
    score = score[:, None] if score.ndim == 1 else score
    runs, tasks = score.shape
    run = rng.integers(runs, size=(resample_num, runs, tasks))
    return score[run, np.arange(tasks)].reshape(resample_num, runs * tasks)


def _ends(resampled: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(resampled, _quantiles(level))
    return float(low), float(high)


def _quantiles(level: float) -> tuple[float, float]:
    return (1 - level) / 2, (1 + level) / 2
