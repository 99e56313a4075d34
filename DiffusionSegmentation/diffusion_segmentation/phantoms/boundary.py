"""Objects of which one uncertain number says how far their borders reach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.special import expit, ndtr

from .case import Phantom
from .enumerable import CellsCase
from .shapes import blob, coordinates, ellipsoid, orientation

# What distances are rounded to, a lone object's in voxels, those of several in standard deviations of their borders:
# then a few hundred masks are all there are, in 3D too.
QUANTUM = 1 / 16
# From this shortest edge on there are several objects.
SEVERAL = 64
# Into how many parts each axis is divided, by the number of axes; no part holds more than one object.
PARTS = {2: 3, 3: 2}


@dataclass(frozen=True, eq=False)
class BoundaryCase(CellsCase):
    """`depth` [*shape], `owner` [*shape] the object that it belongs to, and `sigma` [objects] in voxels.

    The depth is the signed distance from an object's mean border in standard deviations sigma of that border,
    negative inside; a voxel belongs to the object in which it lies deepest.
    """

    depth: np.ndarray
    owner: np.ndarray
    sigma: np.ndarray


@dataclass(frozen=True)
class Boundary(Phantom):
    """The label map is the union of {distance_j < sigma_j z}, with one z ~ N(0, 1) for all objects j.

    The masks are nested, and P(v) = Phi(-distance / sigma) with the distance and sigma of v's object. It is the
    ordered-probit field (`probit`) in the limit of an infinite correlation length. The image shows bright objects whose
    edges are as soft as their borders are uncertain; the background differs from case to case, the brightness from
    object to object. There is no noise, so the image determines the law exactly.

    Below a shortest edge of 64 there is one object, a warped ellipsoid: `sigma` is the range in voxels from which each
    case's is drawn (log-uniform), `radius` the range of the half axes as shares of the shortest edge. From 64 on there
    are several ellipsoids, `objects` at least and at most, which stay apart up to z = 3. Object j has a part of the
    grid to itself and in it a sphere of radius R_j; `softness` is the range of sigma_j / R_j (log-uniform), and the
    half axes are 0.75 to 1 of R_j - 3 sigma_j.
    """

    sigma: tuple[float, float] = (0.6, 2.4)
    radius: tuple[float, float] = (0.2, 0.3)
    objects: tuple[int, int] = (3, 6)
    softness: tuple[float, float] = (0.06, 0.12)

    name: ClassVar[str] = "boundary"

    @property
    def label_names(self) -> tuple[str, ...]:
        return ("object",)

    def draw(self, rng: np.random.Generator) -> BoundaryCase:
        depths, sigma = self._one(rng) if min(self.shape) < SEVERAL else self._several(rng)
        owner, depth = depths.argmin(0), depths.min(0)
        background, contrast = rng.uniform(0.1, 0.4), rng.uniform(0.5, 0.9, len(sigma))
        image = background + contrast[owner] * expit(-2 * depth)
        # Between two neighbouring levels every z gives the same mask; below the first one it is empty.
        levels, cells = np.unique(depth, return_inverse=True)
        weights = np.diff(ndtr(np.concatenate([[-np.inf], levels, [np.inf]])))
        # What double precision cannot tell from zero would only fill the memory.
        possible = weights > np.finfo(float).eps
        masks = levels <= np.concatenate([[-np.inf], levels])[possible, None]
        weights = weights[possible] / weights[possible].sum()
        return BoundaryCase(
            image=image.astype(np.float32),
            classes=2,
            masks=masks.astype(np.uint8),
            weights=weights,
            cells=cells.reshape(self.shape),
            depth=depth,
            owner=owner,
            sigma=sigma,
        )

    def _one(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Depth [1, *shape] of one object in the middle, and its sigma [1]."""
        sigma = np.exp(rng.uniform(*np.log(self.sigma), 1))
        distance = np.round(blob(rng, self.shape, self.radius) / QUANTUM) * QUANTUM
        return distance[None] / sigma, sigma

    def _several(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Depths [objects, *shape] in as many parts of the grid, and their sigmas [objects]."""
        axes = len(self.shape)
        parts = np.array(list(np.ndindex(*[PARTS[axes]] * axes)))
        chosen = rng.permutation(parts)[: rng.integers(self.objects[0], self.objects[1] + 1)]
        grid, size = coordinates(self.shape), np.array(self.shape) / PARTS[axes]
        reach = size.min() / 2 * rng.uniform(0.8, 1, len(chosen))
        sigma = reach * np.exp(rng.uniform(*np.log(self.softness), len(chosen)))
        depths = []
        for part, r, s in zip(chosen, reach, sigma, strict=True):
            centre = part * size + rng.uniform(r, size - r) - 0.5
            radii = (r - 3 * s) * rng.uniform(0.75, 1, axes)
            depths.append(ellipsoid(grid - centre.reshape(-1, *[1] * axes), radii, orientation(rng, axes)) / s)
        return np.round(np.stack(depths) / QUANTUM) * QUANTUM, sigma
