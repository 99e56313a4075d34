"""What is not in a volume: all but the brain after skull stripping, or a part of the head beyond a plane."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from .priors import FIRST_INSIDE, Atlas
from .random_fields import enlarged, smooth_noise
from .scanner import resized
from .shares import USUAL, Shares

MARGIN_MM = (-1.5, 7.0)
"""How far a stripped head's mask reaches beyond the brain."""


LEAST_KEPT = 0.03
"""Share of a window that has to be left of the head: of less, such as a stripped neck, no scan is made."""


def draw_keep(
    tissue: np.ndarray, atlas: Atlas, fine_mm: float, rng: np.random.Generator, shares: Shares = USUAL
) -> np.ndarray | None:
    """What of a head is left bool [z, y, x], on the grid of the tissue map.

    None where all of it is, or where next to nothing would be."""
    keep = None
    if rng.random() < shares.stripped:
        keep = brain_mask(tissue, atlas, fine_mm, rng)
    if rng.random() < shares.cut:
        plane = _plane(tissue.shape, rng)
        keep = plane if keep is None else keep & plane
    if keep is not None and (keep & (tissue != atlas.numbers["air"])).mean() < LEAST_KEPT:
        return None
    return keep


def brain_mask(tissue: np.ndarray, atlas: Atlas, fine_mm: float, rng: np.random.Generator) -> np.ndarray:
    """A mask bool [z, y, x] as a stripping tool leaves it: the brain, closed over its sulci, with a random margin.

    In one of four heads the fluid goes with the brain up to the skull; in the others the mask's border keeps a
    distance from the brain that is drawn, and that wavers by a millimetre or so. Some masks follow the sulci, as those
    made from labels do.
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
    share = resized(brain.astype(np.float32), quarter)
    closed = ndimage.gaussian_filter(share, 3.0 / mm)
    outside = ndimage.distance_transform_edt(closed < 0.5) - ndimage.distance_transform_edt(closed >= 0.5)
    margin = rng.uniform(*MARGIN_MM) + rng.uniform(0, 1.2) * smooth_noise(quarter, rng.uniform(3, 8), rng)
    return enlarged(outside * mm - margin, tissue.shape) < 0


def _plane(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """One side of a plane bool of `shape`, near an axis or oblique; up to 45 % are cut away."""
    normal = np.eye(3)[rng.integers(3)] * rng.choice([-1, 1]) + rng.normal(0, rng.choice([0.02, 0.4]), 3)
    axes = [(np.arange(n, dtype=np.float32) - (n - 1) / 2) / n * c for n, c in zip(shape, normal, strict=True)]
    return axes[0][:, None, None] + axes[1][:, None] + axes[2] < rng.uniform(0.05, 0.5)
