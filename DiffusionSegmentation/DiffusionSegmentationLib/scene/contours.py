"""Inner and outer contour of each structure: around what surely belongs to it, and around what possibly does.

They come from the class probabilities in the scene and follow no manual edits. Slicer draws a temporary segmentation
with two segments for each structure that the result shows: both as outlines, the inner also slightly filled, so that
they can be told apart. Whether they are shown is saved with the scene; the segmentation is not.

Drawing takes about half a second on a head, so it is done in steps, one for each structure.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import slicer.util

from ..i18n import tr as _
from . import display, sequences, voxel_grids
from .result_nodes import PROBABILITIES_ROLE, reportOf

CONTOURS_ATTRIBUTE = "DiffusionSegmentation.ContoursShown"
CONTOURS_ROLE = "DiffusionSegmentation.Contours"
LEVELS = {"inner": 0.95, "outer": 0.05}
"""Least probability inside each contour, for reports of version 0.4 and older, which state none."""
INNER_FILL = 0.25
"""Opacity of the filled inner parts, which the overlay does not cover: their entropy is low."""


class Contours:
    """The contours of one segmentation node. Stateless: all state is in the scene."""

    def __init__(self, segmentationNode: slicer.vtkMRMLSegmentationNode) -> None:
        self._segmentationNode = segmentationNode

    @property
    def missing(self) -> str | None:
        """Why they cannot be drawn, one sentence, or None."""
        if self._segmentationNode.GetNodeReference(PROBABILITIES_ROLE) is None:
            return _("The class probabilities of this result were removed.")
        return None

    @property
    def chosen(self) -> bool:
        """Whether the user wants to see them."""
        return self._segmentationNode.GetAttribute(CONTOURS_ATTRIBUTE) == "1"

    @chosen.setter
    def chosen(self, on: bool) -> None:
        """Choose them, for the next `draw`, or remove them."""
        self._segmentationNode.SetAttribute(CONTOURS_ATTRIBUTE, "1" if on else "0")
        if not on:
            self.hide()

    def draw(self) -> None:
        """All steps of `drawSteps` at once."""
        for _step in self.drawSteps():
            pass

    def hide(self) -> None:
        """Remove them from the scene; the choice is kept."""
        display.removeNode(self._segmentationNode.GetNodeReference(CONTOURS_ROLE))

    def drawSteps(self) -> Iterator[None]:
        """If they are chosen, draw those of the shown structures that are not drawn, and hide those of hidden ones.

        Yields before each structure that it draws. To be called again when the display of the result changes; a call
        that has not ended may be dropped.
        """
        if not self.chosen or self.missing:
            return
        node = self._segmentationNode.GetNodeReference(CONTOURS_ROLE)
        if node is None:
            node = display.addTemporarySegmentation(self._segmentationNode, CONTOURS_ROLE, _("{name} contours"))
            node.GetDisplayNode().SetVisibility2DFill(True)
        report, drawn, waiting = reportOf(self._segmentationNode), node.GetDisplayNode(), []
        levels = report.get("contours", LEVELS)
        drawn.SetVisibility(self._segmentationNode.GetDisplayNode().GetVisibility())
        for entry in report["volumes"]:
            isShown = self._isShown(entry["id"])
            segmentIDs = [f"{entry['id']}_{contour}" for contour in levels]
            present = [segmentID for segmentID in segmentIDs if node.GetSegmentation().GetSegment(segmentID)]
            for segmentID in present:
                drawn.SetSegmentVisibility(segmentID, isShown)
            if isShown and not present:
                waiting.append(entry)
        for entry in waiting:
            yield
            if self._segmentationNode.GetNodeReference(CONTOURS_ROLE) is not node:
                return
            if self._isShown(entry["id"]):
                self._draw(node, entry, levels)

    def _isShown(self, segmentID: str) -> bool:
        segment = self._segmentationNode.GetSegmentation().GetSegment(segmentID)
        return segment is not None and bool(self._segmentationNode.GetDisplayNode().GetSegmentVisibility(segmentID))

    def _draw(
        self, node: slicer.vtkMRMLSegmentationNode, entry: Mapping[str, Any], levels: Mapping[str, float]
    ) -> None:
        """Draw the contours of the structure with the `entry` in the report."""
        probabilitiesNode = self._segmentationNode.GetNodeReference(PROBABILITIES_ROLE)
        probability = sequences.arrays(probabilitiesNode)[entry["label"]]
        matrix = voxel_grids.ijkToRAS(probabilitiesNode.GetNthDataNode(0))
        titles = {"inner": _("{name}, surely"), "outer": _("{name}, possibly")}
        segment, drawn = self._segmentationNode.GetSegmentation().GetSegment(entry["id"]), node.GetDisplayNode()
        for contour, level in levels.items():
            # Stored as uint8, where 255 is 1.
            image = voxel_grids.croppedImage(probability >= 255 * level, matrix)
            if image is None:
                continue
            segmentID, title = f"{entry['id']}_{contour}", titles[contour].format(name=segment.GetName())
            node.GetSegmentation().AddSegment(voxel_grids.segment(title, segment.GetColor(), image), segmentID)
            drawn.SetSegmentVisibility2DFill(segmentID, contour == "inner")
            drawn.SetSegmentOpacity2DFill(segmentID, INNER_FILL)
