"""What every phantom promises: an image, and everything about the labels that the image leaves open."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..errors import InputError

# Smaller grids do not hold the shapes; larger ones make the exact sums and the enumerated masks too large.
SHORTEST_EDGE, LONGEST_EDGE, MOST_VOXELS = 16, 256, 2**18


@dataclass(frozen=True, eq=False)
class VolumeLaw:
    """Exact mean and variance of each foreground class's volume, float64 [classes - 1], in voxels and their square."""

    mean: np.ndarray
    variance: np.ndarray


class Case(ABC):
    """One image and the exact law of its label map given the image. Label maps are uint8 [*shape], 0 is background."""

    image: np.ndarray
    """float32 [*shape], about 0 to 1.5."""
    classes: int
    """Number of classes, background included."""

    @property
    @abstractmethod
    def marginals(self) -> np.ndarray:
        """Exact probability of each class in each voxel, float64 [classes, *shape]; computed once, on first use."""

    @abstractmethod
    def sample(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """n independent exact draws of the whole label map, uint8 [n, *shape]."""

    @abstractmethod
    def volumes(self) -> VolumeLaw:
        """Exact mean and variance of the volumes."""

    def support(self) -> tuple[np.ndarray, np.ndarray] | None:
        """All label maps that can occur, uint8 [masks, *shape], and their probabilities [masks]; None if too many."""
        return None

    def volume_law(self, label: int) -> tuple[np.ndarray, np.ndarray]:
        """Possible volumes of a class in voxels, ascending, and their probabilities.

        Raises ValueError where the label maps cannot be enumerated, and when `label` is not a foreground class.
        """
        raise ValueError("The label maps of this phantom cannot be enumerated; only mean and variance are exact.")


@dataclass(frozen=True)
class Phantom(ABC):
    """A task with a known answer on a grid of 2 or 3 axes. Raises InputError for a grid on which it cannot be made."""

    shape: tuple[int, ...] = (32, 32)

    name: ClassVar[str]

    def __post_init__(self) -> None:
        edges = all(SHORTEST_EDGE <= n <= LONGEST_EDGE for n in self.shape)
        if len(self.shape) not in (2, 3) or not edges or math.prod(self.shape) > MOST_VOXELS:
            raise InputError(
                f"A phantom has 2 or 3 axes of {SHORTEST_EDGE} to {LONGEST_EDGE} voxels and at most "
                f"{MOST_VOXELS} voxels in all; {'x'.join(map(str, self.shape))} is not possible."
            )

    @property
    @abstractmethod
    def label_names(self) -> tuple[str, ...]:
        """Names of the foreground classes, in the order of their labels."""

    @property
    def classes(self) -> int:
        """Number of classes, background included."""
        return 1 + len(self.label_names)

    @abstractmethod
    def draw(self, rng: np.random.Generator) -> Case:
        """A new case; the same state of `rng` gives the same case."""
