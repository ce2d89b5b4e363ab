"""What can be said of few seeds: interquartile means, bootstrap intervals, probabilities of improvement, profiles.

After Agarwal et al. 2021 (arXiv:2108.13264), whose library rliable computes the same; here SciPy does the resampling.
Runs are resampled within each environment and each variant apart: the stratified bootstrap. SciPy is imported when
used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
RESAMPLES, CURVE_RESAMPLES = 10_000, 2_000
BATCH = 500  # resamples at once: bounds the memory of long curves
SEED = 20210830

Statistic = Callable[..., np.ndarray]


@dataclass(frozen=True)
class Estimate:
    """A value with its interval; NaN where one seed allows none."""

    value: float
    low: float
    high: float

    def overlaps(self, other: Estimate) -> bool:
        """True where the intervals share a point, and where one of them is not known."""
        return not (self.low > other.high or self.high < other.low)


@dataclass(frozen=True)
class Band:
    """A curve with its pointwise interval, each `[point]`."""

    x: np.ndarray
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def interquartile_mean(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return the mean of the middle half of all samples together: a quarter, rounded down, is cut off each end."""
    from scipy import stats  # type: ignore[import-untyped]

    return stats.trim_mean(np.concatenate(samples, axis=axis), 0.25, axis=axis)


def upper_median(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return the median, the larger of the two in the middle: one of those given, so that "never" stays "never"."""
    values = np.concatenate(samples, axis=axis)
    middle = values.shape[axis] // 2
    return np.take(np.partition(values, middle, axis=axis), middle, axis=axis)


def mean_of_means(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return the mean over samples of each one's mean: environments count alike, whatever their number of seeds."""
    return np.mean([sample.mean(axis) for sample in samples], axis=0)


def probability_of_improvement(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return the probability that a run of the first variant ends above one of the second; ties count half.

    The Mann-Whitney statistic over the number of pairs, averaged over environments.

    Args:
        samples: the first variant's scores in each environment, then the second's in the same environments.
        axis: of the seeds; the last one.
    """
    if len(samples) % 2 or axis not in (-1, samples[0].ndim - 1):
        raise ValueError("give as many samples of the second variant as of the first, seeds on the last axis")
    half = len(samples) // 2
    wins = []
    for first, second in zip(samples[:half], samples[half:], strict=True):
        x, y = first[..., :, None], second[..., None, :]
        wins.append(((x > y) + 0.5 * (x == y)).mean((-2, -1)))
    return np.mean(wins, axis=0)


def estimate(
    samples: Sequence[np.ndarray],
    statistic: Statistic = interquartile_mean,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
) -> Estimate:
    """Return a statistic of samples `[seed]` with its percentile-bootstrap interval; each sample is resampled apart."""
    low, high = _interval(samples, statistic, confidence, resamples)
    return Estimate(float(statistic(*samples, axis=-1)), float(low), float(high))


def band(
    x: np.ndarray,
    samples: Sequence[np.ndarray],
    statistic: Statistic = interquartile_mean,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = CURVE_RESAMPLES,
) -> Band:
    """Return a statistic of samples `[point, seed]` at each point; whole seeds are resampled, so curves stay whole."""
    low, high = _interval(samples, statistic, confidence, resamples)
    return Band(x, statistic(*samples, axis=-1), low, high)


def performance_profile(scores: Sequence[np.ndarray], levels: np.ndarray, *, confidence: float = CONFIDENCE) -> Band:
    """Return, for each level, the share of runs that score above it.

    Args:
        scores: of one variant, `[seed]` for each environment; environments count alike.
        levels: `[point]`.
    """
    above = [(sample[None, :] > levels[:, None]).astype(float) for sample in scores]
    return band(levels, above, mean_of_means, confidence=confidence)


def _interval(
    samples: Sequence[np.ndarray], statistic: Statistic, confidence: float, resamples: int
) -> tuple[np.ndarray, np.ndarray]:
    from scipy import stats

    if min(sample.shape[-1] for sample in samples) < 2:
        unknown = np.full(samples[0].shape[:-1], math.nan)
        return unknown, unknown
    found = stats.bootstrap(
        tuple(samples),
        statistic,
        n_resamples=resamples,
        batch=BATCH,
        confidence_level=confidence,
        method="percentile",
        axis=-1,
        vectorized=True,
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return found.low, found.high
