"""Accuracy of one segmentation against a reference: overlap, surface distance, volume and lesion detection.

Label maps are uint8 [*shape] with 2 or 3 axes; label 0 is background, and `classes` includes it. Spacing is in mm, in
the order of the array's axes. A class that is empty in one map or in both has a defined score, never NaN, so that a
mean over cases includes missed structures. Every score raises ValueError when the shapes of the maps differ or the
spacing has another number of axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import ndimage

MaskScore = Callable[[np.ndarray, np.ndarray], float]


def dice(prediction: np.ndarray, reference: np.ndarray, classes: int) -> np.ndarray:
    """Dice of each class [classes], background first; 1 if a class is empty in both maps."""
    _check_grids(prediction, reference)
    differs = prediction != reference  # few voxels in most uses
    wrong, missed = (np.bincount(part[differs], minlength=classes) for part in (prediction, reference))
    # By parts, because `bincount` converts labels to 64-bit integers, which should stay in the processor's cache.
    whole = np.sum([np.bincount(part.ravel(), minlength=classes) for part in np.atleast_2d(reference)], 0)
    shared, sizes = whole - missed, 2 * whole - missed + wrong
    return np.where(sizes > 0, 2 * shared / np.maximum(sizes, 1), 1.0)


def hd95(prediction: np.ndarray, reference: np.ndarray, classes: int, spacing_mm: Sequence[float]) -> np.ndarray:
    """HD95 (mm) of each foreground class [classes - 1].

    The larger of the two directed 95th percentiles of the distances between surface voxels (MONAI), not the percentile
    of both directions pooled. Mask voxels at the border of the grid are surface voxels. A class that is empty in one
    map scores the diagonal of the grid, the largest possible distance; 0 if it is empty in both.
    """
    from monai.metrics import compute_hausdorff_distance

    spacing = _check_spacing(prediction, reference, spacing_mm)
    score = _monai_score(compute_hausdorff_distance, percentile=95, spacing=spacing)
    diagonal = math.dist((0,) * prediction.ndim, np.multiply(prediction.shape, spacing))
    return _by_class(prediction, reference, classes, score, one_empty=diagonal, both_empty=0.0)


def nsd(
    prediction: np.ndarray, reference: np.ndarray, classes: int, spacing_mm: Sequence[float], tolerance_mm: float
) -> np.ndarray:
    """Normalised surface Dice of each foreground class [classes - 1]: share of both surfaces within the tolerance.

    Surface elements are weighted by their area between voxel centres (Nikolov et al., arXiv:1809.04430; MONAI with
    `use_subvoxels`). Scores that count boundary voxels instead are not comparable: with voxels of 5 x 1 x 1 mm they can
    be .74 in place of .87. 1 if a class is empty in both maps, 0 if it is empty in one.
    """
    from monai.metrics import compute_surface_dice

    tolerance, spacing = [float(tolerance_mm)], _check_spacing(prediction, reference, spacing_mm)
    score = _monai_score(compute_surface_dice, class_thresholds=tolerance, spacing=spacing, use_subvoxels=True)
    return _by_class(prediction, reference, classes, score, one_empty=0.0, both_empty=1.0)


def lesion_f1(prediction: np.ndarray, reference: np.ndarray, classes: int) -> np.ndarray:
    """Lesion-wise F1 of each foreground class [classes - 1]; 1 if a class is empty in both maps.

    A lesion is a connected component (full connectivity). It is detected if the prediction of its class overlaps it by
    at least one voxel; a predicted component without overlap is a false positive. F1 = 2 TP / (2 TP + FN + FP), as in
    ISLES 2022 (Hernandez Petzsche et al. 2022).
    """
    _check_grids(prediction, reference)
    structure = ndimage.generate_binary_structure(prediction.ndim, prediction.ndim)

    def score(a: np.ndarray, b: np.ndarray) -> float:
        (predicted, predictions), (true, lesions) = ndimage.label(a, structure), ndimage.label(b, structure)
        overlap = a & b
        detected = np.unique(true[overlap]).size
        missed, false = lesions - detected, predictions - np.unique(predicted[overlap]).size
        return 2 * detected / (2 * detected + missed + false)

    return _by_class(prediction, reference, classes, score, one_empty=0.0, both_empty=1.0)


def _by_class(
    prediction: np.ndarray, reference: np.ndarray, classes: int, score: MaskScore, one_empty: float, both_empty: float
) -> np.ndarray:
    """Scores [classes - 1] of each foreground class from its two masks, cropped to their common bounding box."""
    boxes = (ndimage.find_objects(x, max_label=classes - 1) for x in (prediction, reference))
    scores = []
    for label, (a, b) in enumerate(zip(*boxes, strict=True), 1):
        if a is None or b is None:
            scores.append(both_empty if a is b else one_empty)
            continue
        box = tuple(slice(min(i.start, j.start), max(i.stop, j.stop)) for i, j in zip(a, b, strict=True))
        scores.append(score(prediction[box] == label, reference[box] == label))
    return np.array(scores)


def _monai_score(metric: Callable[..., Any], **options: Any) -> MaskScore:
    """A score of MONAI, which takes tensors [1, 1, *shape], as a function of two masks."""
    import torch

    def score(a: np.ndarray, b: np.ndarray) -> float:
        pair = (torch.from_numpy(mask)[None, None] for mask in (a, b))
        return metric(*pair, include_background=True, **options).item()

    return score


def _check_grids(prediction: np.ndarray, reference: np.ndarray) -> None:
    if prediction.shape != reference.shape:
        raise ValueError("The two label maps lie on different grids.")


def _check_spacing(prediction: np.ndarray, reference: np.ndarray, spacing_mm: Sequence[float]) -> list[float]:
    _check_grids(prediction, reference)
    if len(spacing_mm) != prediction.ndim:
        raise ValueError(f"The label maps have {prediction.ndim} axes and the spacing {len(spacing_mm)}.")
    return [float(value) for value in spacing_mm]
