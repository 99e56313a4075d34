"""Split conformal prediction: factors by which predictive intervals of volumes hold in new cases like the labelled ones.

Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World", 2005, section 2.2; Lei et al., "Distribution-free
predictive inference for regression", JASA 2018. The score of a case is the distance of the true volume from the mean
of the samples, in half-widths of their predictive interval on that side. The factor is the ceil((n + 1) level)-th
smallest of n scores: if the new case and the n cases are exchangeable, the interval with half-widths times the factor
holds its volume with probability `level` at least, and at most `level` + 1 / (n + 1) if scores have no ties.

A leave-one-out check of the factors would say nothing: by the ranks of the scores it always finds ceil(n level) of n
volumes inside, whatever the model. `cross_checked` therefore divides the cases.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from .intervals import predictive_bounds

MIN_RELATIVE_WIDTH = 0.01
"""Smallest half-width as a share of the samples' mean, for samples that all have the same volume."""


def half_widths(samples: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean [...] of sample volumes [..., n], and half-widths [...] of their predictive interval below and above it.

    They are MIN_RELATIVE_WIDTH of the mean at least. Raises ValueError for fewer than two samples.
    """
    low, high = predictive_bounds(samples, level, lowest=-math.inf)
    mean = samples.mean(-1)
    floor = MIN_RELATIVE_WIDTH * np.abs(mean)
    return mean, np.maximum(mean - low, floor), np.maximum(high - mean, floor)


def interval_scores(samples: np.ndarray, truth: np.ndarray, level: float) -> np.ndarray:
    """Scores [...] of true volumes [...] by the samples [..., n]; not finite where no sample has the structure."""
    mean, below, above = half_widths(samples, level)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(truth < mean, (mean - truth) / below, (truth - mean) / above)


def calibrated_interval(
    samples: np.ndarray, level: float, factor: float, lowest: float = 0.0
) -> tuple[float, float] | None:
    """Predictive interval of samples [n] with its half-widths times `factor`; None for fewer than two samples.

    No bound is below `lowest`.
    """
    if len(samples) < 2:
        return None
    mean, below, above = half_widths(np.asarray(samples, float), level)
    return max(lowest, float(mean - factor * below)), max(lowest, float(mean + factor * above))


def conformal_rank(n: int, level: float) -> int:
    """Rank ceil((n + 1) level) of the score that becomes the factor; above n where n cases are too few for it."""
    return math.ceil((n + 1) * level - 1e-9)  # (19 + 1) * 0.9 is above 18 in double precision


def conformal_factor(scores: np.ndarray, level: float) -> float:
    """Factor for the scores [n]. Raises ValueError where they are too few: below 9 for a level of 0.9."""
    rank = conformal_rank(len(scores), level)
    if rank > len(scores):
        raise ValueError(f"{len(scores)} scores are too few for the level {level:g}.")
    return float(np.sort(scores)[rank - 1])


def expected_share(n: int, level: float) -> float:
    """Probability that the interval of a new case holds, for the factor of n cases without ties."""
    return conformal_rank(n, level) / (n + 1)


def share_range(n: int, level: float, confidence: float = 0.9) -> tuple[float, float]:
    """Range of the share of new cases in which intervals hold with the factor of one set of n cases, without ties.

    The share is Beta(k, n + 1 - k) over sets of cases, k the rank (Vovk, "Conditional validity of inductive conformal
    predictors", 2012); the range has equal tails and the probability `confidence`.
    """
    k = conformal_rank(n, level)
    low, high = stats.beta(k, n + 1 - k).interval(confidence)
    return float(low), float(high)


def cross_checked(scores: np.ndarray, level: float) -> np.ndarray:
    """Whether (bool [n]) each score is within the factor of the half of the cases that it is not in.

    The halves are the first and the second, in the order of the scores, so that a change in the course of the cases
    shows. Raises ValueError where half of them are too few.
    """
    half = len(scores) // 2
    first, second = scores[:half], scores[half:]
    return np.concatenate([first <= conformal_factor(second, level), second <= conformal_factor(first, level)])
