"""Review of a result: its uncertain regions, worst first, and the reviewer's decision on each.

The regions are those of the report or of a Ranker, ranked by their reviewable error (see
`diffusion_segmentation.segmentation.uncertain_regions`). Regions and decisions are stored on the segmentation node and
saved with the scene. The current region is outlined by a separate segmentation, which uses no layer of the slice views.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import slicer.util

from ..i18n import tr as _
from ..scene import display, framing, voxel_grids
from ..scene.result_nodes import regionsVolume, reportOf
from ..scene.units import Unit
from .ranking import RegionCriteria

OPEN, DONE, FLAGGED, SKIPPED = "open", "done", "flagged", "skipped"

REVIEW_ATTRIBUTE = "DiffusionSegmentation.Review"
REGIONS_ATTRIBUTE = "DiffusionSegmentation.Regions"
OUTLINE_ROLE = "DiffusionSegmentation.RegionOutline"
OUTLINE_SEGMENT = "region"
OUTLINE_COLOR = (0.0, 1.0, 1.0)
"""Cyan occurs neither in the entropy colors nor in the structures of the shipped model."""
OUTLINE_PIXELS = 3
"""Width of the outline: thicker than those of the segments."""
DEFAULT_REACH_MM = 20.0
"""Distance shown around a region of unknown size."""


Region = Mapping[str, Any]
"""An uncertain region: its entry in the report, with `rank` from 1, and `unlike`: (feature distance from the regions
of the training data, limit), or None within the limit. `basin` is its number in the label map of regions. Sizes have
keys without the unit: `volume`, `expected_error`, and `reviewable`, the part of it that can be reviewed; `share` (0 to
1) is its share of that of all regions."""


class Review:
    """The regions of one segmentation node, their states, and navigation. Stateless: all state is in the scene."""

    def __init__(self, segmentationNode: slicer.vtkMRMLSegmentationNode) -> None:
        self.segmentationNode = segmentationNode
        run = reportOf(segmentationNode)
        text = segmentationNode.GetAttribute(REGIONS_ATTRIBUTE)
        ranked = json.loads(text) if text else run
        self.criteria = RegionCriteria(**ranked["wish"]) if text else RegionCriteria()
        """The criteria of the regions."""
        limit = run.get("region_limit")
        # Only the report has distances; they do not depend on the threshold.
        distances = {entry["basin"]: entry["distance"] for entry in run.get("regions", []) if "distance" in entry}
        unlike = {basin: (value, limit) for basin, value in distances.items() if limit is not None and value > limit}
        self.unit = unit = Unit.of(run)
        self.regions: list[Region] = [
            {**entry, **_sizes(entry, unit), "rank": rank, "unlike": unlike.get(entry["basin"])}
            for rank, entry in enumerate(ranked.get("regions", []), 1)
        ]
        self.expectedError: float | None = ranked.get(unit.key("expected_error"))
        """Expected error of the whole volume and its reviewable part, in `unit`; None in reports up to version 0.4."""
        self.reviewable: float | None = ranked.get(unit.key("reviewable"))

    def replaceRegions(self, criteria: RegionCriteria, regions: dict[str, Any]) -> "Review":
        """The review with the `regions` that a Ranker has computed for `criteria`.

        States are kept by region number. The current region is left if it is not among them.
        """
        content = {"wish": dataclasses.asdict(criteria), **regions}
        self.segmentationNode.SetAttribute(REGIONS_ATTRIBUTE, json.dumps(content, ensure_ascii=False))
        updated = Review(self.segmentationNode)
        if self.current is not None and updated.current is None:
            updated.leave()
        return updated

    def state(self, region: Region) -> str:
        """OPEN, DONE, FLAGGED or SKIPPED."""
        return self._stored()["states"].get(str(region["basin"]), OPEN)

    @property
    def current(self) -> Region | None:
        basin = self._stored()["current"]
        return next((region for region in self.regions if region["basin"] == basin), None)

    def mark(self, region: Region, state: str) -> None:
        self._store(states=self._stored()["states"] | {str(region["basin"]): state})

    def remaining(self) -> tuple[int, float]:
        """Number of open regions, and their share (0 to 1) of the reviewable error."""
        regions = self._open()
        return len(regions), sum(region["share"] for region in regions)

    def next(self) -> Region | None:
        """The next open region after the current one, starting again at the worst one; None if none is open."""
        regions = self._open()
        rank = self.current["rank"] if self.current else 0
        return next((region for region in regions if region["rank"] > rank), regions[0] if regions else None)

    def goTo(self, region: Region) -> None:
        """Make `region` the current one, outline it, and center all views on its most uncertain voxel."""
        self._store(current=region["basin"])
        world = [0.0, 0.0, 0.0]
        self.segmentationNode.TransformPointToWorld(region["peak_ras_mm"], world)
        image = self._outline(region)
        reach = DEFAULT_REACH_MM if image is None else self._reach(image, world)
        framing.showPlace(self.segmentationNode, world, reach)

    def leave(self) -> None:
        """Leave the current region: remove its outline and restore the views; states are kept."""
        self._store(current=None)
        self.hideOutline()

    def showOutline(self) -> None:
        """Outline the current region again, after `hideOutline` or in a reopened scene."""
        if self.current is not None:
            self._outline(self.current)

    def hideOutline(self) -> None:
        """Remove the outline and restore the views; the current region is kept."""
        framing.restoreViews(self.segmentationNode)
        display.removeNode(self.segmentationNode.GetNodeReference(OUTLINE_ROLE))

    def _open(self) -> list[Region]:
        return [region for region in self.regions if self.state(region) == OPEN]

    def _stored(self) -> dict:
        text = self.segmentationNode.GetAttribute(REVIEW_ATTRIBUTE)
        return json.loads(text) if text else {"states": {}, "current": None}

    def _store(self, **values: Any) -> None:
        self.segmentationNode.SetAttribute(REVIEW_ATTRIBUTE, json.dumps(self._stored() | values))

    def _reach(self, image: Any, world: list[float]) -> float:
        """Largest distance (mm, along a world axis) of the segment `image` from `world`."""
        half = 0.0 if self.unit.isArea else 0.5  # the thickness of a picture has no meaning
        extent = np.add(image.GetExtent(), [-0.5, 0.5, -0.5, 0.5, -half, half])
        corners = np.stack([*np.meshgrid(*extent.reshape(3, 2)), np.ones((2, 2, 2))]).reshape(4, -1)
        points = voxel_grids.toWorld(self.segmentationNode) @ voxel_grids.imageToRAS(image) @ corners
        return float(np.abs(points[:3] - np.array(world)[:, None]).max())

    def _outline(self, region: Region) -> Any:
        """Outline `region`; returns its vtkOrientedImageData, or None if the regions were removed."""
        regionsNode = regionsVolume(self.segmentationNode)
        if regionsNode is None:
            return None
        mask = slicer.util.arrayFromVolume(regionsNode) == region["basin"]
        image = voxel_grids.croppedImage(mask, voxel_grids.ijkToRAS(regionsNode))
        if image is None:
            return None
        outlineNode = self.segmentationNode.GetNodeReference(OUTLINE_ROLE)
        if outlineNode is None:
            outlineNode = display.addTemporarySegmentation(self.segmentationNode, OUTLINE_ROLE, _("{name} region"))
            outlineNode.GetDisplayNode().SetSliceIntersectionThickness(OUTLINE_PIXELS)
        segment = voxel_grids.segment(_("Region {rank}").format(rank=region["rank"]), OUTLINE_COLOR, image)
        segmentation = outlineNode.GetSegmentation()
        segmentation.RemoveAllSegments()
        segmentation.AddSegment(segment, OUTLINE_SEGMENT)
        return image


def _sizes(entry: Mapping[str, Any], unit: Unit) -> dict[str, float]:
    """The sizes of a region in the report; the reviewable error is the expected one in reports up to version 0.4."""
    error = entry[unit.key("expected_error")]
    reviewable = entry.get(unit.key("reviewable"), error)
    return {"expected_error": error, "reviewable": reviewable, "volume": entry[unit.key("volume")]}
