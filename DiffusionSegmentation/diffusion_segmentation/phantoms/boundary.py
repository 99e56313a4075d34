"""Objects whose borders all move with one random number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.special import expit, ndtr

from .case import Phantom
from .enumerable import CellsCase
from .shapes import blob, coordinates, ellipsoid, log_uniform, orientation

QUANTUM = 1 / 16
"""Rounding of distances (voxels; for several objects, standard deviations): leaves a few hundred masks, also in 3D."""
SEVERAL = 64  # shortest edge (voxels) from which a case has several objects
PARTS = {2: 3, 3: 2}  # parts per axis, by the number of axes; a part contains at most one object


@dataclass(frozen=True, eq=False)
class BoundaryCase(CellsCase):
    """`depth` [*shape], `owner` int [*shape] the object that it refers to, and `sigma` [objects] in voxels.

    The depth is the signed distance from an object's mean border in standard deviations sigma of that border,
    negative inside; the owner is the object with the smallest depth.
    """

    depth: np.ndarray
    owner: np.ndarray
    sigma: np.ndarray


@dataclass(frozen=True)
class Boundary(Phantom):
    """The label map is the union of {distance_j < sigma_j z}, with one z ~ N(0, 1) for all objects j.

    The masks are nested, and P(v) = Phi(-distance / sigma) with the distance and sigma of v's object: the field of
    `probit` with infinite correlation length. The image shows bright objects whose edges are as soft as their borders
    are uncertain; the background varies by case, the brightness by object. There is no noise, so the image determines
    the distribution exactly.

    Below a shortest edge of 64 there is one warped ellipsoid: `sigma` is its range in voxels (log-uniform), `radius`
    the range of the half axes as shares of the shortest edge. From 64 on there are several ellipsoids (`objects`:
    fewest and most), disjoint up to z = 3. Object j lies in its own part of the grid, in a sphere of radius R_j;
    `softness` is the range of sigma_j / R_j (log-uniform), and the half axes are 0.75 to 1 of R_j - 3 sigma_j.
    """

    sigma: tuple[float, float] = (0.6, 2.4)
    radius: tuple[float, float] = (0.2, 0.3)
    objects: tuple[int, int] = (3, 6)
    softness: tuple[float, float] = (0.06, 0.12)

    name: ClassVar[str] = "boundary"

    label_names = ("object",)

    def draw(self, rng: np.random.Generator) -> BoundaryCase:
        depths, sigma = self._one(rng) if min(self.shape) < SEVERAL else self._several(rng)
        owner, depth = depths.argmin(0), depths.min(0)
        background, contrast = rng.uniform(0.1, 0.4), rng.uniform(0.5, 0.9, len(sigma))
        image = background + contrast[owner] * expit(-2 * depth)
        # All z between two successive levels give the same mask; below the first level it is empty.
        levels, cells = np.unique(depth, return_inverse=True)
        weights = np.diff(ndtr(np.concatenate([[-np.inf], levels, [np.inf]])))
        # Masks of zero weight in double precision only take memory.
        possible = weights > np.finfo(float).eps
        masks = levels <= np.concatenate([[-np.inf], levels])[possible, None]
        weights = weights[possible] / weights[possible].sum()
        image, masks, cells = image.astype(np.float32), masks.astype(np.uint8), cells.reshape(self.shape)
        return BoundaryCase(image, 2, masks, weights, cells, depth, owner, sigma)

    def _one(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Depth [1, *shape] of one object in the middle, and its sigma [1]."""
        sigma = log_uniform(rng, self.sigma, 1)
        distance = np.round(blob(rng, self.shape, self.radius) / QUANTUM) * QUANTUM
        return distance[None] / sigma, sigma

    def _several(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Depths [objects, *shape] of objects in different parts of the grid, and their sigmas [objects]."""
        axes = len(self.shape)
        parts = np.array(list(np.ndindex(*[PARTS[axes]] * axes)))
        chosen = rng.permutation(parts)[: rng.integers(self.objects[0], self.objects[1] + 1)]
        grid, size = coordinates(self.shape), np.array(self.shape) / PARTS[axes]
        reach = size.min() / 2 * rng.uniform(0.8, 1, len(chosen))
        sigma = reach * log_uniform(rng, self.softness, len(chosen))
        depths = []
        for part, r, s in zip(chosen, reach, sigma, strict=True):
            centre = part * size + rng.uniform(r, size - r) - 0.5
            radii = (r - 3 * s) * rng.uniform(0.75, 1, axes)
            depths.append(ellipsoid(grid - centre.reshape(-1, *[1] * axes), radii, orientation(rng, axes)) / s)
        return np.round(np.stack(depths) / QUANTUM) * QUANTUM, sigma
