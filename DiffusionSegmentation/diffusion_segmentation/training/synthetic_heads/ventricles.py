"""Random size of the ventricles, by a displacement of their wall and the tissue around it.

The atlas has the ventricles of its subjects; those of a young head are slits, those of an old one several times larger.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .priors import Atlas

STEP = 4  # voxels of 1 mm per voxel of the displacement grid
DECAY_MM = 8.0  # distance from the wall over which the displacement decays
SHIFT_MM = (-4.5, 7.0)  # range of the wall's displacement: ventricles grow below 0 and shrink above


@dataclass(frozen=True)
class VentricleWall:
    """Unit displacement of the ventricles' wall: float32 [3, z, y, x] at every STEP-th voxel of the atlas, outwards."""

    away: np.ndarray

    @classmethod
    def of(cls, atlas: Atlas) -> VentricleWall:
        """The wall is where the atlas's prior of ventricles and choroid plexus is a half."""
        numbers = atlas.numbers
        prior = atlas.priors[numbers["ventricles"]].astype(np.uint16) + atlas.priors[numbers["choroid plexus"]]
        coarse = prior[::2, ::2, ::2] > 127
        if not coarse.any():
            return cls(np.zeros((3, *(-(-n // STEP) for n in prior.shape)), dtype=np.float32))
        outside = ndimage.distance_transform_edt(~coarse) - ndimage.distance_transform_edt(coarse)
        smooth = ndimage.gaussian_filter((2 * outside).astype(np.float32), 1.0)
        slope = np.stack(np.gradient(smooth, 2.0))
        away = slope / np.maximum(np.linalg.norm(slope, axis=0), 1) * np.exp(-((smooth / DECAY_MM) ** 2))
        return cls(np.ascontiguousarray(away[:, :: STEP // 2, :: STEP // 2, :: STEP // 2], dtype=np.float32))

    def shift(self, points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Random displacement float32 [3, ...] in mm from `points` [3, ...] in voxels of the atlas to their source.

        Half of the draws are near the size in adults, which is below the atlas's, the others uniform in SHIFT_MM.
        """
        amount = rng.normal(2.5, 1.5) if rng.random() < 0.5 else rng.uniform(*SHIFT_MM)
        flat = points.reshape(3, -1) / STEP
        unit = [ndimage.map_coordinates(axis, flat, order=1, mode="nearest") for axis in self.away]
        return np.float32(np.clip(amount, *SHIFT_MM)) * np.stack(unit).reshape(points.shape)
