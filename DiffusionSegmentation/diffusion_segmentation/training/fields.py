"""Smooth random fields, which textures, deformations and tissue borders are made from."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional


def smooth_noise(shape: tuple[int, ...], spacing: float, rng: np.random.Generator) -> np.ndarray:
    """A Gaussian field float32 of unit variance whose correlation reaches about `spacing` voxels."""
    coarse = [int(np.ceil(n / spacing)) + 3 for n in shape]
    field = ndimage.gaussian_filter(rng.standard_normal(coarse, dtype=np.float32), 0.8)
    field = torch.from_numpy(field / field.std())[None, None]
    size = [int(round(n * spacing)) for n in coarse]
    field = functional.interpolate(field, size=size, mode="trilinear", align_corners=True)[0, 0].numpy()
    start = [int(rng.integers(0, s - n + 1)) for s, n in zip(size, shape, strict=True)]
    return field[tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))]
