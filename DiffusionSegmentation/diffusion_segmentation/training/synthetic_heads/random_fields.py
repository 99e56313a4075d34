"""Smooth random fields, resampling and short distances, from which textures, deformations and tissues are made."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

SPREAD, MARGIN = 0.9, 2
"""Width (sigma) of the Gaussian at a node of `smooth_noise`, and nodes beyond the field, both in node distances."""
MAX_REACH = 11  # longest reach of `squared_distance` in voxels: twice its square must fit into a byte


def smooth_noise(shape: tuple[int, ...], spacing: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian field float32 [z, y, x] of unit variance with a correlation length of about `spacing` voxels.

    Independent numbers on nodes `spacing` apart, each spread by a Gaussian: one matrix product per axis, four times as
    fast as interpolation in three axes. Rows have unit norm, so the variance is 1 at every voxel.
    """
    offsets = rng.uniform(0, 1, len(shape))
    nodes = [int(np.ceil(n / spacing)) + 2 * MARGIN for n in shape]
    field = torch.from_numpy(rng.standard_normal(nodes, dtype=np.float32))
    for axis in (2, 1, 0):
        places = torch.arange(shape[axis], dtype=torch.float32)[:, None] / spacing + MARGIN - offsets[axis]
        rows = torch.exp(-0.5 * ((places - torch.arange(nodes[axis])) / SPREAD) ** 2)
        rows = rows / rows.norm(dim=1, keepdim=True)
        if axis == 2:
            field = field @ rows.T
        elif axis == 1:
            field = rows @ field
        else:
            field = (rows @ field.reshape(nodes[0], -1)).reshape(shape)
    return field.numpy()


def coarse_noise(shape: tuple[int, ...], spacing: float, rng: np.random.Generator) -> np.ndarray:
    """`smooth_noise` drawn on a quarter of the grid and interpolated to `shape`; `spacing` in voxels of the quarter."""
    return resized(smooth_noise(tuple(-(-n // 4) for n in shape), spacing, rng), shape)


def resized(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """An image [z, y, x] as float32 on `shape` voxels of the same box: area averages if coarser, else trilinear."""
    tensor = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))[None, None]
    fewer = tuple(min(a, b) for a, b in zip(image.shape, shape, strict=True))
    if fewer != image.shape:
        tensor = functional.interpolate(tensor, size=fewer, mode="area")
    if fewer != tuple(shape):
        tensor = functional.interpolate(tensor, size=tuple(shape), mode="trilinear", align_corners=False)
    return tensor[0, 0].numpy()


def squared_distance(mask: np.ndarray, reach: int) -> np.ndarray:
    """Squared distance uint8 in voxels to the nearest True voxel of `mask`, exact to `reach`, reach² + 1 beyond.

    Separable lower envelopes, as in Felzenszwalb and Huttenlocher (2012), with the parabolas cut at `reach`: on the
    box of a brain (4 million voxels) 0.1 s, where scipy's unbounded transform takes more than a second. Raises
    ValueError for a reach outside 1 to MAX_REACH.
    """
    if not 1 <= reach <= MAX_REACH:
        raise ValueError(f"reach is {reach}, but must be 1 to {MAX_REACH} voxels")
    beyond = reach * reach + 1
    squared = np.where(mask, np.uint8(0), np.uint8(beyond))
    for axis in range(mask.ndim):
        line = np.moveaxis(squared, axis, 0)
        nearest = line.copy(order="K")
        for step in range(1, min(reach, len(line) - 1) + 1):
            away = line + np.uint8(step * step)
            np.minimum(nearest[step:], away[:-step], out=nearest[step:])
            np.minimum(nearest[:-step], away[step:], out=nearest[:-step])
        squared = np.moveaxis(nearest, 0, axis)
    return np.minimum(squared, beyond)
