"""A label map with its geometry, from which structures are taken as arrays in their bounding boxes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

ALL = 0
"""In place of a label: every structure together."""


@dataclass(frozen=True)
class Part:
    """Voxels of structures in their bounding box: bool [k, j, i], and the index [k, j, i] of its first voxel."""

    mask: np.ndarray
    start: np.ndarray


class LabelMap:
    """Labels uint8 [k, j, i] with their geometry.

    `spacing` float [3] is that of the axes k, j and i in mm; the rows of `axes` float [3, 3] are their directions in
    LPS. `is_picture` is whether the grid has one slice; without a stated pixel size the spacing of pictures is 1 px.
    """

    def __init__(self, labels: np.ndarray, image: sitk.Image) -> None:
        """Labels on the grid of `image`, or on a part of it: positions are relative to the first voxel."""
        self.labels = labels
        self.spacing = np.array(image.GetSpacing()[::-1])
        self.axes = np.array(image.GetDirection()).reshape(3, 3).T[::-1]
        self.is_picture = image.GetSize()[2] == 1  # of the whole grid: a part of a volume can have one slice

    @cached_property
    def _boxes(self) -> list[tuple[slice, ...] | None]:
        return ndimage.find_objects(self.labels)

    def part(self, labels: Collection[int]) -> Part | None:
        """The voxels of `labels`, of all structures if it contains ALL; None if there are none."""
        wanted = [n for n, box in enumerate(self._boxes, 1) if box is not None and (ALL in labels or n in labels)]
        if not wanted:
            return None
        boxes = [self._boxes[n - 1] or () for n in wanted]
        start = np.min([[side.start for side in box] for box in boxes], 0)
        stop = np.max([[side.stop for side in box] for box in boxes], 0)
        inside = self.labels[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
        return Part(np.isin(inside, wanted), start)

    def points(self, part: Part, mask: np.ndarray | None = None) -> np.ndarray:
        """Centres float [n, 3] in mm along the array's axes of the true voxels of `mask`, by default of the part's."""
        return (np.argwhere(part.mask if mask is None else mask) + part.start) * self.spacing
