"""Corrections: labels of a sample in a selected place, and a segment of the uncertain voxels."""

import numpy as np
import slicer.util

from ..i18n import tr as _
from ..scene import voxel_grids
from ..scene.label_map import Labels
from ..scene.result_nodes import ENTROPY_ROLE, SAMPLES_ROLE, regionsVolume

UNCERTAIN_ONLY_ATTRIBUTE = "DiffusionSegmentation.UnsureOnly"
REVIEW_SEGMENT = "to_review"
REVIEW_COLOR = (1.0, 0.85, 0.0)


def hasEdits(
    segmentationNode: slicer.vtkMRMLSegmentationNode, former: slicer.vtkMRMLSegmentationNode | None = None
) -> bool:
    """Whether voxels were edited since the result was computed, or segments added; true if that cannot be told.

    With `former`, the result before an update, also whether segments were removed, and whether the voxels of segments
    that are not the model's differ from those in `former`, from which they were copied.
    """
    try:
        labels = Labels(segmentationNode)
        own = _ownSegments(segmentationNode, labels)
        if former is None:
            return bool(own) or labels.edited() > 0
        before, removed = Labels(former), set(labels.removed)
        ownBefore = _ownSegments(former, before)
        if own.keys() != ownBefore.keys() or removed != set(before.removed):
            return True
        if any(not _areEqual(segment, ownBefore[segmentID]) for segmentID, segment in own.items()):
            return True
        return labels.edited(removed=removed) > 0
    except LookupError:  # a part of the result was removed, or lies on another grid
        return True


def _ownSegments(segmentationNode: slicer.vtkMRMLSegmentationNode, labels: Labels) -> dict[str, slicer.vtkSegment]:
    """The segments by ID that the user has added."""
    segmentation, others = segmentationNode.GetSegmentation(), {*labels.segmentIDs.values(), REVIEW_SEGMENT}
    return {one: segmentation.GetSegment(one) for one in segmentation.GetSegmentIDs() if one not in others}


def _areEqual(one: slicer.vtkSegment, other: slicer.vtkSegment) -> bool:
    """Whether two segments have the same voxels, whatever part of the volume their images cover."""
    first, second = map(voxel_grids.segmentVoxels, (one, other))
    if first is None or second is None:
        return first is second and one.GetRepresentation("Closed surface") is None
    return np.allclose(first[1], second[1], atol=1e-3) and np.array_equal(first[0], second[0])


def useSample(segmentationNode: slicer.vtkMRMLSegmentationNode, index: int, mask: np.ndarray) -> int:
    """Replace the segments where `mask` [k, j, i] (on the block of the result) by sample `index` (from 0).

    Returns the number of changed voxels. Raises LookupError, one sentence, before anything is changed.
    """
    samplesNode = segmentationNode.GetNodeReference(SAMPLES_ROLE)
    if samplesNode is None:
        raise LookupError(_("The samples of this result were removed."))
    return Labels(segmentationNode).write(slicer.util.arrayFromVolume(samplesNode.GetNthDataNode(index)), mask)


def regionMask(segmentationNode: slicer.vtkMRMLSegmentationNode, basin: int) -> np.ndarray:
    """Mask of an uncertain region by its number, bool [k, j, i] on the block. Raises LookupError, one sentence."""
    regionsNode = regionsVolume(segmentationNode)
    if regionsNode is None:
        raise LookupError(_("The regions of this result were removed."))
    return slicer.util.arrayFromVolume(regionsNode) == basin


def roiMask(segmentationNode: slicer.vtkMRMLSegmentationNode, roiNode: slicer.vtkMRMLMarkupsROINode) -> np.ndarray:
    """Mask of the voxels whose centers are in `roiNode`, a box of any orientation. Otherwise as regionMask."""
    labels = Labels(segmentationNode)
    objectToWorld = slicer.util.arrayFromVTKMatrix(roiNode.GetObjectToWorldMatrix())
    parentNode = segmentationNode.GetParentTransformNode()
    if parentNode is not None and not parentNode.IsTransformToWorldLinear():
        raise LookupError(_("The result is under a non-linear transform; use a region instead."))
    ijkToBox = np.linalg.solve(objectToWorld, voxel_grids.toWorld(segmentationNode) @ labels.ijkToRAS)
    k, j, i = np.ogrid[tuple(slice(n) for n in labels.shape)]
    mask = np.ones(labels.shape, bool)
    for (a, b, c, d), size in zip(ijkToBox[:3], roiNode.GetSize(), strict=True):
        mask &= np.abs(a * i + b * j + c * k + d) <= size / 2
    return mask


def segmentMask(segmentationNode: slicer.vtkMRMLSegmentationNode, segmentID: str) -> np.ndarray:
    """Mask of a segment, for example a painted one. Otherwise as regionMask."""
    labels = Labels(segmentationNode)
    image = slicer.vtkOrientedImageData()
    segmentationNode.GetBinaryLabelmapRepresentation(segmentID, image)
    geometry = voxel_grids.orientedImage(np.zeros(labels.shape, np.uint8), labels.ijkToRAS)
    resampled = slicer.vtkOrientedImageData()
    slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(image, geometry, resampled)
    return voxel_grids.imageArray(resampled) > 0


def makeReviewSegment(segmentationNode: slicer.vtkMRMLSegmentationNode, bits: float) -> str:
    """Create or update a segment of the voxels with an entropy of at least `bits`; returns its ID.

    It has its own labelmap and overlaps the others. Raises LookupError, one sentence.
    """
    entropyNode = segmentationNode.GetNodeReference(ENTROPY_ROLE)
    if entropyNode is None:
        raise LookupError(_("The entropy volume of this result was removed."))
    uncertain = slicer.util.arrayFromVolume(entropyNode) >= bits
    image = voxel_grids.croppedImage(uncertain, voxel_grids.ijkToRAS(entropyNode))
    if image is None:
        raise LookupError(_("No voxel reaches {bits:.2f} bits; lower the threshold.").format(bits=bits))
    segmentation = segmentationNode.GetSegmentation()
    segment = segmentation.GetSegment(REVIEW_SEGMENT)
    if segment is None:
        segmentation.AddSegment(voxel_grids.segment(_("To review"), REVIEW_COLOR, image), REVIEW_SEGMENT)
    else:
        segmentation.SeparateSegmentLabelmap(REVIEW_SEGMENT)
        segment.SetLabelValue(1)
        segment.AddRepresentation(voxel_grids.BINARY_LABELMAP, image)
    return REVIEW_SEGMENT
