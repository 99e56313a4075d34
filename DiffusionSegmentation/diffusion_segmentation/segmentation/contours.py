"""Inner and outer contour of a structure: around what surely belongs to it, and around what possibly does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

INNER, OUTER = 0.95, 0.05
"""Least probability of a voxel inside each contour."""


def contour_distance(p: np.ndarray, spacing_mm: Sequence[float]) -> float | None:
    """Mean distance (mm) between the contours of a structure with probabilities `p` [z, y, x]; `spacing_mm` likewise.

    (mean of d(x, I) over x in O + mean of d(x, O) over x in I) / 2, the average symmetric surface distance, where I and
    O are the surface voxels of {p >= INNER} and {p >= OUTER}, d is the distance to the nearest of them by centres, and
    a surface voxel has a voxel outside beside one of its faces. The border of the grid is no surface. 0 where both
    contours are the same; None without an inner contour.
    """
    boxes = ndimage.find_objects((p >= OUTER).astype(np.uint8), 1)
    if not boxes or boxes[0] is None:
        return None
    around = tuple(slice(max(part.start - 1, 0), part.stop + 1) for part in boxes[0])
    surfaces = [_surface(p[around] >= level) for level in (INNER, OUTER)]
    if not all(surface.any() for surface in surfaces):
        return None
    means = [
        ndimage.distance_transform_edt(~target, sampling=spacing_mm)[source].mean()
        for source, target in (surfaces, surfaces[::-1])
    ]
    return float(np.mean(means))


def _surface(mask: np.ndarray) -> np.ndarray:
    return mask & ~ndimage.binary_erosion(mask, border_value=1)
