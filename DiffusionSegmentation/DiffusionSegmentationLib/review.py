"""The review of a result: its uncertain regions one after the other, worst first, and what a person said of each.

The regions are those of the report, or those that were found since for another threshold, ranked by the volume that is
expected to be wrong. They and what was said of them are kept on the segmentation, and so are saved with the scene. The
region under review is outlined by a segmentation of its own, so that no layer of a slice view is taken for it.
"""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
import slicer.util

from . import display, grids
from .i18n import tr as _
from .ranking import Wish
from .scene import REGIONS_ROLE, RUN_ATTRIBUTE

OPEN, DONE, FLAGGED, SKIPPED = "open", "done", "flagged", "skipped"

REVIEW_ATTRIBUTE = "DiffusionSegmentation.Review"
REGIONS_ATTRIBUTE = "DiffusionSegmentation.Regions"
OUTLINE_ROLE = "DiffusionSegmentation.RegionOutline"
OUTLINE_SEGMENT = "region"
OUTLINE_COLOR = (0.0, 1.0, 1.0)
"""Cyan is in neither the entropy's colours nor those of the shipped model's structures."""


@dataclass(frozen=True)
class Region:
    """An uncertain region: `rank` from 1, `share` of all expected error, `classes` (name, mean probability)."""

    rank: int
    basin: int
    expectedErrorMl: float
    share: float
    volumeMl: float
    classes: tuple[tuple[str, float], ...]
    meanBits: float
    peakBits: float
    peakRAS: tuple[float, float, float]


class Review:
    """The regions of one segmentation node of ours, in which state they are, and the way to each.

    Objects of this class keep no state: all is in the scene.
    """

    def __init__(self, segmentationNode: slicer.vtkMRMLSegmentationNode) -> None:
        self.segmentationNode = segmentationNode
        self._scene = segmentationNode.GetScene()
        found = segmentationNode.GetAttribute(REGIONS_ATTRIBUTE)
        self._found = json.loads(found) if found else {}
        told = json.loads(segmentationNode.GetAttribute(RUN_ATTRIBUTE)).get("regions", [])
        self.regions = [
            Region(
                rank=rank,
                basin=entry["basin"],
                expectedErrorMl=entry["expected_error_ml"],
                share=entry["share"],
                volumeMl=entry["volume_ml"],
                classes=tuple((part["name"], part["share"]) for part in entry["classes"]),
                meanBits=entry["mean_entropy_bits"],
                peakBits=entry["peak_entropy_bits"],
                peakRAS=tuple(entry["peak_ras_mm"]),
            )
            for rank, entry in enumerate(self._found.get("regions", told), 1)
        ]

    @property
    def wish(self) -> Wish:
        """What the regions were asked for."""
        return Wish(**self._found["wish"]) if self._found else Wish()

    def replaceRegions(self, wish: Wish, found: list[dict[str, Any]]) -> "Review":
        """The review with the regions `found` for `wish`, worst first, as a Ranker tells them.

        What was said of a region stays with its basin. The region under review is left if it is not among them.
        """
        content = {"wish": dataclasses.asdict(wish), "regions": found}
        self.segmentationNode.SetAttribute(REGIONS_ATTRIBUTE, json.dumps(content, ensure_ascii=False))
        again = Review(self.segmentationNode)
        if self.current is not None and again.current is None:
            again.leave()
        return again

    def state(self, region: Region) -> str:
        """OPEN, DONE, FLAGGED or SKIPPED."""
        return self._said()["states"].get(str(region.basin), OPEN)

    @property
    def current(self) -> Region | None:
        """The region under review, or None."""
        basin = self._said()["current"]
        return next((region for region in self.regions if region.basin == basin), None)

    def mark(self, region: Region, state: str) -> None:
        """Say `state` of `region`."""
        said = self._said()
        said["states"][str(region.basin)] = state
        self._say(said)

    def left(self) -> tuple[int, float]:
        """How many regions are open, and which share of the whole expected error they hold."""
        rest = [region for region in self.regions if self.state(region) == OPEN]
        return len(rest), sum(region.share for region in rest)

    def next(self) -> Region | None:
        """The worst open region after the current one; behind the last, the worst open one of all. None if none is."""
        rest = [region for region in self.regions if self.state(region) == OPEN]
        at = self.current.rank if self.current else 0
        return next((region for region in rest if region.rank > at), rest[0] if rest else None)

    def goTo(self, region: Region) -> None:
        """Make `region` the current one: centre all slice and 3D views on its worst voxel and outline it."""
        said = self._said()
        said["current"] = region.basin
        self._say(said)
        world = [0.0, 0.0, 0.0]
        self.segmentationNode.TransformPointToWorld(region.peakRAS, world)
        slicer.vtkMRMLSliceNode.JumpAllSlices(self._scene, *world, slicer.vtkMRMLSliceNode.CenteredJumpSlice)
        for viewNode in display.nodesOfClass(self._scene, "vtkMRMLViewNode"):
            _lookAt(slicer.modules.cameras.logic().GetViewActiveCameraNode(viewNode), world)
        self._outline(region)

    def leave(self) -> None:
        """No region is under review any more: its outline goes, what was said stays."""
        said = self._said()
        said["current"] = None
        self._say(said)
        self.putAway()

    def takeUp(self) -> None:
        """Outline the current region again, as after `putAway` or in a scene that was opened."""
        if self.current is not None:
            self._outline(self.current)

    def putAway(self) -> None:
        """Take the outline out of the scene; which region is under review stays."""
        outlineNode = self.segmentationNode.GetNodeReference(OUTLINE_ROLE)
        if outlineNode is not None:
            display.removeNode(outlineNode)

    def _said(self) -> dict:
        text = self.segmentationNode.GetAttribute(REVIEW_ATTRIBUTE)
        return json.loads(text) if text else {"states": {}, "current": None}

    def _say(self, said: dict) -> None:
        self.segmentationNode.SetAttribute(REVIEW_ATTRIBUTE, json.dumps(said))

    def _outline(self, region: Region) -> None:
        regionsNode = self.segmentationNode.GetNodeReference(REGIONS_ROLE)
        if regionsNode is None or regionsNode.GetImageData() is None:
            return  # a person has removed it; the views stand at the right place all the same
        inside = slicer.util.arrayFromVolume(regionsNode) == region.basin
        box = grids.boundingBox(inside)
        if box is None:
            return
        image = grids.orientedImage(inside[box], grids.ijkToRAS(regionsNode), grids.first(box))
        outlineNode = self.segmentationNode.GetNodeReference(OUTLINE_ROLE) or self._makeOutline()
        segmentation = outlineNode.GetSegmentation()
        segment = slicer.vtkSegment()
        segment.SetName(_("Region {rank}").format(rank=region.rank))
        segment.SetColor(*OUTLINE_COLOR)
        segment.AddRepresentation(
            slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName(), image
        )
        segmentation.RemoveAllSegments()
        segmentation.AddSegment(segment, OUTLINE_SEGMENT)

    def _makeOutline(self) -> slicer.vtkMRMLSegmentationNode:
        outlineNode = display.addBeside(self.segmentationNode, _("{name} region"))
        self.segmentationNode.SetNodeReferenceID(OUTLINE_ROLE, outlineNode.GetID())
        return outlineNode


def _lookAt(cameraNode: slicer.vtkMRMLCameraNode | None, world: list[float]) -> None:
    """Move the camera so that it looks at `world` from the side and the distance that it had."""
    if cameraNode is not None:
        shift = np.subtract(world, cameraNode.GetFocalPoint())
        cameraNode.SetPosition(*(cameraNode.GetPosition() + shift))
        cameraNode.SetFocalPoint(*world)
        cameraNode.ResetClippingRange()
