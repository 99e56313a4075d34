"""A faint disc in noise; the posterior follows from Bayes' rule over a list of discs."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from scipy.special import softmax

from .case import Phantom
from .enumerable import BLOCK, EnumerableCase
from .shapes import coordinates

BACKGROUND = 0.5
RADII = 9


@dataclass(frozen=True)
class Template(Phantom):
    """Image = background + contrast * disc + N(0, eta^2); disc, class and eta are each drawn uniformly from a list.

    The discs (balls in 3D) have 9 radii and 25 positions (27 in 3D); classes differ in contrast only. `contrasts` has
    one value per class for a grid of 1024 voxels, `etas` the possible standard deviations of the noise. The posterior
    sums over all `etas`, so it is exact given the image alone. Other `etas` at test time than in training are a domain
    shift with a known answer.
    """

    contrasts: tuple[float, ...] = (0.09, 0.13)
    etas: tuple[float, ...] = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4)

    name: ClassVar[str] = "template"

    label_names = ("faint disc", "clear disc")

    def draw(self, rng: np.random.Generator) -> EnumerableCase:
        mask = self.masks[rng.integers(len(self.masks))]
        image = BACKGROUND + np.array([0, *self._contrasts])[mask] + rng.choice(self.etas) * rng.normal(size=self.shape)
        return self.posterior(image)

    def posterior(self, image: np.ndarray) -> EnumerableCase:
        """The posterior given an image [*shape]: p(s, eta | x) ~ eta^-voxels exp(-|x - T_s|^2 / 2 eta^2)."""
        image = image.astype(np.float32)
        signal = image.astype(np.float64).ravel() - BACKGROUND
        # |x - T|^2 [classes - 1, discs] from the sum of the image over the disc and the size of the disc.
        contrasts = self._contrasts[:, None]
        blocks = np.array_split(self._discs, -(-self._discs.size // BLOCK))
        sums, sizes = np.concatenate([block @ signal for block in blocks]), self._discs.sum(1, dtype=np.float64)
        residuals = signal @ signal - 2 * contrasts * sums + contrasts**2 * sizes
        etas = np.array(self.etas)[:, None, None]
        weights = softmax(-residuals / (2 * etas**2) - signal.size * np.log(etas)).sum(0)
        return EnumerableCase(image, self.classes, self.masks, weights.ravel())

    @property
    def _contrasts(self) -> np.ndarray:
        """Contrasts [classes - 1] on this grid, scaled by 1 / sqrt(voxels) so that objects are equally visible."""
        return np.array(self.contrasts) * np.sqrt(1024 / np.prod(self.shape))

    @cached_property
    def masks(self) -> np.ndarray:
        """All label maps, uint8 [(classes - 1) * discs, *shape], class by class."""
        discs = self._discs.reshape(-1, *self.shape)
        return np.concatenate([np.uint8(label) * discs for label in range(1, self.classes)])

    @cached_property
    def _discs(self) -> np.ndarray:
        """All discs as 0 and 1, uint8 [discs, voxels]."""
        edge, axes = min(self.shape), len(self.shape)
        grid = coordinates(self.shape)
        steps = (-2, -1, 0, 1, 2) if axes == 2 else (-1, 0, 1)
        discs = []
        for shift in itertools.product(steps, repeat=axes):
            centre = (np.array(self.shape) - 1) / 2 + np.array(shift) * edge / 16
            distance = np.linalg.norm(grid - centre.reshape(-1, *[1] * axes), axis=0)
            discs += [distance < radius for radius in edge * np.linspace(0.15, 0.35, RADII)]
        return np.stack(discs).reshape(len(discs), -1).astype(np.uint8)
