"""Gyri and sulci where the atlas does not determine them: upright blades on the surface of each hemisphere.

A narrow band of noise on a surface has zero lines that wind like sulci, half a wavelength apart. Here the surface is a
capsule around the core of each hemisphere, and the noise is constant along the rays from the core, so that gyri are
blades and sulci are deep; isotropic noise gives blobs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from scipy.special import ndtri
from torch.nn import functional

from .random_fields import resized, smooth_noise

WAVE_MM = (10.0, 14.5)  # range of the distance between adjacent gyri
STEP = 2  # voxels of the atlas (1 mm) per voxel of the folding grid


@dataclass(frozen=True)
class FoldGrid:
    """Projection of a coarse grid [z, y, x] onto the hemispheres' surface, float32 [..., 3], and its right side bool.

    `side` is True for x beyond the midline.
    """

    surface: np.ndarray
    side: np.ndarray

    @classmethod
    def around(cls, cortex: np.ndarray) -> FoldGrid:
        """From the cortex's prior uint8 [z, y, x]; the midline is the middle of x."""
        shape = np.array(cortex.shape)
        coarse = -(-shape // STEP)
        z, y, x = (np.arange(n, dtype=np.float32) * STEP for n in coarse)
        half = shape / 2
        # The core of a hemisphere is a line from front to back, half way between midline and side.
        line = 0.4 * half[1]
        ahead = y - half[1]
        rest = np.sign(ahead) * np.maximum(np.abs(ahead) - line, 0)
        side = x >= half[2]
        offsets = np.meshgrid(z - 0.95 * half[0], rest, x - np.where(side, 1.45, 0.55) * half[2], indexing="ij")
        radii = np.array([half[0], half[1] - line, 0.55 * half[2]], dtype=np.float32)
        away = np.stack(offsets, -1) / radii
        away /= np.maximum(np.linalg.norm(away, axis=-1, keepdims=True), 0.2)
        surface = away * radii
        surface[..., 1] += np.clip(ahead, -line, line)[:, None]
        return cls(surface.astype(np.float32), np.broadcast_to(side, surface.shape[:-1]))

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """Field float32 of `shape` (1 mm) with standard normal marginals: above 0 in gyri, below in sulci."""
        wavelength = rng.uniform(*WAVE_MM) / STEP
        where = self.surface / STEP
        bend = [rng.uniform(0.5, 1.5) * smooth_noise(where.shape[:-1], rng.uniform(5, 8), rng) for _ in range(3)]
        where = where + np.stack(bend, -1)
        low, high = where.reshape(-1, 3).min(0), where.reshape(-1, 3).max(0)
        size = np.ceil(high - low).astype(int) + 3
        bands = torch.from_numpy(np.stack([_band(size, wavelength, rng) for _ in range(2)]))[:, None]
        # grid_sample takes x, y, z in -1 to 1.
        unit = torch.from_numpy(((where - low + 1) / (size - 1) * 2 - 1)[..., ::-1].astype(np.float32))
        left, right = (functional.grid_sample(b[None], unit[None], align_corners=True)[0, 0].numpy() for b in bands)
        folds = np.where(self.side, left, right)
        isotropic = _band(np.array(folds.shape), rng.uniform(8, 12) / STEP, rng)
        share = rng.uniform(0.05, 0.25)
        field = resized(_normal_quantiles(np.sqrt(1 - share) * folds + np.sqrt(share) * isotropic), shape)
        return field / field.std()  # interpolation reduces the variance


def _band(size: np.ndarray, wavelength: float, rng: np.random.Generator) -> np.ndarray:
    """Noise float32 of `size` around one wavelength in voxels, of equal amplitude everywhere."""
    field = rng.standard_normal(size, dtype=np.float32)
    sigma = wavelength / 5.5
    for _ in range(2):  # twice, for a narrow band: sulci neither fade out nor widen into wide areas of fluid
        field = ndimage.gaussian_filter(field, sigma) - ndimage.gaussian_filter(field, 1.6 * sigma)
    return field / np.sqrt(ndimage.gaussian_filter(field**2, 0.6 * wavelength) + 1e-12)


def _normal_quantiles(field: np.ndarray) -> np.ndarray:
    """The field with its values mapped to normal quantiles by rank."""
    ranks = np.empty(field.size, dtype=np.float32)
    ranks[np.argsort(field, axis=None)] = (np.arange(field.size) + 0.5) / field.size
    return ndtri(ranks).reshape(field.shape).astype(np.float32)
