"""Where a score is taken: background far from every structure makes any model look calibrated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage


def within(mask: np.ndarray, distance_mm: float, spacing_mm: Sequence[float]) -> np.ndarray:
    """Voxels (bool, of the grid of `mask`) at most `distance_mm` away from `mask`; spacing in the order of its axes."""
    return ndimage.distance_transform_edt(~mask, sampling=spacing_mm) <= distance_mm
