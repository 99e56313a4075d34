"""Masks in the scene: segmentations and label maps, written as files for the worker, which uses them like samples.

The nodes are checked on the GUI thread; the files are written on another thread. Voxels are not copied: `changed`
detects modifications in the meantime.
"""

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import slicer.util
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from ..i18n import tr as _
from ..scene import nrrd_files, voxel_grids
from .handover import HandoverError

MASK_CLASSES = ("vtkMRMLSegmentationNode", "vtkMRMLLabelMapVolumeNode")


@dataclass(frozen=True)
class _Part:
    """Voxels of a segment or of a label map, and where they are in the volume.

    voxels: array [k, j, i]; its first voxel has index `start` (ijk) in the volume.
    value: value in `voxels` of the voxels of the segment; not used for a label map.
    fields: header fields of the segment; empty for a label map, whose values are all used as label numbers.
    """

    voxels: np.ndarray
    start: np.ndarray
    value: int
    fields: dict[str, str]


class MaskNode:
    """A vtkMRMLSegmentationNode or vtkMRMLLabelMapVolumeNode on the grid of a volume, as it was at construction."""

    def __init__(self, node: Any, volumeNode: Any, names: Mapping[str, str] | None = None) -> None:
        """`names`, by segment ID, are those of the segments that are written in this order; default: all, as named.

        Raises HandoverError, one sentence, if `node` is not on the grid of `volumeNode` or has no labelmap.
        """
        self.name = node.GetName()
        self._shape = volumeNode.GetImageData().GetDimensions()[::-1]
        self._ijkToRAS = voxel_grids.ijkToRAS(volumeNode)
        self._images: list[tuple[Any, int]] = []
        """The images whose voxels are written, with their modification times."""
        transform = node.GetParentTransformNode()
        if transform is not None and not transform.IsTransformToWorldLinear():
            sentence = _("'{name}' is under the non-linear transform '{transform}'; harden the transform first.")
            raise HandoverError(sentence.format(name=self.name, transform=transform.GetName()))
        if not np.allclose(voxel_grids.toWorld(node), voxel_grids.toWorld(volumeNode)):
            raise self._notOnGrid()
        isSegmentation = node.IsA("vtkMRMLSegmentationNode")
        self._parts = self._readSegments(node.GetSegmentation(), names) if isSegmentation else [self._readLabels(node)]

    def changed(self) -> bool:
        """Whether the voxels were modified since construction."""
        return any(image.GetMTime() != time for image, time in self._images)

    def write(self, path: Path, stop: threading.Event) -> None:
        """Write a label map with the names of the segments to `path` until `stop` is set. Raises OSError.

        Where segments overlap, the last one is written.
        """
        labels = np.zeros(self._shape, np.int32)
        header: dict[str, str] = {}
        for number, part in enumerate(self._parts):
            if stop.is_set():
                return
            if part.fields:
                fields = {"LabelValue": str(number + 1), **part.fields}
                header |= {f"Segment{number}_{key}": value for key, value in fields.items()}
            low = np.maximum(part.start, 0)
            high = np.minimum(part.start + part.voxels.shape[::-1], self._shape[::-1])
            if (high <= low).any():
                continue
            shape = tuple((high - low)[::-1])
            source = voxel_grids.block(part.voxels, low - part.start, shape)
            target = voxel_grids.block(labels, low, shape)
            if part.fields:
                target[source == part.value] = number + 1
            else:
                target[:] = source
        nrrd_files.write(path, labels, self._ijkToRAS, stop, header)

    def _readSegments(self, segmentation: Any, names: Mapping[str, str] | None) -> list[_Part]:
        parts = []
        for segmentID in segmentation.GetSegmentIDs() if names is None else names:
            segment = segmentation.GetSegment(segmentID)
            if segment is None:  # removed by the user: the structure is not there
                parts.append(_Part(np.zeros((0, 0, 0), np.uint8), np.zeros(3, int), 1, {"Name": names[segmentID]}))
                continue
            image = segment.GetRepresentation(voxel_grids.BINARY_LABELMAP)
            if image is None:
                sentence = _("The segmentation '{name}' has no binary labelmap; create one in module Segmentations.")
                raise HandoverError(sentence.format(name=self.name))
            tag, entry = segment.GetTerminologyEntryTagName(), vtk.reference("")
            fields = {
                "Name": segment.GetName() if names is None else names[segmentID],
                # Not Slicer's own flag: it is also set for names that were given by scripts.
                "NameAutoGenerated": str(int(bool(re.fullmatch(r"Segment[_ ]\d+", segment.GetName())))),
                "Color": " ".join(f"{part:g}" for part in segment.GetColor()),
                "Tags": f"{tag}:{entry}|" if segment.GetTag(tag, entry) else "",
            }
            scalars = image.GetPointData().GetScalars()
            if scalars is None or 0 in image.GetDimensions():  # an empty segment, which still has a name
                parts.append(_Part(np.zeros((0, 0, 0), np.uint8), np.zeros(3, int), 1, fields))
                continue
            try:
                start = voxel_grids.offset(voxel_grids.imageToRAS(image), self._ijkToRAS)
            except ValueError:
                raise self._notOnGrid() from None
            voxels = vtk_to_numpy(scalars).reshape(image.GetDimensions()[::-1])
            parts.append(_Part(voxels, start + np.array(image.GetExtent()[::2]), segment.GetLabelValue(), fields))
            self._images.append((image, image.GetMTime()))
        return parts

    def _readLabels(self, node: Any) -> _Part:
        image = node.GetImageData()
        if image is None or image.GetDimensions()[::-1] != self._shape:
            raise self._notOnGrid()
        try:
            start = voxel_grids.offset(voxel_grids.ijkToRAS(node), self._ijkToRAS)
        except ValueError:
            raise self._notOnGrid() from None
        self._images.append((image, image.GetMTime()))
        return _Part(slicer.util.arrayFromVolume(node), start, 0, {})

    def _notOnGrid(self) -> HandoverError:
        sentence = _("'{name}' does not lie on the grid of the volume; resample it to the volume first.")
        return HandoverError(sentence.format(name=self.name))


def isMask(node: Any) -> bool:
    """Whether `node` is a segmentation or label map; False for temporary ones such as previews, which are not saved."""
    isListed = node.GetSaveWithScene() and not node.GetHideFromEditors()
    return bool(isListed) and any(map(node.IsA, MASK_CLASSES))


def maskNodes() -> list[Any]:
    """The masks in the scene, segmentations first."""
    return [node for name in MASK_CLASSES for node in slicer.util.getNodesByClass(name) if isMask(node)]
