"""One object, one uncertain number: how far its border reaches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.special import expit, ndtr

from .case import Phantom
from .enumerable import EnumerableCase
from .shapes import blob

# Distances are rounded to this, in voxels: then a few hundred masks are all there are, in 3D too.
QUANTUM = 1 / 16


@dataclass(frozen=True, eq=False)
class BoundaryCase(EnumerableCase):
    """`distance` [*shape] from the mean border and the border's standard deviation `sigma`, both in voxels."""

    distance: np.ndarray
    sigma: float


@dataclass(frozen=True)
class Boundary(Phantom):
    """The label map is {distance < r}, r ~ N(0, sigma^2): nested masks, P(v) = Phi(-distance / sigma).

    It is the ordered-probit field (`probit`) in the limit of an infinite correlation length. The image is a bright
    object whose edge is as soft as its border is uncertain; brightness and background differ from case to case. There
    is no noise, so the image determines the law exactly. `sigma` is the range in voxels from which each case's is
    drawn (log-uniform), `radius` the range of the half axes as shares of the shortest edge.
    """

    sigma: tuple[float, float] = (0.6, 2.4)
    radius: tuple[float, float] = (0.2, 0.3)

    name: ClassVar[str] = "boundary"

    @property
    def label_names(self) -> tuple[str, ...]:
        return ("object",)

    def draw(self, rng: np.random.Generator) -> BoundaryCase:
        sigma = float(np.exp(rng.uniform(*np.log(self.sigma))))
        distance = np.round(blob(rng, self.shape, self.radius) / QUANTUM) * QUANTUM
        background, contrast = rng.uniform(0.1, 0.4), rng.uniform(0.5, 0.9)
        image = background + contrast * expit(-2 * distance / sigma)
        # Between two neighbouring levels every r gives the same mask; below the first one it is empty.
        levels = np.unique(distance)
        weights = np.diff(ndtr(np.concatenate([[-np.inf], levels, [np.inf]]) / sigma))
        levels = np.concatenate([[-np.inf], levels])
        # What double precision cannot tell from zero would only fill the memory.
        possible = weights > np.finfo(float).eps
        masks = distance <= levels[possible].reshape(-1, *[1] * distance.ndim)
        weights = weights[possible] / weights[possible].sum()
        return BoundaryCase(image.astype(np.float32), 2, masks.astype(np.uint8), weights, distance, sigma)
