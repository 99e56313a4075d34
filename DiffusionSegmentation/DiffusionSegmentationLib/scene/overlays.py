"""The uncertainty overlays of a result, one shown at a time: entropy, sample disagreement and mutual information.

They share opacity and threshold. The selection is stored on the segmentation node and saved with the scene. Review and
corrections always use the entropy, whichever overlay is shown.
"""

import slicer

from .display import Overlay
from .result_nodes import OVERLAY_FILES

LAYER_ATTRIBUTE = "DiffusionSegmentation.OverlayLayer"


def _shared(name: str) -> property:
    """The attribute `name` of the selected overlay; setting it sets that of all overlays."""

    def set_(self: "ResultOverlays", value: float) -> None:
        for overlay in self._overlays.values():
            setattr(overlay, name, value)

    return property(lambda self: getattr(self._overlays[self.chosen], name), set_)


class ResultOverlays:
    """The overlays of one segmentation node. Stateless: all state is in the scene."""

    def __init__(self, segmentationNode: slicer.vtkMRMLSegmentationNode) -> None:
        """`roles` are the node references of the existing overlays, entropy first."""
        self._segmentationNode = segmentationNode
        nodes = {role: segmentationNode.GetNodeReference(role) for role in OVERLAY_FILES}
        self._overlays = {role: Overlay(node) for role, node in nodes.items() if node is not None}
        self.roles = tuple(self._overlays)

    @property
    def chosen(self) -> str:
        """Role of the selected overlay, whether shown or not; that of the first one if its volume was removed."""
        role = self._segmentationNode.GetAttribute(LAYER_ATTRIBUTE)
        return role if role in self._overlays else self.roles[0]

    @chosen.setter
    def chosen(self, role: str) -> None:
        before, after = self._overlays[self.chosen], self._overlays[role]
        after.opacity, after.threshold = before.opacity, before.threshold
        after.replace(before)
        self._segmentationNode.SetAttribute(LAYER_ATTRIBUTE, role)

    @property
    def visible(self) -> bool:
        """Whether any slice view shows an overlay of the result."""
        return any(overlay.visible for overlay in self._overlays.values())

    def show(self) -> None:
        self._overlays[self.chosen].show()

    def hide(self) -> None:
        for overlay in self._overlays.values():
            overlay.hide()

    opacity = _shared("opacity")
    """Opacity, 0 to 1."""
    threshold = _shared("threshold")
    """Bits below which nothing is drawn."""
