"""The label map of a result: as computed, as edited by the user, and writing into it.

The computed consensus is the most probable class of the probabilities in the scene. Edits are read from the model's
segments. Segments that the user has added are never changed.
"""

import copy
from collections.abc import Callable, Collection

import numpy as np
import slicer.util

from ..i18n import tr as _
from . import sequences, voxel_grids
from .result_nodes import PROBABILITIES_ROLE, reportOf
from .units import Unit


class Labels:
    """The label map of one segmentation node: classes [k, j, i] on the block of the volume that was segmented.

    Label n is class n of the model; 0 is background.
    """

    def __init__(self, segmentationNode: slicer.vtkMRMLSegmentationNode) -> None:
        """Raises LookupError, one sentence, if the class probabilities were removed."""
        self._segmentation = segmentationNode.GetSegmentation()
        probabilitiesNode = segmentationNode.GetNodeReference(PROBABILITIES_ROLE)
        self._probabilities = sequences.arrays(probabilitiesNode)
        if not self._probabilities:
            raise LookupError(_("The class probabilities of this result were removed."))
        self.ijkToRAS = voxel_grids.ijkToRAS(probabilitiesNode.GetNthDataNode(0))
        self.shape = self._probabilities[0].shape
        report = reportOf(segmentationNode)
        self.segmentIDs = {entry["label"]: entry["id"] for entry in report["volumes"]}
        self.unit = Unit.of(report)

    def consensus(self) -> np.ndarray:
        """The labels as computed, uint8."""
        best = self._probabilities[0].copy()
        labels = np.zeros(self.shape, np.uint8)
        for label, probability in enumerate(self._probabilities[1:], 1):
            labels[probability > best] = label
            np.maximum(best, probability, out=best)
        return labels

    def current(self) -> np.ndarray:
        """The labels as the segments are now, uint8; where segments overlap, the last one.

        Raises LookupError, one sentence, if the segments are on another grid.
        """
        return self._composed(self._parts())

    def copied(self) -> Callable[[], np.ndarray]:
        """Copy the segments and return a function that computes `current` from the copy, on any thread.

        Copying takes a small part of the time of `current`, and the editor may change the segments meanwhile. Raises as
        `current`.
        """
        parts = [(source.copy(), start, values) for source, start, values in self._parts()]
        return lambda: self._composed(parts)

    def currentOn(self, ijkToRAS: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """As `current`, on another part [k, j, i] of the volume's grid, such as all of it."""
        part = copy.copy(self)
        part.ijkToRAS, part.shape = ijkToRAS, shape
        return part.current()

    @property
    def removed(self) -> list[int]:
        """Labels whose segments the user has removed."""
        return [label for label, segmentID in self.segmentIDs.items() if not self._segmentation.GetSegment(segmentID)]

    def sizeOf(self, count: int) -> float:
        """Size of `count` voxels in `unit`."""
        return self.unit.ofVoxels(count, tuple(np.linalg.norm(self.ijkToRAS[:3, :3], axis=0).tolist()))

    def countText(self, count: int) -> str:
        """`count` voxels or pixels with their size."""
        text = self.unit.either(_("{count} voxels ({size})"), _("{count} pixels ({size})"))
        if self.unit.suffix == "px":
            text = _("{count} pixels")
        return text.format(count=count, size=self.unit.textOf(self.sizeOf(count)))

    def stamp(self) -> tuple[int, ...]:
        """Labels of removed segments and modification times of the others; unchanged as long as nothing is edited."""
        return (*self.removed, *(image.GetMTime() for image in self._layers()))

    def edited(self, current: np.ndarray | None = None, removed: Collection[int] = ()) -> int:
        """Number of voxels where `current` (default: `current()`) differs from the consensus. Raises as `current`.

        Those that only lack one of the labels `removed` do not count.
        """
        current, consensus = self.current() if current is None else current, self.consensus()
        differ = current != consensus
        if removed:
            differ &= ~self.onlyLacks(current, consensus, removed)
        return int(np.count_nonzero(differ))

    @staticmethod
    def onlyLacks(current: np.ndarray, consensus: np.ndarray, removed: Collection[int]) -> np.ndarray:
        """Mask of the voxels of the labels `removed` in `consensus` that have no label in `current`."""
        return np.isin(consensus, list(removed)) & (current == 0)

    def write(self, labels: np.ndarray, mask: np.ndarray) -> int:
        """Set the segments to `labels` where `mask`, both [k, j, i]; returns the number of changed voxels.

        Voxels of the user's own segments are kept. Raises LookupError as `current`, before anything is written.
        """
        box = voxel_grids.boundingBox(mask)
        if box is None:
            return 0
        start = np.array(voxel_grids.first(box))
        labels, mask = labels[box], mask[box]
        changed = mask & (labels != self.current()[box])
        views = []
        for image, values in self._layers().items():
            low = start + self._start(image)
            high = low + mask.shape[::-1]
            _grow(image, low, high)
            view = _view(image, low, high)
            changed &= np.isin(view, [0, *values])
            views.append((image, view, values))
        for image, view, values in views:
            target = np.zeros(view.shape, view.dtype)
            for value, label in values.items():
                target[labels == label] = value
            view[changed] = target[changed]
            image.Modified()
        return int(np.count_nonzero(changed))

    def _parts(self) -> list[tuple[np.ndarray, np.ndarray, dict[int, int]]]:
        """Of each layer the voxels in the block, no copy, their first index (ijk) in it, and labels by voxel value."""
        parts = []
        for image, values in self._layers().items():
            low, high = self._overlap(image)
            if (high > low).all():
                parts.append((_view(image, low, high), low - self._start(image), values))
        return parts

    def _composed(self, parts: list[tuple[np.ndarray, np.ndarray, dict[int, int]]]) -> np.ndarray:
        """The labels of `_parts`, of which the last are on top."""
        labels = np.zeros(self.shape, np.uint8)
        for source, start, labelOf in parts:
            table = np.zeros(max(labelOf) + 2, np.uint8)  # its last entry is for the values of other segments
            table[list(labelOf)] = list(labelOf.values())
            # Slice by slice, because indices take eight bytes a voxel.
            for target, values in zip(voxel_grids.block(labels, start, source.shape), source, strict=True):
                found = np.take(table, values.astype(np.intp), mode="clip")
                np.copyto(target, found, where=found > 0)
        return labels

    def _layers(self) -> dict[slicer.vtkOrientedImageData, dict[int, int]]:
        """The images of the model's segments, each with a mapping from voxel value to label."""
        layers: dict[slicer.vtkOrientedImageData, dict[int, int]] = {}
        for label, segmentID in self.segmentIDs.items():
            segment = self._segmentation.GetSegment(segmentID)
            if segment is None:
                continue  # removed by the user
            image = segment.GetRepresentation(voxel_grids.BINARY_LABELMAP)
            if image is None:
                raise LookupError(
                    _("A segment has no binary labelmap; make it the source representation in Segmentations.")
                )
            layers.setdefault(image, {})[segment.GetLabelValue()] = label
        return layers

    def _start(self, image: slicer.vtkOrientedImageData) -> np.ndarray:
        """Index (ijk) in `image` of the first voxel of the block."""
        try:
            return voxel_grids.offset(self.ijkToRAS, voxel_grids.imageToRAS(image))
        except ValueError as error:
            raise LookupError(_("The segments were resampled to another grid than that of the result.")) from error

    def _overlap(self, image: slicer.vtkOrientedImageData) -> tuple[np.ndarray, np.ndarray]:
        """First index and last index + 1 (ijk) of what `image` and the block have in common."""
        start, extent = self._start(image), np.array(image.GetExtent())
        return np.maximum(start, extent[::2]), np.minimum(start + self.shape[::-1], extent[1::2] + 1)


def _view(image: slicer.vtkOrientedImageData, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The voxels with indices from `low` to below `high` (ijk), no copy."""
    first = np.array(image.GetExtent()[::2])
    return voxel_grids.block(voxel_grids.imageArray(image), low - first, tuple((high - low)[::-1]))


def _grow(image: slicer.vtkOrientedImageData, low: np.ndarray, high: np.ndarray) -> None:
    """Extend `image`, which Slicer crops to its content, to the indices from `low` to below `high` (ijk)."""
    extent = np.array(image.GetExtent())
    first, last = np.minimum(low, extent[::2]), np.maximum(high - 1, extent[1::2])
    if (first == extent[::2]).all() and (last == extent[1::2]).all():
        return
    old, scalarType = voxel_grids.imageArray(image).copy(), image.GetScalarType()
    image.SetExtent(*np.stack([first, last], 1).ravel().tolist())
    image.AllocateScalars(scalarType, 1)
    voxels = voxel_grids.imageArray(image)
    voxels[:] = 0
    voxel_grids.block(voxels, extent[::2] - first, old.shape)[:] = old
