"""The label map of a result, as it was computed and as people have left it, and writing into it.

The worker's consensus is the most probable class of the probabilities in the scene. What people have made of it is in
the segments of the model; segments that they have added are theirs and never touched.
"""

import json

import numpy as np
import slicer
import slicer.util
import vtk
import vtk.util.numpy_support

from ..i18n import tr as _
from . import voxel_grids as grids
from .result_nodes import PROBABILITIES_ROLE, RUN_ATTRIBUTE

BINARY = "Binary labelmap"


class Labels:
    """The label map of one segmentation node of ours: classes [k, j, i] on the block of the volume that was segmented.

    Label n is the model's class n; 0 is none of its segments.
    """

    def __init__(self, segmentationNode: slicer.vtkMRMLSegmentationNode) -> None:
        """Raises LookupError, one sentence, if the probabilities of the result are gone."""
        self._segmentation = segmentationNode.GetSegmentation()
        self._shares = segmentationNode.GetNodeReference(PROBABILITIES_ROLE)
        if self._shares is None or not self._shares.GetNumberOfDataNodes():
            raise LookupError(_("The class probabilities of this result were removed."))
        first = self._shares.GetNthDataNode(0)
        self.ijkToRAS = grids.ijkToRAS(first)
        self.shape = slicer.util.arrayFromVolume(first).shape
        report = json.loads(segmentationNode.GetAttribute(RUN_ATTRIBUTE))
        self.segmentIDs = {entry["label"]: entry["id"] for entry in report["volumes"]}

    def consensus(self) -> np.ndarray:
        """The labels as they were computed, uint8."""
        best = slicer.util.arrayFromVolume(self._shares.GetNthDataNode(0)).copy()
        labels = np.zeros(self.shape, np.uint8)
        for label in range(1, self._shares.GetNumberOfDataNodes()):
            share = slicer.util.arrayFromVolume(self._shares.GetNthDataNode(label))
            better = share > best
            labels[better] = label
            np.maximum(best, share, out=best)
        return labels

    def current(self) -> np.ndarray:
        """The labels as the segments are now, uint8; where segments overlap, the last. Raises LookupError, a sentence,
        if the segments were moved to another grid."""
        labels = np.zeros(self.shape, np.uint8)
        for image, values in self._layers():
            low, high = self._overlap(image)
            if (high <= low).any():
                continue
            there = _view(image, low, high)
            here = grids.block(labels, low - self._start(image), there.shape)
            for value, label in values.items():
                here[there == value] = label
        return labels

    @property
    def voxelMl(self) -> float:
        """Volume of a voxel."""
        return float(abs(np.linalg.det(self.ijkToRAS[:3, :3]))) / 1000

    def stamp(self) -> tuple[int, ...]:
        """Another one whenever the model's segments were changed."""
        return tuple(image.GetMTime() for image, _values in self._layers())

    def edited(self, current: np.ndarray | None = None) -> int:
        """How many voxels are not as they were computed, now or when `current` was taken. Raises as that."""
        return int(np.count_nonzero((self.current() if current is None else current) != self.consensus()))

    def write(self, labels: np.ndarray, mask: np.ndarray) -> int:
        """Make the segments say `labels` where `mask`, both [k, j, i]; returns how many voxels have changed.

        Voxels of segments that are not the model's stay. Raises LookupError as `current`; nothing is written then.
        """
        inside = grids.boundingBox(mask)
        if inside is None:
            return 0
        start = np.array(grids.first(inside))
        labels, mask = labels[inside], mask[inside]
        before = self.current()[inside]
        free = mask.copy()
        layers = self._layers()
        writes = []
        for image, values in layers:
            low = start + self._start(image)
            _grow(image, low, low + mask.shape[::-1])
            there = _view(image, low, low + mask.shape[::-1])
            free &= np.isin(there, [0, *values])
            writes.append((image, there, values))
        changed = free & (labels != before)
        for image, there, values in writes:
            wanted = np.zeros(there.shape, there.dtype)
            for value, label in values.items():
                wanted[labels == label] = value
            there[changed] = wanted[changed]
            image.Modified()
        return int(np.count_nonzero(changed))

    def _layers(self) -> list[tuple[slicer.vtkOrientedImageData, dict[int, int]]]:
        """The images that hold the model's segments, each with the label of every value in it."""
        layers: list[tuple[slicer.vtkOrientedImageData, dict[int, int]]] = []
        for label, segmentID in self.segmentIDs.items():
            segment = self._segmentation.GetSegment(segmentID)
            if segment is None:
                continue  # a person has removed it
            image = segment.GetRepresentation(BINARY)
            if image is None:
                raise LookupError(_("A segment has no label map; make that its source again in Segmentations."))
            values = next((values for other, values in layers if other is image), None)
            if values is None:
                layers.append((image, values := {}))
            values[segment.GetLabelValue()] = label
        return layers

    def _start(self, image: slicer.vtkOrientedImageData) -> np.ndarray:
        """The index of our block's first voxel in `image`, ijk."""
        try:
            return grids.offset(self.ijkToRAS, grids.imageToRAS(image))
        except ValueError as error:
            raise LookupError(_("The segments lie on another grid than the result; they were resampled.")) from error

    def _overlap(self, image: slicer.vtkOrientedImageData) -> tuple[np.ndarray, np.ndarray]:
        """First and last index, ijk, of what `image` and our block have in common; the last does not belong to it."""
        start, extent = self._start(image), np.array(image.GetExtent())
        return np.maximum(start, extent[::2]), np.minimum(start + self.shape[::-1], extent[1::2] + 1)


def _array(image: slicer.vtkOrientedImageData) -> np.ndarray:
    """The voxels of `image`, [k, j, i] from the first of its extent."""
    scalars = vtk.util.numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())
    return scalars.reshape(image.GetDimensions()[::-1])


def _view(image: slicer.vtkOrientedImageData, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The voxels from index `low` to `high`, ijk, in place."""
    first = np.array(image.GetExtent()[::2])
    return grids.block(_array(image), low - first, tuple((high - low)[::-1]))


def _grow(image: slicer.vtkOrientedImageData, low: np.ndarray, high: np.ndarray) -> None:
    """Let `image` cover the indices from `low` to `high`, ijk, too. Slicer crops it to what is in it."""
    extent = np.array(image.GetExtent())
    first, last = np.minimum(low, extent[::2]), np.maximum(high - 1, extent[1::2])
    if (first == extent[::2]).all() and (last == extent[1::2]).all():
        return
    old, oldFirst, kind = _array(image).copy(), extent[::2], image.GetScalarType()
    image.SetExtent(*np.stack([first, last], 1).ravel().tolist())
    image.AllocateScalars(kind, 1)
    voxels = _array(image)
    voxels[:] = 0
    grids.block(voxels, oldFirst - first, old.shape)[:] = old
