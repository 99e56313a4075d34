"""Interface of the phantoms: an image and the exact distribution of its label map."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..errors import InputError

SHORTEST_EDGE, LONGEST_EDGE, MOST_VOXELS = 16, 256, 2**18
"""Smaller grids cannot contain the shapes; on larger ones exact sums and lists of masks take too long."""


@dataclass(frozen=True, eq=False)
class VolumeLaw:
    """Exact mean (voxels) and variance (voxels^2) of the volume of each foreground class, float64 [classes - 1]."""

    mean: np.ndarray
    variance: np.ndarray


@dataclass(frozen=True, eq=False)
class PhantomCase(ABC):
    """An image and the exact distribution of its label map, uint8 [*shape] with 0 as background."""

    image: np.ndarray  # float32 [*shape], about 0 to 1.5; of a task of several inputs [inputs, *shape]
    classes: int  # number of classes including background

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the label map."""
        return self.image.shape

    @property
    @abstractmethod
    def marginals(self) -> np.ndarray:
        """Exact class probabilities, float64 [classes, *shape]; computed on first use."""

    @abstractmethod
    def sample(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """n independent exact samples of the label map, uint8 [n, *shape]."""

    @abstractmethod
    def volumes(self) -> VolumeLaw:
        """Exact mean and variance of the volumes."""

    def support(self) -> tuple[np.ndarray, np.ndarray] | None:
        """All possible label maps, uint8 [masks, *shape], and their probabilities [masks]; None if too many."""
        return None

    def volume_law(self, label: int) -> tuple[np.ndarray, np.ndarray]:
        """Possible volumes of a class in voxels, ascending, and their probabilities.

        Raises ValueError if the label maps cannot be enumerated or `label` is not a foreground class.
        """
        raise ValueError("The label maps of this phantom cannot be enumerated; only mean and variance are exact.")


@dataclass(frozen=True)
class Phantom(ABC):
    """A task with a known answer on a grid of 2 or 3 axes. Raises InputError for an unsuitable grid."""

    shape: tuple[int, ...] = (32, 32)

    name: ClassVar[str]
    inputs: ClassVar[tuple[str, ...]] = ("Image",)
    """Names of the inputs."""

    def __post_init__(self) -> None:
        edges = all(SHORTEST_EDGE <= n <= LONGEST_EDGE for n in self.shape)
        if len(self.shape) not in (2, 3) or not edges or math.prod(self.shape) > MOST_VOXELS:
            raise InputError(
                f"A phantom has 2 or 3 axes of {SHORTEST_EDGE} to {LONGEST_EDGE} voxels and at most {MOST_VOXELS} "
                f"voxels in total; {'x'.join(map(str, self.shape))} is not possible."
            )

    @property
    @abstractmethod
    def label_names(self) -> tuple[str, ...]:
        """Names of the foreground classes, in the order of their labels."""

    @property
    def classes(self) -> int:
        """Number of classes including background."""
        return 1 + len(self.label_names)

    @abstractmethod
    def draw(self, rng: np.random.Generator) -> PhantomCase:
        """A random case; the same state of `rng` gives the same case."""
