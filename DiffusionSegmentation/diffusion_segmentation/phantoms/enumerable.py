"""Cases of which every possible label map can be written down."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .case import Case, VolumeLaw


@dataclass(frozen=True, eq=False)
class EnumerableCase(Case):
    """A law given as a list: label maps `masks` uint8 [masks, *shape] and their probabilities `weights` [masks]."""

    image: np.ndarray
    classes: int
    masks: np.ndarray
    weights: np.ndarray

    @cached_property
    def marginals(self) -> np.ndarray:
        flat = self.masks.reshape(len(self.masks), -1)
        shares = np.stack([self.weights @ (flat == label) for label in range(self.classes)])
        # Rounding must not make a certain label more than certain.
        return np.minimum(shares, 1).reshape(self.classes, *self.image.shape)

    def sample(self, rng: np.random.Generator, n: int) -> np.ndarray:
        return self.masks[rng.choice(len(self.weights), n, p=self.weights)]

    def support(self) -> tuple[np.ndarray, np.ndarray]:
        return self.masks, self.weights

    def volumes(self) -> VolumeLaw:
        mean = self.weights @ self._volumes
        return VolumeLaw(mean, self.weights @ (self._volumes - mean) ** 2)

    def volume_law(self, label: int) -> tuple[np.ndarray, np.ndarray]:
        if not 1 <= label < self.classes:
            raise ValueError(f"There is no foreground class {label}.")
        values, which = np.unique(self._volumes[:, label - 1], return_inverse=True)
        return values, np.bincount(which, self.weights)

    @cached_property
    def _volumes(self) -> np.ndarray:
        """Voxels of each foreground class in each mask [masks, classes - 1]."""
        flat = self.masks.reshape(len(self.masks), -1)
        return np.stack([np.count_nonzero(flat == label, axis=1) for label in range(1, self.classes)], axis=1)
