"""Tetrachoric correlation: correlation of latent Gaussian values of which only labels are observed.

A voxel has class k where a standard normal value exceeds a threshold set by its probability p_k. If the values of two
voxels have correlation rho, the product of their residuals (1[label = k] - p_k) has the expectation

    Phi_2(t, t'; rho) - p p',    t = Phi^-1(p),

(Plackett 1954; `phantoms.gaussian.excess`). Sums of products over all pairs at a lag are matched to the sum of their
expectations, for which pairs of thresholds are counted in a histogram.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy.special import ndtri

from ..phantoms.gaussian import excess

MIN_PROBABILITY = 0.02
"""Voxels with a probability in [MIN_PROBABILITY, 1 - MIN_PROBABILITY] count; the labels of others carry little
information on their latent values."""
EDGE = -ndtri(MIN_PROBABILITY)
BINS = 24
CORRELATIONS = np.concatenate([np.linspace(-0.3, 0.9, 25), [0.94, 0.97, 0.99]])


@lru_cache(maxsize=1)
def expectations() -> np.ndarray:
    """Expected product of residuals [correlations, BINS, BINS] for thresholds at the bin centres."""
    middle = -EDGE + (np.arange(BINS) + 0.5) * 2 * EDGE / BINS
    return np.stack([excess(middle[:, None], middle[None], rho) for rho in CORRELATIONS])


class ResidualProducts:
    """Sums of products of residuals over pairs of voxels, for each class and lag in voxels along the axes.

    `sums` [C, lags] are observed, `expected` [C, lags, correlations] their expectations. `all_pairs` [C, correlations]
    is the expected sum over all pairs of uncertain voxels of a case: the variance that a correlation at every lag adds
    to the volume.
    """

    def __init__(self, classes: int, lags: Sequence[int]) -> None:
        self.lags = tuple(lags)
        self.sums = np.zeros((classes, len(lags)))
        self.expected = np.zeros((classes, len(lags), len(CORRELATIONS)))
        self.all_pairs = np.zeros((classes, len(CORRELATIONS)))

    def add(self, p: np.ndarray, masks: np.ndarray, references: bool = True) -> None:
        """Add the mean over masks uint8 [n, *shape] of a case with class probabilities p [C, *shape].

        With `references` False only `sums` grow, for a case whose pairs another instance has counted.
        """
        for label, row in enumerate(p):
            uncertain = (row > MIN_PROBABILITY) & (row < 1 - MIN_PROBABILITY)
            if not uncertain.any():
                continue
            thresholds = ndtri(np.clip(row, MIN_PROBABILITY, 1 - MIN_PROBABILITY))
            bins = np.clip(((thresholds + EDGE) / (2 * EDGE) * BINS).astype(int), 0, BINS - 1)
            if references:
                count = np.bincount(bins[uncertain], minlength=BINS).astype(np.float64)
                self.all_pairs[label] += np.einsum("i,rij,j->r", count, expectations(), count)
            residuals = ((masks == label) - row) * uncertain
            for axis in range(row.ndim):
                for column, lag in enumerate(self.lags):
                    if lag >= row.shape[axis]:
                        continue
                    before = (slice(None),) * axis
                    first, second = (*before, slice(None, -lag)), (*before, slice(lag, None))
                    pairs = np.einsum("i,i->", residuals[:, *first].ravel(), residuals[:, *second].ravel())
                    self.sums[label, column] += pairs / len(masks)
                    if references:
                        pair = uncertain[first] & uncertain[second]
                        index = bins[first][pair] * BINS + bins[second][pair]
                        histogram = np.bincount(index, minlength=BINS * BINS).reshape(BINS, BINS)
                        self.expected[label, column] += np.tensordot(expectations(), histogram, 2)

    def correlations(self, expected: np.ndarray | None = None) -> np.ndarray:
        """Correlation [C, lags] that explains the sums; NaN without any pair of uncertain voxels.

        `expected` is that of another instance for the same cases, where this one counted no pairs.
        """
        expected = self.expected if expected is None else expected
        correlations = np.full(self.sums.shape, np.nan)
        for index in map(tuple, np.argwhere(expected[..., -1] > 0)):
            correlations[index] = np.interp(self.sums[index], expected[index], CORRELATIONS)
        return correlations
