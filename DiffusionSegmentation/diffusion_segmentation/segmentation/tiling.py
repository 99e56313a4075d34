"""Windows over a volume that is larger than one, and how their answers become one.

Everything here counts in cells: 2 x 2 x 2 voxels, the lattice of the space-to-depth form.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from monai.data.utils import compute_importance_map, dense_patch_slices

OVERLAP = 0.25


class Tiling:
    """Windows that cover a volume [z, y, x] or a picture [y, x] of `shape` voxels, padded at far ends to `padded`.

    An axis that fits into `window` is one window, padded to a multiple of `multiple` voxels; a longer one is covered by
    windows of that size with at least a quarter of overlap. A head at 2 mm is one window, so nothing is stitched.
    `padded`, of another tiling of the same volume with larger windows, keeps its lattice, and so the noise of a seed.
    """

    def __init__(
        self, shape: Sequence[int], window: Sequence[int], multiple: int, padded: Sequence[int] | None = None
    ) -> None:
        size = [min(_up(n, multiple), _up(w, multiple)) for n, w in zip(shape, window, strict=True)]
        self.shape = tuple(shape)
        self.padded = tuple(padded or (max(_up(n, 2), s) for n, s in zip(shape, size, strict=True)))
        self.cells = tuple(n // 2 for n in self.padded)
        cells = tuple(s // 2 for s in size)
        stride = [max(1, int(c * (1 - OVERLAP))) for c in cells]
        self.windows: list[tuple[slice, ...]] = dense_patch_slices(self.cells, cells, stride)
        # A Gaussian falls off towards a window's edge, where the network knows least of what is around.
        self._weight = compute_importance_map(cells, mode="gaussian", sigma_scale=0.25).clamp_min(1e-3)

    def pad(self, image: np.ndarray) -> np.ndarray:
        """`image` [z, y, x] of `shape`, with zeros (air) up to `padded`."""
        return np.pad(image, [(0, b - a) for a, b in zip(image.shape, self.padded, strict=True)])

    def crop(self, volume: torch.Tensor) -> torch.Tensor:
        """[..., z, y, x] of `padded` voxels without the padding."""
        return volume[(..., *(slice(n) for n in self.shape))]

    def voxels(self, window: tuple[slice, ...]) -> tuple[slice, ...]:
        """A window in voxels."""
        return tuple(slice(2 * s.start, 2 * s.stop) for s in window)

    def shares(self) -> Iterator[torch.Tensor]:
        """How much each window counts in its cells, float32 of their shape: all windows together 1, in padding 0."""
        inside = torch.zeros(self.cells)
        inside[tuple(slice(_up(n, 2) // 2) for n in self.shape)] = 1
        total = torch.zeros(self.cells)
        for window in self.windows:
            total[window] += self._weight
        for window in self.windows:
            yield inside[window] * self._weight / total[window]

    def blend(self, answers: Iterable[torch.Tensor]) -> torch.Tensor:
        """One tensor [N, K, *cells] from one [N, K, ...] a window: their weighted mean where windows overlap."""
        total = None
        for window, answer in zip(self.windows, answers, strict=True):
            if len(self.windows) == 1:
                total = answer
            else:
                if total is None:
                    total = answer.new_zeros((*answer.shape[:2], *self.cells))
                    weights = answer.new_zeros(self.cells)
                    weight = self._weight.to(answer)
                total[(..., *window)] += answer * weight
                weights[window] += weight
        return total if len(self.windows) == 1 else total.div_(weights)


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple
