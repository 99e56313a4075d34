"""Updates of a result: the updated one takes over what the user has set, and refers to the one before it.

The former result stays in the scene, hidden, so that an update can be undone in one step, also in a reopened scene.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import slicer.util

from ..scene import answers, voxel_grids
from ..scene.contours import CONTOURS_ATTRIBUTE
from ..scene.overlays import ResultOverlays
from ..scene.result_nodes import regionsVolume
from .corrections import UNCERTAIN_ONLY_ATTRIBUTE
from .review import FLAGGED, REVIEW_ATTRIBUTE, SKIPPED, Review

FORMER_ROLE = "DiffusionSegmentationFormer"
"""Reference to the segmentation before the update. Nodes of roles that start with "DiffusionSegmentation." are parts of
a result and removed with it; this one is not."""
ROUNDS_ATTRIBUTE = "DiffusionSegmentation.Rounds"
"""Attribute of an updated segmentation: a list with what became facts in each round, as JSON."""
KEPT_ATTRIBUTES = (CONTOURS_ATTRIBUTE, UNCERTAIN_ONLY_ATTRIBUTE)


def formerOf(segmentationNode: slicer.vtkMRMLSegmentationNode | None) -> slicer.vtkMRMLSegmentationNode | None:
    """The result that `segmentationNode` is an update of, or None if it is none or that result was removed."""
    return segmentationNode.GetNodeReference(FORMER_ROLE) if segmentationNode is not None else None


def roundsOf(segmentationNode: slicer.vtkMRMLSegmentationNode) -> list[dict[str, int]]:
    """What became facts in each round: `edited_voxels`, `done_regions`, and `voxels` of all facts then."""
    return json.loads(segmentationNode.GetAttribute(ROUNDS_ATTRIBUTE) or "[]")


def carryOver(
    former: slicer.vtkMRMLSegmentationNode, updated: slicer.vtkMRMLSegmentationNode, numbers: Mapping[str, int]
) -> None:
    """Give `updated` the looks, the user's own segments, open decisions and questions of `former`, and refer to it.

    `numbers` is the entry of the round, see `roundsOf`. `former` is not changed.
    """
    updated.SetNodeReferenceID(FORMER_ROLE, former.GetID())
    updated.SetAttribute(ROUNDS_ATTRIBUTE, json.dumps([*roundsOf(former), dict(numbers)]))
    for name in KEPT_ATTRIBUTES:
        if former.GetAttribute(name) is not None:
            updated.SetAttribute(name, former.GetAttribute(name))
    _carrySegments(former, updated)
    _carryOverlays(former, updated)
    _carryDecisions(former, updated)
    answers.carryOver(former, updated)


def _carrySegments(former: slicer.vtkMRMLSegmentationNode, updated: slicer.vtkMRMLSegmentationNode) -> None:
    """Names, colours and visibility of the model's segments, those that were removed, and the user's own segments."""
    source, target = former.GetSegmentation(), updated.GetSegmentation()
    shown, display = former.GetDisplayNode(), updated.GetDisplayNode()
    for segmentID in target.GetSegmentIDs():
        segment = source.GetSegment(segmentID)
        if segment is None:
            target.RemoveSegment(segmentID)
            continue
        target.GetSegment(segmentID).SetName(segment.GetName())
        target.GetSegment(segmentID).SetColor(*segment.GetColor())
    for segmentID in source.GetSegmentIDs():
        if target.GetSegment(segmentID) is None:
            target.CopySegmentFromSegmentation(source, segmentID)
    if shown is None or display is None:
        return
    for segmentID in target.GetSegmentIDs():
        display.SetSegmentVisibility(segmentID, shown.GetSegmentVisibility(segmentID))
    display.SetVisibility2DFill(shown.GetVisibility2DFill())
    display.SetVisibility2DOutline(shown.GetVisibility2DOutline())
    display.SetSliceIntersectionThickness(shown.GetSliceIntersectionThickness())


def _carryOverlays(former: slicer.vtkMRMLSegmentationNode, updated: slicer.vtkMRMLSegmentationNode) -> None:
    before, after = ResultOverlays(former), ResultOverlays(updated)
    if before.roles and after.roles:
        after.opacity, after.threshold = before.opacity, before.threshold


def _carryDecisions(former: slicer.vtkMRMLSegmentationNode, updated: slicer.vtkMRMLSegmentationNode) -> None:
    """Regions with their peak in a region that was flagged or skipped are so, too; those done have no entropy now."""
    regionsNode, before, after = regionsVolume(former), Review(former), Review(updated)
    if regionsNode is None:
        return
    basins, states = slicer.util.arrayFromVolume(regionsNode), {}
    rasToIJK = np.linalg.inv(voxel_grids.ijkToRAS(regionsNode))
    decided: dict[int, Any] = {region["basin"]: before.state(region) for region in before.regions}
    for region in after.regions:
        i, j, k = np.rint((rasToIJK @ [*region["peak_ras_mm"], 1.0])[:3]).astype(int)
        isInside = all(0 <= index < size for index, size in zip((k, j, i), basins.shape, strict=True))
        state = decided.get(int(basins[k, j, i])) if isInside else None
        if state in (FLAGGED, SKIPPED):
            states[str(region["basin"])] = state
    updated.SetAttribute(REVIEW_ATTRIBUTE, json.dumps({"states": states, "current": None}))
