"""Smooth closed surfaces as distance maps."""

from __future__ import annotations

import numpy as np


def coordinates(shape: tuple[int, ...]) -> np.ndarray:
    """Voxel indices along every axis, float64 [axes, *shape]."""
    return np.indices(shape).astype(np.float64)


def log_uniform(rng: np.random.Generator, bounds: tuple[float, float], n: int) -> np.ndarray:
    """n random numbers within `bounds`, uniform on a log scale."""
    low, high = np.log(bounds)
    return np.exp(rng.uniform(low, high, n))


def orientation(rng: np.random.Generator, axes: int) -> np.ndarray:
    """A uniformly random orthogonal matrix [axes, axes]."""
    q, r = np.linalg.qr(rng.normal(size=(axes, axes)))
    return q * np.sign(np.diag(r))


def ellipsoid(offsets: np.ndarray, radii: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Signed distance [*shape] in voxels from an ellipsoid's surface, negative inside, exact to first order.

    `offsets` [axes, *shape] are positions from its centre, `radii` [axes] its half axes in voxels along the rows of
    `rotation`. With q = sum (x/r)^2, the distance from the surface q = 1 is (sqrt(q) - 1) / |grad sqrt(q)|.
    """
    along = np.moveaxis(np.tensordot(rotation, offsets, 1), 0, -1) / radii
    level, slope = np.linalg.norm(along, axis=-1), np.linalg.norm(along / radii, axis=-1)
    # At the centre the slope is undefined; the surface is a shortest half axis away.
    return np.where(slope > 0, (level - 1) * level / np.where(slope > 0, slope, 1), -np.min(radii))


def blob(rng: np.random.Generator, shape: tuple[int, ...], radius: tuple[float, float]) -> np.ndarray:
    """Signed distance map [*shape] in voxels of a smoothly warped ellipsoid near the grid centre, negative inside.

    The warp makes its slope 0.6 to 1.4 instead of 1. `radius` is the range of the half axes as shares of the shortest
    edge of the grid.
    """
    axes, edge = len(shape), min(shape)
    grid = coordinates(shape)
    size = np.reshape(shape, (axes,) + (1,) * axes)
    offsets = grid - (size - 1) / 2 - edge * rng.uniform(-0.08, 0.08, size.shape)
    # One wave along a random direction for each axis; an amplitude of 3 % of the edge does not fold the surface.
    directions = rng.normal(size=(axes, axes))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    phases = rng.uniform(0, 2 * np.pi, size.shape)
    warp = np.sin(2 * np.pi * 1.5 * np.tensordot(directions, grid / edge, 1) + phases)
    return ellipsoid(offsets + 0.03 * edge * warp, edge * rng.uniform(*radius, axes), orientation(rng, axes))


def checkerboard(shape: tuple[int, ...]) -> np.ndarray:
    """Alternating +1 and -1 along every axis, int [*shape]: a texture that does not hide smooth structures."""
    return 1 - 2 * (np.indices(shape).sum(0) % 2)
