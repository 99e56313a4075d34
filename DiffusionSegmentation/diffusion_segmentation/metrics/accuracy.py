"""How near one segmentation is to the reference: overlap, surfaces, volumes, lesions.

Label maps are uint8 [*shape] with 2 or 3 axes, 0 is background, `classes` counts it. Spacing is in mm, in the order of
the array's axes. A class that is empty in one map or in both has a stated score, never NaN, so that no mean over cases
can drop a structure that was missed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage


def dice(prediction: np.ndarray, reference: np.ndarray, classes: int) -> np.ndarray:
    """Dice of each class [classes], background first; 1 where a class is empty in both.

    Raises ValueError when the shapes differ.
    """
    _check_grids(prediction, reference)
    pairs = np.bincount(reference.ravel().astype(np.int64) * classes + prediction.ravel(), minlength=classes**2)
    table = pairs.reshape(classes, classes).astype(np.float64)
    sizes = table.sum(0) + table.sum(1)
    return np.where(sizes > 0, 2 * np.diag(table) / np.maximum(sizes, 1), 1.0)


def hd95(prediction: np.ndarray, reference: np.ndarray, classes: int, spacing_mm: Sequence[float]) -> np.ndarray:
    """HD95 in mm of each foreground class [classes - 1].

    The larger of the two directed 95th percentiles of the distances between surface voxels (not the percentile of both
    directions pooled), by MONAI; where a mask meets the border of the grid, that is surface too. A class that is empty
    in one map scores the grid's diagonal, the farthest that a surface could be; 0 where it is empty in both.

    Raises ValueError when the shapes differ or the spacing has another number of axes.
    """
    from monai.metrics import compute_hausdorff_distance

    spacing = _check_spacing(prediction, reference, spacing_mm)
    diagonal = math.dist((0,) * prediction.ndim, np.multiply(prediction.shape, spacing))
    scores = []
    for a, b in _masks(prediction, reference, classes):
        if a.any() and b.any():
            pair = _tensor(a), _tensor(b)
            scores.append(
                compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=spacing).item()
            )
        else:
            scores.append(diagonal if a.any() or b.any() else 0.0)
    return np.array(scores)


def nsd(
    prediction: np.ndarray, reference: np.ndarray, classes: int, spacing_mm: Sequence[float], tolerance_mm: float
) -> np.ndarray:
    """Normalised surface dice of each foreground class [classes - 1]: share of both surfaces within the tolerance.

    Surface elements are weighted by their area between voxel centres (Nikolov et al., arXiv:1809.04430; MONAI with
    `use_subvoxels`). Counting boundary voxels instead gives other numbers, such as .74 for .87 where voxels are 5 x 1 x
    1 mm, so scores of the two kinds are not comparable. 1 where a class is empty in both maps, 0 where in one.

    Raises ValueError when the shapes differ or the spacing has another number of axes.
    """
    from monai.metrics import compute_surface_dice

    spacing = _check_spacing(prediction, reference, spacing_mm)
    scores = []
    for a, b in _masks(prediction, reference, classes):
        if a.any() and b.any():
            pair, tolerance = (_tensor(a), _tensor(b)), [float(tolerance_mm)]
            scores.append(
                compute_surface_dice(
                    *pair, tolerance, include_background=True, spacing=spacing, use_subvoxels=True
                ).item()
            )
        else:
            scores.append(0.0 if a.any() or b.any() else 1.0)
    return np.array(scores)


class VolumeError(NamedTuple):
    """Predicted minus reference volume of each foreground class [classes - 1], in ml and in % of the reference."""

    ml: np.ndarray
    percent: np.ndarray


def volume_error(prediction: np.ndarray, reference: np.ndarray, classes: int, voxel_ml: float) -> VolumeError:
    """Signed volume errors; too large is positive. In % it is infinite where only the reference is empty, 0 where both.

    Raises ValueError when the shapes differ.
    """
    _check_grids(prediction, reference)
    predicted, true = (np.bincount(x.ravel(), minlength=classes)[1:classes] * voxel_ml for x in (prediction, reference))
    error = predicted - true
    with np.errstate(divide="ignore", invalid="ignore"):
        percent = np.where(error == 0, 0.0, 100 * error / true)
    return VolumeError(error, percent)


def lesion_f1(prediction: np.ndarray, reference: np.ndarray, classes: int) -> np.ndarray:
    """Lesion-wise F1 of each foreground class [classes - 1].

    A lesion is a connected component, neighbours by a corner included. It is found when the prediction of its class
    overlaps it by at least one voxel; a predicted component that overlaps none is false. F1 = 2 found / (2 found +
    missed + false), as in ISLES 2022 (Hernandez Petzsche et al. 2022). 1 where a class is empty in both maps.

    Raises ValueError when the shapes differ.
    """
    _check_grids(prediction, reference)
    structure = ndimage.generate_binary_structure(prediction.ndim, prediction.ndim)
    scores = []
    for a, b in _masks(prediction, reference, classes):
        (predicted, predictions), (true, lesions) = ndimage.label(a, structure), ndimage.label(b, structure)
        both = a & b
        found = np.unique(true[both]).size
        missed, false = lesions - found, predictions - np.unique(predicted[both]).size
        scores.append(2 * found / (2 * found + missed + false) if lesions or predictions else 1.0)
    return np.array(scores)


def _masks(prediction: np.ndarray, reference: np.ndarray, classes: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Masks of each foreground class in both maps, cropped to their common box: most structures fill little of a head.

    Both are of size 0 where the class is empty in both.
    """
    boxes = (ndimage.find_objects(x, max_label=classes - 1) for x in (prediction, reference))
    for c, pair in enumerate(zip(*boxes, strict=True), 1):
        found = [box for box in pair if box is not None] or [(slice(0),) * prediction.ndim]
        box = tuple(
            slice(min(s.start or 0 for s in axis), max(s.stop for s in axis)) for axis in zip(*found, strict=True)
        )
        yield prediction[box] == c, reference[box] == c


def _tensor(mask: np.ndarray):
    """As MONAI wants it: [1, 1, *shape]."""
    import torch

    return torch.from_numpy(mask)[None, None]


def _check_grids(prediction: np.ndarray, reference: np.ndarray) -> None:
    if prediction.shape != reference.shape:
        raise ValueError("The two label maps lie on different grids.")


def _check_spacing(prediction: np.ndarray, reference: np.ndarray, spacing_mm: Sequence[float]) -> list[float]:
    _check_grids(prediction, reference)
    if len(spacing_mm) != prediction.ndim:
        raise ValueError(f"The label maps have {prediction.ndim} axes and the spacing {len(spacing_mm)}.")
    return [float(value) for value in spacing_mm]
