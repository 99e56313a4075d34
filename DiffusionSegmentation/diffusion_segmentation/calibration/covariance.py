"""Fits the covariance of a correlated start to labelled cases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import stats
from scipy.optimize import nnls

from ..diffusion.copula import Copula, Covariance
from ..segmentation.folded_image import SamplerImage
from ..segmentation.sampler import sample_seeds
from .tetrachoric import CORRELATIONS, ResidualProducts

SCALES = (1.6, 3.0, 8.0)
"""Widths of the Gaussians in voxels. A narrower one would add isolated voxels, which no label map has."""
LAGS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)  # voxels
ROUNDS = 3
MASKS = 8  # masks per case and round
ITERATIONS = 50
SUM_WEIGHT = 100.0  # least-squares weight of the equation that the parts of a correlation sum to 1
MIN_SHARED, MAX_SHARED = -0.3, 0.5
MAX_Z = 2.0
"""Bound of a volume's z score: a few heads on which the network fails would otherwise determine the spread of all."""


@dataclass(frozen=True)
class LabelledCase:
    """A case on the working grid: image float32 and labels uint8 [*shape], the direct head's p float32 [C, *shape].

    Voxels of `ignored` (bool [*shape]) are background with probability 1 in labels and p, and must be in samples, so
    that they add to no score.
    """

    image: SamplerImage
    labels: np.ndarray
    p: np.ndarray
    ignored: np.ndarray | None = None


def fit_covariance(
    cases: Sequence[LabelledCase], spacing_mm: float, seed: int, on_case: Callable[[int, int], None]
) -> Covariance:
    """Fit by matching moments: the correlation of labels by lag, and the variance of the structures' volumes.

    The tetrachoric correlation of each class against the rest is decomposed into Gaussians and a shared part by
    non-negative least squares. In the copula a label also depends on the other classes' fields, so masks are drawn with
    that covariance, and the remaining error of their correlation is added to the target, ROUNDS times. Short lags
    hardly determine the shared part, so it is fitted to the volumes: it grows where the errors of the expected volumes
    are larger than the masks' volumes spread (`volume_scale`). Below 0 it is subtracted from the correlation at every
    lag instead. `on_case(done, of)` is called after each case of each round.
    """
    classes = len(cases[0].p)
    truth = ResidualProducts(classes, LAGS)
    for case in cases:
        truth.add(case.p, case.labels[None])
    target = goal = truth.correlations()
    weights = decompose(goal)
    shared = weights[:, -1]
    scales_mm = tuple(spacing_mm * s for s in SCALES)
    for number in range(ROUNDS):
        products, volumes = ResidualProducts(classes, LAGS), []
        covariance = Covariance(scales_mm, weights[:, :-1], weights[:, -1])
        for index, case in enumerate(cases):
            copula = Copula(covariance, case.p, spacing_mm)
            masks = np.stack([copula.draw(s) for s in sample_seeds(seed + number, MASKS, index * MASKS)])
            products.add(case.p, masks[: MASKS // 2], references=False)
            volumes.append(volume_errors(case, masks))
            on_case(number * len(cases) + index + 1, ROUNDS * len(cases))
        goal = goal + (target - products.correlations(truth.expected))
        errors, variances = np.moveaxis(np.array(volumes), 1, 0)  # [cases, C] each
        missing = (volume_scale(errors, variances) - 1) * variances.sum(0)
        shared = np.array([adjust_shared(*row) for row in zip(shared, missing, truth.all_pairs, strict=True)])
        weights = decompose(goal + np.minimum(shared, 0)[:, None], np.maximum(shared, 0))
    return Covariance(scales_mm, weights[:, :-1], weights[:, -1])


def volume_scale(errors: np.ndarray, variances: np.ndarray) -> np.ndarray:
    """Factor [C] that the variances of the masks' volumes lack; squared errors of true volumes, both [cases, C].

    Huber's proposal 2 ("Robust Statistics", 1981, section 6.4): the factor at which the mean of z^2, clipped at
    MAX_Z^2, is that of Student's t with the masks' degrees of freedom. 1 for a class without uncertain voxels.
    """
    factors = np.ones(errors.shape[1])
    for label, (error, variance) in enumerate(zip(errors.T, variances.T, strict=True)):
        varies = variance > 0
        if varies.any():
            for _ in range(ITERATIONS):
                squares = error[varies] / variance[varies] / max(factors[label], 1e-6)
                factors[label] *= np.minimum(squares, MAX_Z**2).mean() / _mean_clipped_square()
    return factors


@cache
def _mean_clipped_square() -> float:
    """Mean of z^2, clipped at MAX_Z^2, of Student's t with the masks' degrees of freedom."""
    return float(stats.t(MASKS - 1).expect(lambda z: np.minimum(z**2, MAX_Z**2)))


def adjust_shared(shared: float, missing: float, variance: np.ndarray) -> float:
    """Shared part that adds `missing` voxels^2 to the summed variances of a volume; `variance` [correlations]."""
    target = np.interp(shared, CORRELATIONS, variance) + missing
    return float(np.clip(np.interp(target, variance, CORRELATIONS), MIN_SHARED, MAX_SHARED))


def volume_errors(case: LabelledCase, masks: np.ndarray) -> np.ndarray:
    """Squared error of the expected volume, and variance of the masks' volumes: [2, C], voxels^2."""
    classes = len(case.p)
    true, *volumes = (np.bincount(mask.ravel(), minlength=classes) for mask in (case.labels, *masks))
    expected = case.p.reshape(classes, -1).sum(1, dtype=np.float64)
    return np.stack([np.square(true - expected), np.var(volumes, 0, ddof=1)]) * (expected > 1)


def decompose(correlations: np.ndarray, shared: np.ndarray | None = None) -> np.ndarray:
    """Least-squares weights [C, scales + 1] of the Gaussians and, last, the shared part for correlations [C, lags].

    All are non-negative and sum to 1 for each class. `shared` [C] fixes the last. A class without any correlation (NaN:
    no uncertain voxels) gets the mean of the others, or equal weights.
    """
    lags = np.array(LAGS, float)
    basis = np.stack([np.exp(-0.5 * (lags / scale) ** 2) for scale in SCALES], 1)
    result = np.full((len(correlations), len(SCALES) + 1), np.nan)
    for label, row in enumerate(correlations):
        known = np.isfinite(row)
        if not known.any():
            continue
        if shared is None:
            columns, total, right = np.ones((len(lags), 1)), 1.0, row
        else:
            columns, total, right = np.empty((len(lags), 0)), 1 - shared[label], row - shared[label]
        system = np.hstack([basis, columns])
        system = np.vstack([system[known], SUM_WEIGHT * np.ones(system.shape[1])])
        weights, _ = nnls(system, np.append(right[known], SUM_WEIGHT * total))
        weights *= total / weights.sum()
        result[label] = weights if shared is None else np.append(weights, shared[label])
    unknown = np.isnan(result).any(1)
    result[unknown] = np.nanmean(result, 0) if not unknown.all() else 1 / result.shape[1]
    return result / result.sum(1, keepdims=True)
