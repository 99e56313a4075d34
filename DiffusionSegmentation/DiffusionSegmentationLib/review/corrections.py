"""Corrections that the uncertainty makes quick: a sample's labels in a place, and a segment of what is unsure."""

import numpy as np
import slicer
import slicer.util
import vtk
import vtk.util.numpy_support

from ..i18n import tr as _
from ..scene import voxel_grids as grids
from ..scene.label_map import BINARY, Labels
from ..scene.result_nodes import ENTROPY_ROLE, SAMPLES_ROLE, regionsVolume

REVIEW_SEGMENT = "to_review"
REVIEW_COLOR = (1.0, 0.85, 0.0)


def useSample(segmentationNode: slicer.vtkMRMLSegmentationNode, index: int, mask: np.ndarray) -> int:
    """Put sample `index` (from 0) in place of the segments where `mask` [k, j, i] on the block of the result.

    Returns how many voxels have changed. Raises LookupError, one sentence, if that cannot be; nothing is changed then.
    """
    samplesNode = segmentationNode.GetNodeReference(SAMPLES_ROLE)
    if samplesNode is None:
        raise LookupError(_("The samples of this result were removed."))
    return Labels(segmentationNode).write(slicer.util.arrayFromVolume(samplesNode.GetNthDataNode(index)), mask)


def regionMask(segmentationNode: slicer.vtkMRMLSegmentationNode, basin: int) -> np.ndarray:
    """Where region `basin` is, bool [k, j, i] on the block of the result. Raises LookupError, one sentence."""
    regionsNode = regionsVolume(segmentationNode)
    if regionsNode is None:
        raise LookupError(_("The regions of this result were removed."))
    return slicer.util.arrayFromVolume(regionsNode) == basin


def roiMask(segmentationNode: slicer.vtkMRMLSegmentationNode, roiNode: slicer.vtkMRMLMarkupsROINode) -> np.ndarray:
    """Where the voxels' centres lie in `roiNode`, a box that may be rotated; as regionMask."""
    labels = Labels(segmentationNode)
    objectToWorld = slicer.util.arrayFromVTKMatrix(roiNode.GetObjectToWorldMatrix())
    parentNode = segmentationNode.GetParentTransformNode()
    if parentNode is not None and not parentNode.IsTransformToWorldLinear():
        raise LookupError(_("The result lies under a transform that is not linear; use a region instead."))
    ijkToBox = np.linalg.solve(objectToWorld, grids.toWorld(segmentationNode) @ labels.ijkToRAS)
    k, j, i = np.ogrid[tuple(slice(n) for n in labels.shape)]
    mask = np.ones(labels.shape, bool)
    for axis, size in enumerate(roiNode.GetSize()):
        a, b, c, d = ijkToBox[axis]
        mask &= np.abs(a * i + b * j + c * k + d) <= size / 2
    return mask


def segmentMask(segmentationNode: slicer.vtkMRMLSegmentationNode, segmentID: str) -> np.ndarray:
    """Where a segment is, such as one that a person has painted; as regionMask."""
    labels = Labels(segmentationNode)
    image = slicer.vtkOrientedImageData()
    segmentationNode.GetBinaryLabelmapRepresentation(segmentID, image)
    geometry = slicer.vtkOrientedImageData()
    geometry.SetExtent(*(value for n in labels.shape[::-1] for value in (0, n - 1)))
    geometry.SetGeometryFromImageToWorldMatrix(slicer.util.vtkMatrixFromArray(labels.ijkToRAS))
    resampled = slicer.vtkOrientedImageData()
    slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(image, geometry, resampled)
    voxels = vtk.util.numpy_support.vtk_to_numpy(resampled.GetPointData().GetScalars())
    return voxels.reshape(labels.shape) > 0


def ownLayer(segmentationNode: slicer.vtkMRMLSegmentationNode, segmentID: str) -> None:
    """Give a segment a layer of its own: painted into that of the model's segments, it keeps them out of its place."""
    segmentationNode.GetSegmentation().SeparateSegmentLabelmap(segmentID)


def makeReviewSegment(segmentationNode: slicer.vtkMRMLSegmentationNode, bits: float) -> str:
    """Make, or make anew, a segment of the voxels whose entropy reaches `bits`, and return its ID.

    It lies in a layer of its own over the others. Raises LookupError, one sentence.
    """
    entropyNode = segmentationNode.GetNodeReference(ENTROPY_ROLE)
    if entropyNode is None:
        raise LookupError(_("The entropy volume of this result was removed."))
    unsure = slicer.util.arrayFromVolume(entropyNode) >= bits
    if not unsure.any():
        raise LookupError(_("No voxel reaches {bits:.2f} bits; lower the threshold.").format(bits=bits))
    box = grids.boundingBox(unsure)
    image = grids.orientedImage(unsure[box], grids.ijkToRAS(entropyNode), grids.first(box))
    segmentation = segmentationNode.GetSegmentation()
    segment = segmentation.GetSegment(REVIEW_SEGMENT)
    if segment is None:
        segment = slicer.vtkSegment()
        segment.SetName(_("To review"))
        segment.SetColor(*REVIEW_COLOR)
        segment.AddRepresentation(BINARY, image)
        segmentation.AddSegment(segment, REVIEW_SEGMENT)
    else:
        segmentation.SeparateSegmentLabelmap(REVIEW_SEGMENT)
        segment.SetLabelValue(1)
        segment.AddRepresentation(BINARY, image)
    return REVIEW_SEGMENT
