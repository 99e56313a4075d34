"""Masks of what a volume shows: the brain after skull stripping, or the part of a head on one side of a plane."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from .priors import FIRST_INSIDE, Atlas
from .random_fields import resized, smooth_noise
from .scan_probabilities import TRAINING_SCANS, ScanProbabilities

MARGIN_MM = (-1.5, 7.0)  # range of the distance by which a skull-stripping mask extends beyond the brain
MIN_HEAD = 0.03  # share of a window that must show the head: less, such as a stripped neck, is not masked


def draw_mask(
    tissue: np.ndarray,
    atlas: Atlas,
    fine_mm: float,
    rng: np.random.Generator,
    probabilities: ScanProbabilities = TRAINING_SCANS,
) -> np.ndarray | None:
    """Mask bool [z, y, x] of the visible head on the grid of the tissue map.

    None where all of it is visible, or less than MIN_HEAD of the window would be.
    """
    keep = None
    if rng.random() < probabilities.stripped:
        keep = brain_mask(tissue, atlas, fine_mm, rng)
    if rng.random() < probabilities.cut:
        plane = _half_space(tissue.shape, rng)
        keep = plane if keep is None else keep & plane
    if keep is not None and (keep & (tissue != atlas.numbers["air"])).mean() < MIN_HEAD:
        return None
    return keep


def brain_mask(tissue: np.ndarray, atlas: Atlas, fine_mm: float, rng: np.random.Generator) -> np.ndarray:
    """Mask bool [z, y, x] as a skull-stripping tool makes it: the brain, closed over its sulci, with a random margin.

    In a quarter of the heads it includes the fluid up to the skull. In the others its border has a random mean distance
    from the brain that varies by about a millimetre along it; some masks follow the sulci, as those made from labels
    do.
    """
    solid = atlas.inside.copy()
    if rng.random() < 0.25:
        return solid[tissue]
    solid[[atlas.numbers[name] for name in (FIRST_INSIDE, "dura", "blood")]] = False
    brain = solid[tissue]
    if rng.random() < 0.15:
        return brain
    quarter = tuple(max(2, n // 4) for n in tissue.shape)
    mm = 4 * fine_mm
    closed = ndimage.gaussian_filter(resized(brain, quarter), 3.0 / mm)
    outside = ndimage.distance_transform_edt(closed < 0.5) - ndimage.distance_transform_edt(closed >= 0.5)
    margin = rng.uniform(*MARGIN_MM) + rng.uniform(0, 1.2) * smooth_noise(quarter, rng.uniform(3, 8), rng)
    return resized(outside * mm - margin, tissue.shape) < 0


def _half_space(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """One side of a plane, bool of `shape`, near an axis or oblique; removes up to 45 %."""
    normal = np.eye(3)[rng.integers(3)] * rng.choice([-1, 1]) + rng.normal(0, rng.choice([0.02, 0.4]), 3)
    axes = [(np.arange(n, dtype=np.float32) - (n - 1) / 2) / n * c for n, c in zip(shape, normal, strict=True)]
    return axes[0][:, None, None] + axes[1][:, None] + axes[2] < rng.uniform(0.05, 0.5)
