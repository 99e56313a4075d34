"""From a head to the volume that a scanner hands out: voxels, bias field, artefacts, noise, and resampling."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from .artefacts import spoil
from .random_fields import enlarged, smooth_noise
from .shares import USUAL, Shares

IN_PLANE_MM = (0.7, 3.0)
THICKNESS_MM = (2.0, 7.0)


@dataclass(frozen=True)
class Acquisition:
    """Voxel size in mm (z, y, x) of a scan."""

    voxel_mm: tuple[float, float, float]

    @classmethod
    def draw(cls, rng: np.random.Generator, slices: float = USUAL.slices) -> Acquisition:
        """Slices of 2 to 7 mm along any axis in a share `slices` of draws, else isotropic voxels."""
        in_plane = np.exp(rng.uniform(*np.log(IN_PLANE_MM))) if rng.random() < 0.5 else rng.uniform(0.7, 1.3)
        voxel = np.full(3, in_plane)
        if rng.random() < slices:
            voxel[rng.integers(3)] = max(in_plane, np.exp(rng.uniform(*np.log(THICKNESS_MM))))
        return cls(tuple(float(v) for v in voxel))

    def grid(self, shape: tuple[int, ...], fine_mm: float) -> tuple[int, ...]:
        """Voxels of the scan of a box of `shape` fine voxels: never more than these, and at least two."""
        return tuple(min(n, max(2, round(n * fine_mm / v))) for n, v in zip(shape, self.voxel_mm, strict=True))


def scan(
    image: np.ndarray,
    grid: tuple[int, ...],
    shape: tuple[int, ...],
    keep: np.ndarray | None,
    rng: np.random.Generator,
    shares: Shares = USUAL,
) -> np.ndarray:
    """The volume float32 [z, y, x] of `shape` that a scan of a head gives, not yet normalised.

    `image` float32 shows the head in fine voxels; the scan has `grid` voxels, of which those are zeroed after it that
    `keep` bool [grid] leaves out. Slices have a box profile; what is handed out is resampled as the engine resamples.
    """
    taken = resized(image, grid)
    coarse = tuple(-(-n // 4) for n in grid)
    taken *= np.exp(0.35 * rng.random() ** 1.5 * enlarged(smooth_noise(coarse, 8, rng), grid))
    taken = spoil(taken, rng, shares)
    # The noise that is left at the working spacing is drawn; small voxels are noisier than what is made of them.
    left = np.exp(rng.uniform(np.log(0.002), np.log(0.08)))
    noise = np.float32(min(0.25, left * max(1, np.sqrt(np.prod(grid) / np.prod(shape)))))
    real = taken + noise * rng.standard_normal(grid, dtype=np.float32)
    taken = np.hypot(real, noise * rng.standard_normal(grid, dtype=np.float32))  # Rician, as magnitudes are
    if keep is not None:
        taken *= keep
    return resized(taken, shape) ** np.float32(np.exp(rng.normal(0, 0.15)))


def resized(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """An image float32 [z, y, x] on `shape` voxels of the same box: averages where they grow, else interpolated."""
    tensor = torch.from_numpy(np.ascontiguousarray(image))[None, None]
    fewer = tuple(min(a, b) for a, b in zip(image.shape, shape, strict=True))
    if fewer != image.shape:
        tensor = functional.interpolate(tensor, size=fewer, mode="area")
    if fewer != tuple(shape):
        tensor = functional.interpolate(tensor, size=tuple(shape), mode="trilinear", align_corners=False)
    return tensor[0, 0].numpy()


def repeated(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A mask bool [z, y, x] on `shape` voxels of the same box, each with the value of the voxel it lies in."""
    index = [np.arange(n) * m // n for n, m in zip(shape, mask.shape, strict=True)]
    return mask[np.ix_(*index)]
