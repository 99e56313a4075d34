"""Whether uncertainty predicts errors, by voxel and by case.

The best values are those of an oracle that knows the errors. A perfect model does not reach them: it cannot know the
label of an ambiguous voxel, and few samples make its ranking coarser.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def error_auroc(uncertainty: np.ndarray, wrong: np.ndarray) -> float:
    """Probability that a wrong voxel is more uncertain than a correct one, ties counted half; NaN without either kind.

    `uncertainty` and `wrong` (bool) are [voxels]. The Mann-Whitney form of the area under the ROC curve.
    """
    errors = int(wrong.sum())
    correct = wrong.size - errors
    if not errors or not correct:
        return float("nan")
    from scipy import stats  # its import takes half a second, which runs need not wait for

    ranks = stats.rankdata(uncertainty)
    return float((ranks[wrong].sum() - errors * (errors + 1) / 2) / (errors * correct))


def error_aupr(uncertainty: np.ndarray, wrong: np.ndarray) -> float:
    """Area under the precision-recall curve of detecting wrong voxels by their uncertainty; NaN if none is wrong.

    `uncertainty` and `wrong` (bool) are [voxels]. Average precision: the sum of precision times gain in recall, with
    voxels of equal uncertainty added together. Uninformative uncertainty scores the share of wrong voxels, so compare
    at equal error only; unlike the AUROC it does not increase when correct background is added.
    """
    if not wrong.any():
        return float("nan")
    order = np.argsort(-uncertainty, kind="stable")
    last = np.append(np.diff(uncertainty[order]) != 0, True)
    detected, flagged = np.cumsum(wrong[order])[last], np.flatnonzero(last) + 1
    return float((np.diff(detected, prepend=0) * detected / flagged).sum() / detected[-1])


def risk_coverage(risk: np.ndarray, confidence: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coverage [cases] k / cases, and mean risk [cases] of the k most confident cases (El-Yaniv and Wiener 2010).

    `risk` (such as 1 - Dice) and `confidence` (such as minus an aggregated entropy) are [cases]. Equally confident
    cases give the mean over all their orders.
    """
    _, level = np.unique(-np.asarray(confidence), return_inverse=True)
    mean = np.bincount(level, risk) / np.bincount(level)
    selected = np.arange(1, len(risk) + 1)
    return selected / len(risk), np.cumsum(mean[np.sort(level)]) / selected


def aurc(risk: np.ndarray, confidence: np.ndarray) -> float:
    """Area under the risk-coverage curve, the mean of its points (Geifman et al. 2019).

    Uninformative confidence scores the mean risk. Depends on both the quality of the segmentations and their ranking.
    """
    return float(risk_coverage(risk, confidence)[1].mean())


def e_aurc(risk: np.ndarray, confidence: np.ndarray) -> float:
    """Excess AURC: AURC minus that of the best possible ranking of the same cases; 0 is that ranking."""
    return aurc(risk, confidence) - aurc(risk, -np.asarray(risk))


def threshold_mean(entropy: np.ndarray, bits: float) -> float:
    """Mean entropy (bits) of the voxels above a threshold (bits), 0 without any; does not depend on object size."""
    above = entropy[entropy > bits]
    return float(above.mean(dtype=np.float64)) if above.size else 0.0


def patch_max(entropy: np.ndarray, spacing_mm: Sequence[float], size_mm: float) -> float:
    """Largest mean entropy (bits) of a cube of edge `size_mm` (rounded to voxels) inside the grid.

    Spacing in the order of the array's axes. The cube is cut to the grid along axes where the grid is smaller. Raises
    ValueError when the spacing has another number of axes.
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
