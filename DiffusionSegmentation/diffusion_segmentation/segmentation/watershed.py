"""Partition of the uncertain voxels into regions small enough to be reviewed at one place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.segmentation import watershed

SEED_DISTANCE_MM = 15.0
SMOOTHING_MM = 3.0
MIN_ERROR = 0.02  # voxels with a lower probability of an error belong to no region
CHUNK = 4096  # places that are looked up at once


def watershed_regions(
    error: np.ndarray,
    spacing_mm: Sequence[float],
    seed_distance_mm: float = SEED_DISTANCE_MM,
    smoothing_mm: float = SMOOTHING_MM,
) -> np.ndarray:
    """Watershed regions of the expected error: labels uint16 [z, y, x] from 1, 0 where `error` < MIN_ERROR.

    `error` [z, y, x] is the probability that the consensus is wrong, 1 - max p; `spacing_mm` is in the order of its
    axes. The uncertain voxels of a head form one connected sheet along tissue borders, so connected components cannot
    separate regions. Seeds are the maxima of the smoothed error, at least `seed_distance_mm` apart, and further voxels
    until no uncertain voxel is farther than that from a seed. A watershed (Meyer, 1991) assigns the voxels; those
    farther than `seed_distance_mm` from their seed go to the nearest one. A region is thus at most
    2 x `seed_distance_mm` wide.
    """
    uncertain = error >= MIN_ERROR
    if not uncertain.any():
        return np.zeros(error.shape, np.uint16)
    spacing = np.asarray(spacing_mm, float)
    smooth = ndimage.gaussian_filter(error.astype(np.float32), smoothing_mm / spacing)
    peaks = peak_local_max(np.where(uncertain, smooth, 0), min_distance=1, exclude_border=False)
    peaks = peaks if len(peaks) else np.argwhere(uncertain)[:1]
    order = np.argsort(-smooth[tuple(peaks.T)], kind="stable")
    seeds = _thinned(peaks[order], error.shape, spacing, seed_distance_mm)
    while True:
        # SciPy's KDTree needs less memory, but recurses without end while denormal numbers are flushed, as in a run.
        background = np.ones(error.shape, bool)
        background[tuple(seeds.T)] = False
        distance, nearest = ndimage.distance_transform_edt(background, sampling=spacing, return_indices=True)
        far = np.argwhere(uncertain & (distance > seed_distance_mm))
        if not len(far):
            break
        far = far[np.argsort(-smooth[tuple(far.T)], kind="stable")]
        seeds = np.concatenate([seeds, _thinned(far, error.shape, spacing, seed_distance_mm)])
    markers = np.zeros(error.shape, np.int32)
    markers[tuple(seeds.T)] = np.arange(1, len(seeds) + 1)
    labels = watershed(-smooth, markers, mask=uncertain)
    # Voxels too far from their seed, or not connected to any, get the label of the nearest seed.
    places = np.argwhere(uncertain)
    label = labels[tuple(places.T)]
    distance = np.linalg.norm((places - seeds[np.maximum(label, 1) - 1]) * spacing, axis=1)
    reassigned = tuple(places[(label == 0) | (distance > seed_distance_mm)].T)
    labels[reassigned] = markers[tuple(nearest[:, *reassigned])]
    labels[labels > np.iinfo(np.uint16).max] = 0  # seeds are numbered from the largest error
    return labels.astype(np.uint16)


def _thinned(places: np.ndarray, shape: tuple[int, ...], spacing: np.ndarray, distance_mm: float) -> np.ndarray:
    """Greedy subset [m, 3] of `places` [n, 3] in a grid of `shape`, in their order, at least `distance_mm` apart.

    Each selected place blocks a ball of the grid, so that the time grows with n and not with n times m.
    """
    reach = np.minimum(np.ceil(distance_mm / spacing).astype(int), np.array(shape) - 1)
    offsets = np.stack(np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij"), axis=-1)
    ball = np.linalg.norm(offsets * spacing, axis=-1) < distance_mm
    blocked, selected, start = np.zeros(shape, bool), [], 0
    while start < len(places):
        chunk = places[start : start + CHUNK]
        free = np.flatnonzero(~blocked[tuple(chunk.T)])
        if not len(free):
            start += len(chunk)
            continue
        place = chunk[free[0]]
        selected.append(place.copy())  # a view would keep its whole array: 2.3 GB for 2 million places
        low, high = np.maximum(place - reach, 0), np.minimum(place + reach + 1, shape)
        block = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        blocked[block] |= ball[
            tuple(slice(a, b) for a, b in zip(low - place + reach, high - place + reach, strict=True))
        ]
        start += free[0] + 1
    return np.stack(selected)
