"""Ventricles of every age: the atlas's are those of its subjects, a young head's are slits, an old one's balloons.

The tissue about the ventricles moves with their wall, as it does in life, so that the caudate stays beside them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .priors import Atlas

STEP = 4
"""Voxels of 1 mm to one of the grid that shifts are kept on."""
FADES_MM = 8.0
"""Distance from the wall over which the shift of tissue fades."""
SMALLER_MM = (-4.5, 7.0)
"""Shift of the wall: below 0 the ventricles grow, above they shrink."""


@dataclass(frozen=True)
class Wall:
    """Unit shift of the ventricles' wall: float32 [3, z, y, x] at every STEP-th voxel of the atlas, mm away from it."""

    away: np.ndarray

    @classmethod
    def of(cls, atlas: Atlas) -> Wall:
        """The wall is where the atlas's prior of ventricles and choroid plexus is a half."""
        numbers = atlas.numbers
        prior = atlas.priors[numbers["ventricles"]].astype(np.uint16) + atlas.priors[numbers["choroid plexus"]]
        coarse = prior[::2, ::2, ::2] > 127
        if not coarse.any():
            return cls(np.zeros((3, *(-(-n // STEP) for n in prior.shape)), dtype=np.float32))
        outside = ndimage.distance_transform_edt(~coarse) - ndimage.distance_transform_edt(coarse)
        smooth = ndimage.gaussian_filter((2 * outside).astype(np.float32), 1.0)
        slope = np.stack(np.gradient(smooth, 2.0))
        away = slope / np.maximum(np.linalg.norm(slope, axis=0), 1) * np.exp(-((smooth / FADES_MM) ** 2))
        return cls(np.ascontiguousarray(away[:, :: STEP // 2, :: STEP // 2, :: STEP // 2], dtype=np.float32))

    def shift(self, points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Where tissue comes from, float32 [3, ...] in mm from `points` [3, ...] in voxels of the atlas.

        One draw in two lies about the size in adults, which is below the atlas's, the others anywhere in SMALLER_MM.
        """
        amount = rng.normal(2.5, 1.5) if rng.random() < 0.5 else rng.uniform(*SMALLER_MM)
        flat = points.reshape(3, -1) / STEP
        found = [ndimage.map_coordinates(axis, flat, order=1, mode="nearest") for axis in self.away]
        return np.float32(np.clip(amount, *SMALLER_MM)) * np.stack(found).reshape(points.shape)
