"""Calibration: does an event with predicted probability p occur in a share p of the voxels?

Every score takes the probability [...] of an event and whether it occurred (bool [...]). For the chosen label the event
is that it is correct and the probability is the confidence; for one class it is that the voxel has this class. Pass all
voxels near the structures (`within`) of all cases together: distant background makes any model look calibrated, and
errors within one case are correlated, which adds to the floors below.

A probability that is the mean of n samples contains sampling noise, so scores have floors that decrease with n. For
hard samples and true probabilities that are uniform on 0 to 1 (15 bins):

    n samples     1     2     5     8     16    32    64    exact
    ECE         .333  .167  .086  .056  .029  .015  .008   .000
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

AMBIGUOUS = (0.02, 0.98)


def within(mask: np.ndarray, distance_mm: float, spacing_mm: Sequence[float]) -> np.ndarray:
    """Voxels (bool [*shape]) at most `distance_mm` from `mask` [*shape]; spacing in the order of its axes."""
    return ndimage.distance_transform_edt(~mask, sampling=spacing_mm) <= distance_mm


def calibration_table(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> np.ndarray:
    """Voxels, summed confidence and summed correctness of each equal-width bin, float64 [3, bins].

    `correct` is bool or the probability of being correct. Tables of several cases add up to the table of all voxels.
    """
    index = np.clip((np.ravel(confidence) * bins).astype(int), 0, bins - 1)
    weights = None, np.ravel(confidence), np.ravel(correct)
    return np.stack([np.bincount(index, w, minlength=bins).astype(np.float64) for w in weights])


def table_ece(table: np.ndarray) -> float:
    """ECE from a `calibration_table` [3, bins]; 0 for an empty table."""
    count, confidence, correct = table
    return float(np.abs(correct - confidence).sum() / max(count.sum(), 1))


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    """ECE: mean gap between confidence and accuracy over equal-width bins, weighted by voxels (Guo et al. 2017)."""
    return table_ece(calibration_table(confidence, correct, bins))


def ece_floor(probabilities: np.ndarray, n_samples: int, rng: np.random.Generator, bins: int = 15) -> float:
    """ECE of a perfect sampler with `n_samples` hard samples, for true class probabilities [C, ...].

    Simulates samples and truth of each voxel independently; use many voxels, because counting noise adds to the floor.
    The mean of a model's own samples may stand in for the true probabilities. It is more extreme than they are, so the
    floor is then too low, by an eighth at 8 samples. Raises ValueError when there is no sample.
    """
    if n_samples < 1:
        raise ValueError("A floor needs at least one sample.")
    p = np.asarray(probabilities, np.float64).reshape(len(probabilities), -1).T
    p = p / p.sum(1, keepdims=True)
    mean = rng.multinomial(n_samples, p) / n_samples
    truth = (rng.random((len(p), 1)) > np.cumsum(p, 1)[:, :-1]).sum(1)
    return expected_calibration_error(mean.max(1), mean.argmax(1) == truth, bins)


def ambiguous(exact: np.ndarray) -> np.ndarray:
    """Where (bool) an exact probability lies in AMBIGUOUS; selection by the samples would select their noise, too."""
    return (exact > AMBIGUOUS[0]) & (exact < AMBIGUOUS[1])
