"""The covariance of a correlated start, fitted to labelled cases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.optimize import nnls

from ..diffusion.copula import Copula, Covariance
from ..segmentation.sampler import sample_seeds
from .tetrachoric import CORRELATIONS, Products

SCALES = (1.6, 3.0, 8.0)
"""Widths of the Gaussians in voxels. A narrower one would add specks: single voxels that no label map has."""
LAGS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Voxels."""
ROUNDS = 3
MASKS = 8
"""Masks a case that are drawn in each round."""
ITERATIONS = 50
FIRM = 100.0
"""Weight of the equation that the parts of a correlation sum to 1."""
LEAST_SHARED, MOST_SHARED = -0.3, 0.5
MOST_Z = 2.0
"""A volume farther from the expected one than this many standard deviations counts as so many: a few heads on which the
network fails would otherwise set the spread of all."""


@dataclass(frozen=True)
class Labelled:
    """A case on the working grid: image float32 and labels uint8 [*shape], the direct head's p float32 [C, *shape].

    Voxels of `ignored` (bool [*shape]) are background with certainty in labels and p, and must be in samples: so they
    add to no score.
    """

    image: np.ndarray
    labels: np.ndarray
    p: np.ndarray
    ignored: np.ndarray | None = None


def fit_covariance(
    cases: Sequence[Labelled], spacing_mm: float, seed: int, on_case: Callable[[int, int], None]
) -> Covariance:
    """Fit by matching moments: the correlation of labels by lag, and the variance of the structures' volumes.

    The tetrachoric correlation of each class against the rest is decomposed into Gaussians and a shared part by
    non-negative least squares. In the copula a label also depends on the other classes' fields, so masks are drawn with
    that covariance, and what their correlation lacks is added to the target, ROUNDS times. The shared part, which the
    short lags hardly see, follows the volumes: it grows where the true volumes lie farther from the expected ones than
    those of the masks do (`volume_scale`). Below 0 it is taken off the correlation at every lag instead.
    `on_case(done, of)` is called after each case of each round.
    """
    classes = len(cases[0].p)
    truth = Products(classes, LAGS)
    for case in cases:
        truth.add(case.p, case.labels[None])
    target = goal = truth.correlations()
    weights = decompose(goal)
    shared = weights[:, -1]
    for number in range(ROUNDS):
        drawn, volumes = Products(classes, LAGS), []
        covariance = Covariance(tuple(spacing_mm * s for s in SCALES), weights[:, :-1], weights[:, -1])
        for index, case in enumerate(cases):
            copula = Copula(covariance, case.p, spacing_mm)
            masks = np.stack([copula.draw(s) for s in sample_seeds(seed + number, MASKS, index * MASKS)])
            drawn.add(case.p, masks[: MASKS // 2], references=False)
            volumes.append(volume_gaps(case, masks))
            on_case(number * len(cases) + index + 1, ROUNDS * len(cases))
        goal = goal + (target - drawn.correlations(truth.expected))
        gaps, variances = np.moveaxis(np.array(volumes), 1, 0)  # [cases, C] each
        missing = (volume_scale(gaps, variances) - 1) * variances.sum(0)
        shared = np.array([move_shared(*one) for one in zip(shared, missing, truth.everywhere, strict=True)])
        weights = decompose(goal + np.minimum(shared, 0)[:, None], np.maximum(shared, 0))
    return Covariance(tuple(spacing_mm * s for s in SCALES), weights[:, :-1], weights[:, -1])


def volume_scale(gaps: np.ndarray, variances: np.ndarray) -> np.ndarray:
    """By what factor [C] the variances of the masks' volumes fall short of the true volumes' squared gaps, [cases, C].

    Huber's proposal 2 ("Robust Statistics", 1981, section 6.4): the factor at which the mean of z^2, none counted above
    MOST_Z^2, is what Student's t with the masks' degrees of freedom would have. 1 for a class that is nowhere open.
    """
    t = stats.t(MASKS - 1)
    inside = t.expect(lambda z: np.minimum(z**2, MOST_Z**2))
    found = np.ones(gaps.shape[1])
    for label, (gap, variance) in enumerate(zip(gaps.T, variances.T, strict=True)):
        open_cases = variance > 0
        if not open_cases.any():
            continue
        squares, scale = gap[open_cases] / variance[open_cases], 1.0
        for _ in range(ITERATIONS):
            scale *= np.minimum(squares / max(scale, 1e-6), MOST_Z**2).mean() / inside
        found[label] = scale
    return found


def move_shared(shared: float, missing: float, variance: np.ndarray) -> float:
    """The shared part that adds `missing` voxels^2 to the summed variances of a volume; `variance` [correlations]."""
    wanted = np.interp(shared, CORRELATIONS, variance) + missing
    return float(np.clip(np.interp(wanted, variance, CORRELATIONS), LEAST_SHARED, MOST_SHARED))


def volume_gaps(case: Labelled, masks: np.ndarray) -> np.ndarray:
    """Squared distance of true and expected volume, and variance of the masks' volumes: [2, C], voxels^2."""
    classes = len(case.p)
    true = np.bincount(case.labels.ravel(), minlength=classes)
    drawn = np.stack([np.bincount(mask.ravel(), minlength=classes) for mask in masks])
    expected = case.p.reshape(classes, -1).sum(1, dtype=np.float64)
    return np.stack([np.square(true - expected), drawn.var(0, ddof=1)]) * (expected > 1)


def decompose(correlations: np.ndarray, shared: np.ndarray | None = None) -> np.ndarray:
    """Weights [C, scales + 1] of the Gaussians and, last, the shared part, that come nearest correlations [C, lags].

    All are non-negative and sum to 1 for each class. `shared` [C] fixes the last; a class without any correlation
    (NaN: it is nowhere open) gets the mean of the others, or equal parts.
    """
    lags = np.array(LAGS, float)
    basis = np.stack([np.exp(-0.5 * (lags / scale) ** 2) for scale in SCALES], 1)
    found = np.full((len(correlations), len(SCALES) + 1), np.nan)
    for label, row in enumerate(correlations):
        known = np.isfinite(row)
        if not known.any():
            continue
        if shared is None:
            columns, left, right = np.ones((len(lags), 1)), 1.0, row
        else:
            columns, left, right = np.empty((len(lags), 0)), 1 - shared[label], row - shared[label]
        system = np.hstack([basis, columns])
        system = np.vstack([system[known], FIRM * np.ones(system.shape[1])])
        weights, _ = nnls(system, np.append(right[known], FIRM * left))
        weights *= left / weights.sum()
        found[label] = weights if shared is None else np.append(weights, shared[label])
    unknown = np.isnan(found).any(1)
    found[unknown] = np.nanmean(found, 0) if not unknown.all() else 1 / found.shape[1]
    return found / found.sum(1, keepdims=True)
