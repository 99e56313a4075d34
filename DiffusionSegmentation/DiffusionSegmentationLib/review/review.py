"""The review of a result: its uncertain regions one after the other, worst first, and what a person said of each.

The regions are those of the report, or those that were found since for another threshold, ranked by how much of them a
look can put right (`diffusion_segmentation.segmentation.uncertain_regions`). They and what was said of them are kept on
the segmentation, and so are saved with the scene. The region under review is outlined by a segmentation of its own, so
that no layer of a slice view is taken for it.
"""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
import slicer.util

from ..i18n import tr as _
from ..scene import display
from ..scene import voxel_grids as grids
from ..scene.framing import Framing
from ..scene.result_nodes import RUN_ATTRIBUTE, regionsVolume
from .ranking import Wish

OPEN, DONE, FLAGGED, SKIPPED = "open", "done", "flagged", "skipped"

REVIEW_ATTRIBUTE = "DiffusionSegmentation.Review"
REGIONS_ATTRIBUTE = "DiffusionSegmentation.Regions"
OUTLINE_ROLE = "DiffusionSegmentation.RegionOutline"
OUTLINE_SEGMENT = "region"
OUTLINE_COLOR = (0.0, 1.0, 1.0)
"""Cyan is in neither the entropy's colours nor those of the shipped model's structures."""
OUTLINE_PIXELS = 3
"""Thicker than those of the segments, among which it must be found."""
REACH_MM = 20.0
"""What is shown of a region whose size is not known."""


@dataclass(frozen=True)
class Region:
    """An uncertain region: `rank` from 1, `reviewableMl` of its expected error, `share` of all that can be reviewed,
    `classes` (name, mean probability)."""

    rank: int
    basin: int
    expectedErrorMl: float
    reviewableMl: float
    share: float
    volumeMl: float
    classes: tuple[tuple[str, float], ...]
    meanBits: float
    peakBits: float
    peakRAS: tuple[float, float, float]
    unlike: tuple[float, float] | None = None
    """Distance and limit, where it lies farther from the regions that the model was made for than it should."""


class Review:
    """The regions of one segmentation node of ours, in which state they are, and the way to each.

    Objects of this class keep no state: all is in the scene.
    """

    def __init__(self, segmentationNode: slicer.vtkMRMLSegmentationNode) -> None:
        self.segmentationNode = segmentationNode
        self._framing = Framing(segmentationNode)
        found = segmentationNode.GetAttribute(REGIONS_ATTRIBUTE)
        self._found = json.loads(found) if found else {}
        run = json.loads(segmentationNode.GetAttribute(RUN_ATTRIBUTE))
        told = self._found or run
        limit = run.get("region_limit")
        # A distance is a basin's: no threshold changes it, and what was found for another one does not tell it.
        distances = {entry["basin"]: entry["distance"] for entry in run.get("regions", []) if "distance" in entry}
        unlike = {basin: (value, limit) for basin, value in distances.items() if limit is not None and value > limit}
        self.regions = [
            Region(
                rank=rank,
                basin=entry["basin"],
                expectedErrorMl=entry["expected_error_ml"],
                reviewableMl=entry.get("reviewable_ml", entry["expected_error_ml"]),
                share=entry["share"],
                volumeMl=entry["volume_ml"],
                classes=tuple((part["name"], part["share"]) for part in entry["classes"]),
                meanBits=entry["mean_entropy_bits"],
                peakBits=entry["peak_entropy_bits"],
                peakRAS=tuple(entry["peak_ras_mm"]),
                unlike=unlike.get(entry["basin"]),
            )
            for rank, entry in enumerate(told.get("regions", []), 1)
        ]
        self.expectedErrorMl: float | None = told.get("expected_error_ml")
        """Of the whole volume, and the part of it that can be reviewed; None in reports up to version 0.4."""
        self.reviewableMl: float | None = told.get("reviewable_ml")

    @property
    def wish(self) -> Wish:
        """What the regions were asked for."""
        return Wish(**self._found["wish"]) if self._found else Wish()

    def replaceRegions(self, wish: Wish, found: dict[str, Any]) -> "Review":
        """The review with what was `found` for `wish`, as a Ranker tells it.

        What was said of a region stays with its basin. The region under review is left if it is not among them.
        """
        content = {"wish": dataclasses.asdict(wish), **found}
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
        """How many regions are open, and which share they hold of all that can be reviewed."""
        rest = [region for region in self.regions if self.state(region) == OPEN]
        return len(rest), sum(region.share for region in rest)

    def next(self) -> Region | None:
        """The worst open region after the current one; behind the last, the worst open one of all. None if none is."""
        rest = [region for region in self.regions if self.state(region) == OPEN]
        at = self.current.rank if self.current else 0
        return next((region for region in rest if region.rank > at), rest[0] if rest else None)

    def goTo(self, region: Region) -> None:
        """Make `region` the current one: outline it, and let all views show it, from its worst voxel in the middle."""
        said = self._said()
        said["current"] = region.basin
        self._say(said)
        world = [0.0, 0.0, 0.0]
        self.segmentationNode.TransformPointToWorld(region.peakRAS, world)
        image = self._outline(region)
        self._framing.show(world, REACH_MM if image is None else self._reach(image, world))

    def leave(self) -> None:
        """No region is under review any more: its outline goes, the views are as before, what was said stays."""
        said = self._said()
        said["current"] = None
        self._say(said)
        self.putAway()

    def takeUp(self) -> None:
        """Outline the current region again, as after `putAway` or in a scene that was opened."""
        if self.current is not None:
            self._outline(self.current)

    def putAway(self) -> None:
        """Take the outline out of the scene and give the views back; which region is under review stays."""
        self._framing.giveBack()
        outlineNode = self.segmentationNode.GetNodeReference(OUTLINE_ROLE)
        if outlineNode is not None:
            display.removeNode(outlineNode)

    def _said(self) -> dict:
        text = self.segmentationNode.GetAttribute(REVIEW_ATTRIBUTE)
        return json.loads(text) if text else {"states": {}, "current": None}

    def _say(self, said: dict) -> None:
        self.segmentationNode.SetAttribute(REVIEW_ATTRIBUTE, json.dumps(said))

    def _reach(self, image: Any, world: list[float]) -> float:
        """How far, in mm along an axis of the world, the segment `image` reaches from `world`."""
        extent = np.array(image.GetExtent(), float) + np.tile([-0.5, 0.5], 3)
        corners = np.stack([*np.meshgrid(*extent.reshape(3, 2)), np.ones((2, 2, 2))]).reshape(4, -1)
        places = grids.toWorld(self.segmentationNode) @ grids.imageToRAS(image) @ corners
        return float(np.abs(places[:3] - np.array(world)[:, None]).max())

    def _outline(self, region: Region) -> Any:
        """Outline `region`; returns the vtkOrientedImageData of it, or None where there is none."""
        regionsNode = regionsVolume(self.segmentationNode)
        if regionsNode is None:
            return None  # a person has removed it; the views stand at the right place all the same
        inside = slicer.util.arrayFromVolume(regionsNode) == region.basin
        box = grids.boundingBox(inside)
        if box is None:
            return None
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
        return image

    def _makeOutline(self) -> slicer.vtkMRMLSegmentationNode:
        outlineNode = display.addBeside(self.segmentationNode, _("{name} region"))
        outlineNode.GetDisplayNode().SetSliceIntersectionThickness(OUTLINE_PIXELS)
        self.segmentationNode.SetNodeReferenceID(OUTLINE_ROLE, outlineNode.GetID())
        return outlineNode
