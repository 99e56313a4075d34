"""Tetrachoric correlation: of the Gaussian values behind labels, seen only as labels.

A voxel has class k where a standard normal value exceeds a threshold that its probability p_k sets. If the values of
two voxels have correlation rho, the product of their residuals (1[label = k] - p_k) has the expectation

    Phi_2(t, t'; rho) - p p',    t = Phi^-1(p),

(Plackett 1954; `phantoms.gaussian.excess`). Sums of products over all pairs at a lag are matched to the sum of the
expectations, whose pairs of thresholds are counted in a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy.special import ndtri

from ..phantoms.gaussian import excess

OPEN = 0.02
"""Voxels with a probability from OPEN to 1 - OPEN count: outside, labels say little of the value behind them."""
BINS = 24
CORRELATIONS = np.concatenate([np.linspace(-0.3, 0.9, 25), [0.94, 0.97, 0.99]])


@lru_cache(maxsize=1)
def expectations() -> np.ndarray:
    """Expected product of residuals [correlations, BINS, BINS] for thresholds in the middle of each bin."""
    edge = -ndtri(OPEN)
    middle = -edge + (np.arange(BINS) + 0.5) * 2 * edge / BINS
    return np.stack([excess(middle[:, None], middle[None], rho) for rho in CORRELATIONS])


class Products:
    """Sums of products of residuals over pairs of voxels, for each class [C] and lag in voxels along the axes."""

    def __init__(self, classes: int, lags: Sequence[int]) -> None:
        self.lags = tuple(lags)
        self.sums = np.zeros((classes, len(lags)))
        self.expected = np.zeros((classes, len(lags), len(CORRELATIONS)))
        self.everywhere = np.zeros((classes, len(CORRELATIONS)))
        """Expected sum over all pairs of open voxels of a case: what a correlation at every lag adds to the variance of
        the volume."""

    def add(self, p: np.ndarray, masks: np.ndarray, references: bool = True) -> None:
        """Take in masks uint8 [n, *shape] of a case with class probabilities p [C, *shape]; their sums are meaned.

        With `references` False only the sums are added: the pairs of this case were counted before.
        """
        edge = -ndtri(OPEN)
        for label, row in enumerate(p):
            is_open = (row > OPEN) & (row < 1 - OPEN)
            if not is_open.any():
                continue
            thresholds = ndtri(np.clip(row, OPEN, 1 - OPEN))
            bins = np.clip(((thresholds + edge) / (2 * edge) * BINS).astype(int), 0, BINS - 1)
            if references:
                count = np.bincount(bins[is_open], minlength=BINS).astype(np.float64)
                self.everywhere[label] += np.einsum("i,rij,j->r", count, expectations(), count)
            residuals = ((masks == label) - row) * is_open
            for axis in range(row.ndim):
                for column, lag in enumerate(self.lags):
                    if lag >= row.shape[axis]:
                        continue
                    first, second = (
                        tuple(part if a == axis else slice(None) for a in range(row.ndim))
                        for part in (slice(None, -lag), slice(lag, None))
                    )
                    pairs = np.einsum("i,i->", residuals[:, *first].ravel(), residuals[:, *second].ravel())
                    self.sums[label, column] += pairs / len(masks)
                    if references:
                        pair = is_open[first] & is_open[second]
                        index = bins[first][pair] * BINS + bins[second][pair]
                        table = np.bincount(index, minlength=BINS * BINS).reshape(BINS, BINS)
                        self.expected[label, column] += np.tensordot(expectations(), table, 2)

    def correlations(self, expected: np.ndarray | None = None) -> np.ndarray:
        """Correlation [C, lags] that explains the sums; NaN where no pair of voxels is open.

        `expected` is that of other Products of the same cases, where this one counted no pairs.
        """
        expected = self.expected if expected is None else expected
        found = np.full(self.sums.shape, np.nan)
        for place in np.argwhere(expected[..., -1] > 0):
            at = tuple(place)
            found[at] = np.interp(self.sums[at], expected[at], CORRELATIONS)
        return found
