"""Overlapping windows over a volume, and blending of their outputs.

Windows are slices of cells, which are blocks of 2 x 2 x 2 voxels: the grid of the space-to-depth form.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch

OVERLAP = 0.25
WIDTH = 0.25
"""Standard deviation of the weight of a window, as a share of its edge."""
Window = tuple[Any, ...]  # slices, one for each axis


class Tiling:
    """Windows that cover a volume [z, y, x] or a picture [y, x] of `shape` voxels.

    An axis that fits into `window` voxels has one window, padded to a multiple of `multiple`; a longer one has windows
    of that size that overlap by at least a quarter. A head at 2 mm needs one window. The volume is padded at the end of
    each axis to `padded` voxels; to get the same noise from a seed with smaller windows, pass `padded` of the larger.
    """

    def __init__(
        self, shape: Sequence[int], window: Sequence[int], multiple: int, padded: Sequence[int] | None = None
    ) -> None:
        size = [min(_up(n, multiple), _up(w, multiple)) for n, w in zip(shape, window, strict=True)]
        self.shape = tuple(shape)
        self.padded = tuple(padded or (max(_up(n, 2), s) for n, s in zip(shape, size, strict=True)))
        self.cells = tuple(n // 2 for n in self.padded)
        cells = tuple(s // 2 for s in size)
        # MONAI has these windows and weights, too; its import takes longer than that of PyTorch.
        self.windows: list[Window] = list(itertools.product(*map(_slices, self.cells, cells)))
        # The weight falls off towards the edge of a window, where the network has least context.
        self._weight = reduce(torch.mul, torch.meshgrid(*map(_bell, cells), indexing="ij")).clamp_min(1e-3)
        self._total = torch.zeros(self.cells)
        for part in self.windows:
            self._total[part] += self._weight

    def pad(self, image: np.ndarray) -> np.ndarray:
        """Pad `image` [..., z, y, x] with zeros (air) to `padded`."""
        leading = image.ndim - len(self.padded)
        after = [b - a for a, b in zip(image.shape[leading:], self.padded, strict=True)]
        return np.pad(image, [*[(0, 0)] * leading, *((0, n) for n in after)])

    def crop(self, volume: torch.Tensor) -> torch.Tensor:
        """Remove the padding of `volume` [..., z, y, x]."""
        inside: Window = tuple(slice(n) for n in self.shape)
        return volume[(..., *inside)]

    def voxels(self, window: Window) -> Window:
        """Convert a window from cells to voxels."""
        return tuple(slice(2 * s.start, 2 * s.stop) for s in window)

    def shares(self) -> Iterator[torch.Tensor]:
        """Weight of each window in its cells, float32; the weights of all windows sum to 1, and to 0 in padding."""
        inside = torch.zeros(self.cells)
        inside[tuple(slice(_up(n, 2) // 2) for n in self.shape)] = 1
        for window in self.windows:
            yield inside[window] * self._weight / self._total[window]

    def blend(self, outputs: Iterable[torch.Tensor]) -> torch.Tensor:
        """Blend one output [N, channels, ...] per window into [N, channels, *cells]: in overlaps the weighted mean."""
        if len(self.windows) == 1:
            (output,) = outputs
            return output
        blended = torch.empty(0)
        for window, output in zip(self.windows, outputs, strict=True):
            if not len(blended):
                blended, weight = output.new_zeros((*output.shape[:2], *self.cells)), self._weight.to(output)
            blended[(..., *window)] += output * weight
        return blended.div_(self._total.to(blended))


def channels_first(image: np.ndarray, dims: int) -> np.ndarray:
    """`image` as [channels, *shape]; an image of one channel may come without that axis, [*shape]."""
    return image if image.ndim > dims else image[None]


def _slices(length: int, window: int) -> list[slice]:
    """Slices of `window` cells that cover `length` cells; the last one ends there and overlaps more."""
    stride, last = max(1, int(window * (1 - OVERLAP))), length - window
    starts = [min(number * stride, last) for number in range(-(-last // stride) + 1)]
    return [slice(start, start + window) for start in starts]


def _bell(length: int) -> torch.Tensor:
    """A Gaussian over `length` cells, 1 in the middle, float32 [length]."""
    distance = torch.arange(length, dtype=torch.float32) - (length - 1) / 2
    return torch.exp(-(distance**2) / (2 * (WIDTH * length) ** 2))


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple
