"""Inner and outer contour of each structure: around what surely belongs to it, and around what possibly does.

They come from the class probabilities in the scene and follow no manual edits. Slicer draws a temporary segmentation
with two segments for each structure that the result shows: both as outlines, the inner also slightly filled, so that
they can be told apart. Whether they are shown is saved with the scene; the segmentation is not.
"""

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
        self._segmentationNode.SetAttribute(CONTOURS_ATTRIBUTE, "1" if on else "0")
        self.restore() if on else self.hide()

    def restore(self) -> None:
        """Draw them if they are chosen and not drawn, as after `hide` or in a reopened scene."""
        if self.chosen and not self.missing and self._segmentationNode.GetNodeReference(CONTOURS_ROLE) is None:
            self._draw()

    def hide(self) -> None:
        """Remove them from the scene; the choice is kept."""
        display.removeNode(self._segmentationNode.GetNodeReference(CONTOURS_ROLE))

    def _draw(self) -> None:
        report = reportOf(self._segmentationNode)
        probabilitiesNode = self._segmentationNode.GetNodeReference(PROBABILITIES_ROLE)
        probabilities = sequences.arrays(probabilitiesNode)
        matrix = voxel_grids.ijkToRAS(probabilitiesNode.GetNthDataNode(0))
        node = display.addTemporarySegmentation(self._segmentationNode, CONTOURS_ROLE, _("{name} contours"))
        titles = {"inner": _("{name}, surely"), "outer": _("{name}, possibly")}
        shown, drawn = self._segmentationNode.GetDisplayNode(), node.GetDisplayNode()
        drawn.SetVisibility2DFill(True)
        for entry in report["volumes"]:
            segment = self._segmentationNode.GetSegmentation().GetSegment(entry["id"])
            if segment is None or not shown.GetSegmentVisibility(entry["id"]):
                continue
            for contour, level in report.get("contours", LEVELS).items():
                # Stored as uint8, where 255 is 1.
                image = voxel_grids.croppedImage(probabilities[entry["label"]] >= 255 * level, matrix)
                if image is None:
                    continue
                segmentID, title = f"{entry['id']}_{contour}", titles[contour].format(name=segment.GetName())
                node.GetSegmentation().AddSegment(voxel_grids.segment(title, segment.GetColor(), image), segmentID)
                drawn.SetSegmentVisibility2DFill(segmentID, contour == "inner")
                drawn.SetSegmentOpacity2DFill(segmentID, INNER_FILL)
