"""Uncertain voxels dealt out into regions of a size that a person can judge at one place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.segmentation import watershed

SEED_DISTANCE_MM = 15.0
EXTENT_MM = 30.0
SMOOTHING_MM = 3.0
FLOOR = 0.02
"""Chance of an error below which a voxel belongs to no region."""


def basins(
    error: np.ndarray,
    spacing_mm: Sequence[float],
    seed_distance_mm: float = SEED_DISTANCE_MM,
    extent_mm: float = EXTENT_MM,
    floor: float = FLOOR,
) -> np.ndarray:
    """Labels uint16 [z, y, x], from 1, of the basins of the expected error; 0 where `error` is below `floor`.

    `error` [z, y, x] is the chance that the consensus is wrong, 1 - max p; `spacing_mm` goes with its axes. On a real
    head the uncertain voxels hang together as one sheet along the borders of tissues, so connectivity cannot tell
    regions apart. Here seeds are the maxima of the smoothed error, at least `seed_distance_mm` apart, and more where
    uncertain voxels lie farther than half of `extent_mm` from all of them; a watershed (Meyer 1991) deals out the rest,
    and no voxel belongs to a seed farther away than that. A basin is therefore at most `extent_mm` across.
    """
    unsure = error >= floor
    if not unsure.any():
        return np.zeros(error.shape, np.uint16)
    spacing = np.asarray(spacing_mm, float)
    smooth = ndimage.gaussian_filter(error.astype(np.float32), SMOOTHING_MM / spacing)
    seeds = _spread(smooth, unsure, spacing, seed_distance_mm)
    reach = extent_mm / 2
    while True:
        distance, nearest = _nearest(seeds, error.shape, spacing)
        left = np.argwhere(unsure & (distance > reach))
        if not len(left):
            break
        more = left[np.argsort(-smooth[tuple(left.T)], kind="stable")]
        seeds = np.concatenate([seeds, _thinned(more, spacing, seed_distance_mm)])
    markers = np.zeros(error.shape, np.int32)
    markers[tuple(seeds.T)] = np.arange(1, len(seeds) + 1)
    labels = watershed(-smooth, markers, mask=unsure)
    # Where the flood ran too far, or could not come because a voxel hangs on no seed, the nearest seed has it.
    places = np.argwhere(unsure)
    label = labels[tuple(places.T)]
    away = np.linalg.norm((places - seeds[np.maximum(label, 1) - 1]) * spacing, axis=1)
    lost = tuple(places[(label == 0) | (away > reach)].T)
    labels[lost] = markers[tuple(nearest[:, *lost])]
    labels[labels > np.iinfo(np.uint16).max] = 0  # seeds are numbered worst first
    return labels.astype(np.uint16)


def _spread(smooth: np.ndarray, unsure: np.ndarray, spacing: np.ndarray, distance_mm: float) -> np.ndarray:
    """Local maxima of `smooth` among the unsure voxels [n, 3], highest first, none closer than `distance_mm`."""
    peaks = peak_local_max(np.where(unsure, smooth, 0), min_distance=1, exclude_border=False)
    if not len(peaks):
        peaks = np.argwhere(unsure)[:1]
    order = np.argsort(-smooth[tuple(peaks.T)], kind="stable")
    return _thinned(peaks[order], spacing, distance_mm)


def _thinned(places: np.ndarray, spacing: np.ndarray, distance_mm: float) -> np.ndarray:
    """Places [m, 3] of `places` [n, 3], the first ones first, none closer than `distance_mm` to one before it."""
    kept = []
    while len(places):
        kept.append(places[0].copy())  # a view would hold all that were left with it: 2.3 GB for 2 million places
        away = np.linalg.norm((places - places[0]) * spacing, axis=1)
        places = places[away >= distance_mm]
    return np.stack(kept)


def _nearest(seeds: np.ndarray, shape: tuple[int, ...], spacing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance in mm to the nearest of the seeds [n, 3], and that seed's index [3, *shape], for each voxel.

    A KDTree would do with less; SciPy's recurses for ever where denormal numbers are flushed, as in a run.
    """
    free = np.ones(shape, bool)
    free[tuple(seeds.T)] = False
    return ndimage.distance_transform_edt(free, sampling=spacing, return_indices=True)
