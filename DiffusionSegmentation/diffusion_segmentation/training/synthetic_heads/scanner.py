"""Simulates a scan of a head: voxel size, bias field, artefacts, noise, and resampling."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .artefacts import add_artefacts
from .random_fields import coarse_noise, resized
from .scan_probabilities import TRAINING_SCANS, ScanProbabilities

IN_PLANE_MM = (0.7, 3.0)
THICKNESS_MM = (2.0, 7.0)


def draw_voxel_size(rng: np.random.Generator, slices: float = TRAINING_SCANS.slices) -> np.ndarray:
    """Voxel size in mm [3]: slices of 2 to 7 mm along any axis with probability `slices`, else isotropic."""
    in_plane = np.exp(rng.uniform(*np.log(IN_PLANE_MM))) if rng.random() < 0.5 else rng.uniform(0.7, 1.3)
    voxel = np.full(3, in_plane)
    if rng.random() < slices:
        voxel[rng.integers(3)] = max(in_plane, np.exp(rng.uniform(*np.log(THICKNESS_MM))))
    return voxel


def scan_grid(shape: tuple[int, ...], fine_mm: float, voxel_mm: Sequence[float] | np.ndarray) -> tuple[int, ...]:
    """Voxels of the scan of a box of `shape` fine voxels: at least two per axis and at most `shape`."""
    return tuple(min(n, max(2, round(n * fine_mm / float(v)))) for n, v in zip(shape, voxel_mm, strict=True))


def simulate_scan(
    image: np.ndarray,
    grid: tuple[int, ...],
    shape: tuple[int, ...],
    keep: np.ndarray | None,
    rng: np.random.Generator,
    probabilities: ScanProbabilities = TRAINING_SCANS,
) -> np.ndarray:
    """Volume float32 [z, y, x] of `shape`, not yet normalised, from the head's true intensities.

    `image` float32 has fine voxels; the scan has `grid` voxels, of which those outside `keep` bool [grid] are zeroed
    after it. Slices have a box profile; the result is resampled as the engine resamples.
    """
    scan = resized(image, grid)
    scan *= np.exp(0.35 * rng.random() ** 1.5 * coarse_noise(grid, 8, rng))
    scan = add_artefacts(scan, rng, probabilities)
    # The noise at the working spacing is drawn; the scan's own voxels are noisier than averages of them.
    level = np.exp(rng.uniform(np.log(0.002), np.log(0.08)))
    noise = np.float32(min(0.25, level * max(1, np.sqrt(np.prod(grid) / np.prod(shape)))))
    real = scan + noise * rng.standard_normal(grid, dtype=np.float32)
    scan = np.hypot(real, noise * rng.standard_normal(grid, dtype=np.float32))  # Rician, as magnitudes are
    if keep is not None:
        scan *= keep
    return resized(scan, shape) ** np.float32(np.exp(rng.normal(0, 0.15)))


def nearest(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A mask bool [z, y, x] on `shape` voxels of the same box, by nearest neighbour."""
    index = [np.arange(n) * m // n for n, m in zip(shape, mask.shape, strict=True)]
    return mask[np.ix_(*index)]
