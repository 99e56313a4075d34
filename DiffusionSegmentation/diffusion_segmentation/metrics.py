"""Scores of a segmentation and of its uncertainty against a reference."""

from __future__ import annotations

import numpy as np
from scipy import ndimage, stats


def dice(prediction: np.ndarray, reference: np.ndarray, classes: int) -> np.ndarray:
    """Dice of each class [classes] between two label maps of one shape; 1 where a class is empty in both.

    Raises ValueError when the shapes differ.
    """
    if prediction.shape != reference.shape:
        raise ValueError("The two label maps lie on different grids.")
    pairs = np.bincount(reference.ravel().astype(np.int64) * classes + prediction.ravel(), minlength=classes**2)
    table = pairs.reshape(classes, classes).astype(np.float64)
    sizes = table.sum(0) + table.sum(1)
    return np.where(sizes > 0, 2 * np.diag(table) / np.maximum(sizes, 1), 1.0)


def error_auroc(uncertainty: np.ndarray, wrong: np.ndarray) -> float:
    """Probability that a wrong voxel is more uncertain than a right one, ties counting half; NaN if either is missing.

    `uncertainty` and `wrong` (bool) are [voxels]. The Mann-Whitney form of the area under the ROC curve.
    """
    errors = int(wrong.sum())
    right = wrong.size - errors
    if not errors or not right:
        return float("nan")
    ranks = stats.rankdata(uncertainty)
    return float((ranks[wrong].sum() - errors * (errors + 1) / 2) / (errors * right))


def within(mask: np.ndarray, distance_mm: float, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Voxels [k, j, i] at most `distance_mm` away from `mask`; spacing in the order of the array's axes."""
    return ndimage.distance_transform_edt(~mask, sampling=spacing_mm) <= distance_mm


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    """ECE: mean gap between confidence and accuracy over equal-width bins, weighted by their voxels (Guo et al. 2017).

    `confidence` is the probability [voxels] of the label that was chosen, `correct` (bool) whether it was right. Not
    zero for a perfect model from few samples: a probability that is a mean of 8 hard masks has an ECE of about 0.06.
    """
    where = np.clip((confidence * bins).astype(int), 0, bins - 1)
    count = np.bincount(where, minlength=bins)
    gap = np.bincount(where, correct, bins) - np.bincount(where, confidence, bins)
    return float(np.abs(gap).sum() / count.sum())
