"""Split conformal prediction: predictive intervals of volumes that hold in new cases like some labelled ones.

Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World", 2005, section 2.2; Lei et al., "Distribution-free
predictive inference for regression", JASA 2018. The score of a case is the distance of the true volume from the mean
of the samples, in half-widths of their predictive interval on that side. The factor is the ceil((n + 1) level)-th
smallest of n scores: if the new case and the n cases are exchangeable, the interval with half-widths times the factor
holds its volume with probability `level` at least.

A half-width is at least a `floor` times the mean: samples that happen to be equal would give scores without bound. The
floor is a share of the median relative half-width of the n cases and the new one. This median lies between two order
statistics of the n; scores take the lower and new intervals the higher one, so that the bound stays exact.

A leave-one-out check would say nothing: by the ranks of the scores it always finds ceil(n level) of n volumes inside,
whatever the model. `cross_checked` therefore divides the cases.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from .intervals import predictive_bounds

FLOOR_SHARE = 0.5  # of the median relative half-width
LEAST_FLOOR = 0.01


@dataclass(frozen=True)
class Scaling:
    """Half-widths of the calibrated intervals of `level` are `factor` times the larger of theirs and `floor` * mean."""

    level: float
    factor: float
    floor: float

    def interval(self, samples: np.ndarray, lowest: float = 0.0) -> tuple[float, float] | None:
        """Interval from sample volumes [n], with no bound below `lowest`; None for fewer than two samples."""
        if len(samples) < 2:
            return None
        mean, below, above = half_widths(np.asarray(samples, float), self.level, self.floor)
        return max(lowest, float(mean - self.factor * below)), max(lowest, float(mean + self.factor * above))

    def holds(self, samples: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """Whether (bool [...]) the intervals of samples [..., n] contain the true volumes [...]."""
        return interval_scores(samples, truth, self.level, self.floor) <= self.factor


def fit_scaling(samples: np.ndarray, truth: np.ndarray, level: float) -> Scaling:
    """Scaling for labelled cases with sample volumes [cases, n], all of which have a mean above 0, and truth [cases].

    Raises ValueError for too few cases: fewer than 9 for a level of 0.9.
    """
    rank, cases = conformal_rank(len(truth), level), len(truth)
    if rank > cases:
        raise ValueError(f"{cases} cases are too few for the level {level:g}.")
    mean, below, above = half_widths(samples, level)
    lower, upper = np.sort((below + above) / 2 / mean)[[max(cases // 2 - 1, 0), cases // 2]]
    lower, upper = (max(LEAST_FLOOR, FLOOR_SHARE * float(width)) for width in (lower, upper))
    factor = np.sort(interval_scores(samples, truth, level, lower))[rank - 1]
    return Scaling(level, float(factor), upper)


def half_widths(samples: np.ndarray, level: float, floor: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean [...] of sample volumes [..., n], and half-widths [...] of their predictive interval below and above it.

    They are `floor` times the mean at least. Raises ValueError for fewer than two samples.
    """
    low, high = predictive_bounds(samples, level, lowest=-math.inf)
    mean = samples.mean(-1)
    return mean, np.maximum(mean - low, floor * mean), np.maximum(high - mean, floor * mean)


def interval_scores(samples: np.ndarray, truth: np.ndarray, level: float, floor: float) -> np.ndarray:
    """Scores [...] of true volumes [...] by the samples [..., n], whose means are above 0."""
    mean, below, above = half_widths(samples, level, floor)
    return np.where(truth < mean, (mean - truth) / below, (truth - mean) / above)


def conformal_rank(n: int, level: float) -> int:
    """Rank ceil((n + 1) level) of the score that becomes the factor; above n where n cases are too few for it."""
    return math.ceil((n + 1) * level - 1e-9)  # (19 + 1) * 0.9 is above 18 in double precision


def expected_share(n: int, level: float) -> float:
    """Probability that the interval of a new case holds, for the factor of n cases without ties."""
    return conformal_rank(n, level) / (n + 1)


def share_range(n: int, level: float, confidence: float = 0.9) -> tuple[float, float]:
    """Range of the share of new cases in which intervals hold with the factor of one set of n cases, without ties.

    The share is Beta(k, n + 1 - k) over sets of cases, k the rank (Vovk, "Conditional validity of inductive conformal
    predictors", 2012); the range has equal tails and the probability `confidence`.
    """
    k = conformal_rank(n, level)
    low, high = special.betaincinv(k, n + 1 - k, ((1 - confidence) / 2, (1 + confidence) / 2))
    return float(low), float(high)


def cross_checked(samples: np.ndarray, truth: np.ndarray, level: float) -> np.ndarray:
    """Whether (bool [cases]) the interval of each case holds with the scaling of the half that it is not in.

    Arguments as for `fit_scaling`. The halves are the first and the second, in the order of the cases, so that a change
    in the course of them shows. Raises ValueError where half of them are too few.
    """
    half = len(truth) // 2
    first, second = (samples[:half], truth[:half]), (samples[half:], truth[half:])
    return np.concatenate([fit_scaling(*second, level).holds(*first), fit_scaling(*first, level).holds(*second)])
