"""Whether uncertainty is where the errors are: voxel by voxel, and case by case.

Their best values are those of an oracle that knows the errors. A perfect model does not reach them, because it cannot
know which way an ambiguous voxel falls, whatever the number of samples; few samples make its ranking coarser.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats


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


def error_aupr(uncertainty: np.ndarray, wrong: np.ndarray) -> float:
    """Area under the precision-recall curve of finding wrong voxels by their uncertainty; NaN if none is wrong.

    `uncertainty` and `wrong` (bool) are [voxels]. As average precision: the sum of precision times gain in recall, with
    voxels of equal uncertainty taken at once. Useless uncertainty scores the share of wrong voxels, so compare at equal
    error only; unlike the AUROC it does not grow when right background is added.
    """
    if not wrong.any():
        return float("nan")
    order = np.argsort(-uncertainty, kind="stable")
    last = np.append(np.diff(uncertainty[order]) != 0, True)
    found, taken = np.cumsum(wrong[order])[last], np.flatnonzero(last) + 1
    return float((np.diff(found, prepend=0) * found / taken).sum() / found[-1])


def risk_coverage(risk: np.ndarray, confidence: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coverage [cases] k / cases, and mean risk [cases] of the k most confident cases (El-Yaniv and Wiener 2010).

    `risk` (such as 1 - Dice) and `confidence` (such as minus an aggregated entropy) are [cases]. Where cases are
    equally confident it is the mean over all orders of them.
    """
    _, tied = np.unique(-np.asarray(confidence), return_inverse=True)
    mean = np.bincount(tied, risk) / np.bincount(tied)
    taken = np.arange(1, len(risk) + 1)
    return taken / len(risk), np.cumsum(mean[np.sort(tied)]) / taken


def aurc(risk: np.ndarray, confidence: np.ndarray) -> float:
    """Area under the risk-coverage curve, the mean of its points (Geifman et al. 2019).

    Useless confidence scores the mean risk. It mixes how good the segmentations are with how well they are ranked.
    """
    return float(risk_coverage(risk, confidence)[1].mean())


def e_aurc(risk: np.ndarray, confidence: np.ndarray) -> float:
    """Excess AURC: what the best possible ranking of the same cases would score less. 0 is that ranking."""
    return aurc(risk, confidence) - aurc(risk, -np.asarray(risk))


def threshold_mean(entropy: np.ndarray, bits: float) -> float:
    """Mean entropy in bits of the voxels above a threshold in bits; 0 if there are none. Does not grow with size."""
    above = entropy[entropy > bits]
    return float(above.mean(dtype=np.float64)) if above.size else 0.0


def patch_max(entropy: np.ndarray, spacing_mm: Sequence[float], size_mm: float) -> float:
    """Largest mean entropy in bits of a cube of `size_mm` (rounded to voxels) inside the grid: the worst place.

    Spacing in the order of the array's axes. A grid that is smaller than the cube is taken whole along that axis.

    Raises ValueError when the spacing has another number of axes.
    """
    if len(spacing_mm) != entropy.ndim:
        raise ValueError(f"The entropy has {entropy.ndim} axes and the spacing {len(spacing_mm)}.")
    means = entropy.astype(np.float64)
    for axis, spacing in enumerate(spacing_mm):
        width = min(max(1, round(size_mm / spacing)), entropy.shape[axis])
        sums = np.cumsum(np.moveaxis(means, axis, 0), axis=0)
        sums[width:] -= sums[:-width].copy()
        means = np.moveaxis(sums[width - 1 :] / width, 0, axis)
    return float(means.max())


def image_sum(entropy: np.ndarray) -> float:
    """Summed entropy in bits times voxels. It measures the size of the object more than how sure the model is."""
    return float(entropy.sum(dtype=np.float64))
