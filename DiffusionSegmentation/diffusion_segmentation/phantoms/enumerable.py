"""Cases whose possible label maps can be enumerated."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from .case import PhantomCase, VolumeLaw

BLOCK = 2**23  # labels weighted at a time: 64 MiB of float64


@dataclass(frozen=True, eq=False)
class EnumerableCase(PhantomCase):
    """A distribution as a list: label maps `masks` uint8 [masks, *shape] and their probabilities `weights` [masks]."""

    masks: np.ndarray
    weights: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.masks.shape[1:]

    @cached_property
    def marginals(self) -> np.ndarray:
        flat = self.support()[0].reshape(len(self.weights), -1)
        blocks = np.array_split(flat, -(-flat.size // BLOCK), axis=1)
        shares = [np.stack([self.weights @ (block == label) for label in range(self.classes)]) for block in blocks]
        # Rounding can give probabilities above 1.
        return np.minimum(np.concatenate(shares, axis=1), 1).reshape(self.classes, *self.shape)

    def sample(self, rng: np.random.Generator, n: int) -> np.ndarray:
        return self._on_grid(self.masks[rng.choice(len(self.weights), n, p=self.weights)])

    def support(self) -> tuple[np.ndarray, np.ndarray]:
        return self._on_grid(self.masks), self.weights

    def given(self, known: np.ndarray, labels: np.ndarray) -> EnumerableCase:
        """The case given the labels [*shape] of the `known` voxels, bool [*shape]: the list without the other maps.

        Raises ValueError where no label map has these labels.
        """
        agreeing = (self._columns(known) == labels[known]).all(1)
        if not self.weights[agreeing].sum() > 0:
            raise ValueError("No label map of this case has these labels.")
        weights = self.weights[agreeing] / self.weights[agreeing].sum()
        return replace(self, masks=self.masks[agreeing], weights=weights)

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
        return np.stack([self._count(flat == label) for label in range(1, self.classes)], axis=1)

    def _count(self, inside: np.ndarray) -> np.ndarray:
        """Voxels [masks] of the marked columns of `masks`, bool [masks, columns]."""
        return np.count_nonzero(inside, axis=1)

    def _columns(self, voxels: np.ndarray) -> np.ndarray:
        """Labels of the marked voxels, bool [*shape], in each mask: uint8 [masks, voxels]."""
        return self.masks[:, voxels]

    def _on_grid(self, values: np.ndarray) -> np.ndarray:
        """Label maps [n, *shape] from one value for each column of `masks`."""
        return values.reshape(len(values), *self.shape)


@dataclass(frozen=True, eq=False)
class CellsCase(EnumerableCase):
    """Label maps that are constant within cells, the same cells for all maps.

    `masks` uint8 [masks, cells] is the label of each cell and `cells` int [*shape] the cell of each voxel. Memory does
    not depend on the grid until `support` expands the label maps to one byte per voxel.
    """

    cells: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.cells.shape

    def _count(self, inside: np.ndarray) -> np.ndarray:
        return inside @ np.bincount(self.cells.ravel(), minlength=inside.shape[1])

    def _on_grid(self, values: np.ndarray) -> np.ndarray:
        return values[:, self.cells]

    def _columns(self, voxels: np.ndarray) -> np.ndarray:
        return self.masks[:, self.cells[voxels]]
