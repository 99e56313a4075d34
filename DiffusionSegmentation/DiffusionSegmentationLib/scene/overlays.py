"""The overlays of a result, of which one is shown at a time: the entropy of its map, and where its samples differ.

Opacity and threshold are the same for both, so that a switch changes nothing but what is shown. Which one is chosen is
kept on the segmentation, and so is saved with the scene. Review and corrections go by the entropy of the map, whichever
is shown.
"""

import slicer

from .display import Overlay
from .result_nodes import DISAGREEMENT_ROLE, ENTROPY_ROLE

LAYER_ATTRIBUTE = "DiffusionSegmentation.OverlayLayer"


class Layers:
    """The overlays of one segmentation node of ours. Objects of this class keep no state: all is in the scene."""

    def __init__(self, segmentationNode: slicer.vtkMRMLSegmentationNode) -> None:
        """`roles` are those of the layers that are there, the entropy of the map first."""
        self._segmentationNode = segmentationNode
        nodes = {role: segmentationNode.GetNodeReference(role) for role in (ENTROPY_ROLE, DISAGREEMENT_ROLE)}
        self._overlays = {role: Overlay(node) for role, node in nodes.items() if node is not None}
        self.roles = tuple(self._overlays)

    @property
    def chosen(self) -> str:
        """The role of the layer that is shown, or would be. One that is gone makes way for the other."""
        role = self._segmentationNode.GetAttribute(LAYER_ATTRIBUTE)
        return role if role in self._overlays else self.roles[0]

    @chosen.setter
    def chosen(self, role: str) -> None:
        before, after = self._overlays[self.chosen], self._overlays[role]
        after.opacity, after.threshold = before.opacity, before.threshold
        after.takeOver(before)
        self._segmentationNode.SetAttribute(LAYER_ATTRIBUTE, role)

    @property
    def visible(self) -> bool:
        """True while a slice view shows a layer of the result."""
        return any(overlay.visible for overlay in self._overlays.values())

    def show(self) -> None:
        """Put the chosen layer into the slice views; Overlay.show says into which."""
        self._overlays[self.chosen].show()

    def hide(self) -> None:
        """Give the slice views back what they showed before."""
        for overlay in self._overlays.values():
            overlay.hide()

    @property
    def opacity(self) -> float:
        """Opacity of the layers, 0 to 1."""
        return self._overlays[self.chosen].opacity

    @opacity.setter
    def opacity(self, opacity: float) -> None:
        for overlay in self._overlays.values():
            overlay.opacity = opacity

    @property
    def threshold(self) -> float:
        """Bits below which nothing is drawn."""
        return self._overlays[self.chosen].threshold

    @threshold.setter
    def threshold(self, bits: float) -> None:
        for overlay in self._overlays.values():
            overlay.threshold = bits
