"""Predictive intervals of a volume from few samples, and whether they contain the true volume."""

from __future__ import annotations

import math

import numpy as np
from scipy import special

FEWEST_FOR_ORDER_STATISTICS = 19


def predictive_interval(volumes: np.ndarray, level: float, lowest: float = 0.0) -> tuple[float, float] | None:
    """Interval that contains the next volume with probability `level`, from samples [n]; None for fewer than two.

    `lowest` as for `predictive_bounds`.
    """
    if len(volumes) < 2:
        return None
    low, high = predictive_bounds(np.asarray(volumes), level, lowest)
    return float(low), float(high)


def predictive_bounds(volumes: np.ndarray, level: float, lowest: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Bounds [...] of the predictive intervals of samples [..., n], whose values cannot be below `lowest`.

    Below 19 samples mean +- t(n - 1) * s * sqrt(1 + 1/n), at least `lowest`; from 19 samples on the order statistics at
    (n + 1)p (Hahn and Meeker, "Statistical Intervals", 1991, sections 4.7 and 5.4). Plain quantiles of few samples are
    too narrow: the 5 to 95 % range of 8 perfect samples contains 72 % of new values. Raises ValueError for fewer than
    two samples.
    """
    n = volumes.shape[-1]
    if n < 2:
        raise ValueError("An interval needs two samples or more.")
    if n < FEWEST_FOR_ORDER_STATISTICS:
        half_width = special.stdtrit(n - 1, (1 + level) / 2) * np.std(volumes, -1, ddof=1) * math.sqrt(1 + 1 / n)
        mean = np.mean(volumes, -1)
        return np.maximum(lowest, mean - half_width), mean + half_width
    low, high = np.quantile(volumes, [(1 - level) / 2, (1 + level) / 2], axis=-1, method="weibull")
    return low, high


def interval_method(samples: int) -> str:
    """Name of the method that `predictive_interval` uses for this number of samples."""
    return "t-predictive" if samples < FEWEST_FOR_ORDER_STATISTICS else "order-statistics"


def covered(samples: np.ndarray, truth: np.ndarray, level: float) -> np.ndarray:
    """Whether (bool) the predictive intervals of samples [..., n] contain the true volumes [...]; both broadcast.

    The mean is `level` for a perfect sampler at any n if volumes are normal (below 19 samples) or continuous (from 19
    on). Discrete volumes, such as those of a lesion that may be absent, are covered more or less often. Raises
    ValueError for fewer than two samples.
    """
    low, high = predictive_bounds(samples, level)
    slack = 1e-9 * np.abs(truth)  # identical samples give a point, which rounding in the mean must not move
    return (low - slack <= truth) & (truth <= high + slack)
