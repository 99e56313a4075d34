"""Nested layers with random borders: a correlated Gaussian field, cut at thresholds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from scipy.special import ndtr

from ..errors import InputError
from .case import Phantom, PhantomCase, VolumeLaw
from .gaussian import gaussian_field
from .shapes import blob, checkerboard, coordinates, log_uniform

MARGIN = 5.0
"""The image shows depths up to this many largest sigmas beyond the thresholds, where labels are certain to 3e-7."""


@dataclass(frozen=True, eq=False)
class ProbitCase(PhantomCase):
    """Label = number of `thresholds` below depth + sigma * g, with g a Gaussian field of unit variance.

    `depth` and `sigma` are [*shape], `thresholds` [classes - 1] ascending, all in voxels, as is `correlation`.
    """

    depth: np.ndarray
    sigma: np.ndarray
    thresholds: np.ndarray
    correlation: float

    @cached_property
    def marginals(self) -> np.ndarray:
        below = ndtr(self.standardised)
        return np.diff(below, axis=0, prepend=np.zeros_like(below[:1]), append=np.ones_like(below[:1]))

    @property
    def standardised(self) -> np.ndarray:
        """(threshold - depth) / sigma, [classes - 1, *shape]."""
        return (self.thresholds.reshape(-1, *[1] * self.depth.ndim) - self.depth) / self.sigma

    def sample(self, rng: np.random.Generator, n: int) -> np.ndarray:
        field = gaussian_field(self.image.shape, self.correlation).draw(rng, n)
        field *= self.sigma
        field += self.depth
        return sum((field > threshold).astype(np.uint8) for threshold in self.thresholds)

    def volumes(self) -> VolumeLaw:
        """Exact mean and variance from all pairs of voxels: 0.1 s for 32x32, 10 s for 64x64x64."""
        counts = gaussian_field(self.image.shape, self.correlation).count_covariance(self.standardised)
        # The volume of a class is the count above its threshold minus the count above the next one.
        steps = np.eye(len(counts)) - np.eye(len(counts), k=1)
        return VolumeLaw(self.marginals[1:].reshape(len(counts), -1).sum(1), np.diag(steps @ counts @ steps.T))


@dataclass(frozen=True)
class Probit(Phantom):
    """Ordered-probit field: layers of a smooth body, cut from depth + sigma * g at fixed depths.

    The intensity of the image is the depth, plus a checkerboard of amplitude 0.08 * sigma and random sign. There is no
    noise, so the image determines the distribution exactly. Sigma changes along a random direction from one value to
    another, both log-uniform in the range `sigma` (voxels). `correlation` is the correlation length of g in voxels, the
    same for all cases: at least 1 and at most a quarter of the shortest edge, beyond which the periodicity of the field
    matters. `depths` are the thresholds and `radius` the range of the body's half axes, both as shares of the shortest
    edge. Raises InputError for another correlation.
    """

    sigma: tuple[float, float] = (0.4, 1.8)
    correlation: float = 3.0
    depths: tuple[float, ...] = (0.0, 0.11, 0.22)
    radius: tuple[float, float] = (0.32, 0.42)

    name: ClassVar[str] = "probit"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.correlation <= min(self.shape) / 4:
            raise InputError("The correlation length must lie between 1 voxel and a quarter of the shortest edge.")

    @property
    def label_names(self) -> tuple[str, ...]:
        return tuple(f"layer {k}" for k in range(1, len(self.depths) + 1))

    def draw(self, rng: np.random.Generator) -> ProbitCase:
        depth = -blob(rng, self.shape, self.radius)
        thresholds = min(self.shape) * np.array(self.depths)
        along = np.tensordot(rng.normal(size=depth.ndim), coordinates(self.shape), 1)
        share = (along - along.min()) / np.ptp(along)
        first, last = log_uniform(rng, self.sigma, 2)
        sigma = first ** (1 - share) * last**share
        low, high = thresholds[0] - MARGIN * self.sigma[1], thresholds[-1] + MARGIN * self.sigma[1]
        intensity = 0.1 + (np.clip(depth, low, high) - low) / (high - low)
        texture = rng.choice([-1, 1]) * checkerboard(self.shape) * 0.08 * sigma
        image = (intensity + texture).astype(np.float32)
        return ProbitCase(image, self.classes, depth, sigma, thresholds, self.correlation)
