"""Removal of results: their nodes are removed one by one, and the panel is refreshed only at the end."""

import slicer

from ..review.updates import formerOf
from ..scene.display import VOLUME_ROLE
from ..scene.overlays import ResultOverlays
from ..scene.result_nodes import removeResult, resultsOf


class Removal:
    """`active` is true while nodes are removed."""

    def __init__(self) -> None:
        self.active = False

    def remove(self, segmentation: slicer.vtkMRMLSegmentationNode) -> None:
        self.active = True
        try:
            removeResult(segmentation)
        finally:
            self.active = False

    def goBack(self, segmentation: slicer.vtkMRMLSegmentationNode) -> slicer.vtkMRMLSegmentationNode | None:
        """Remove `segmentation` and show the one that it is an update of, or the one before it of the same volume.

        Returns that, or None. The overlay of a result that was updated is shown if that of the update was.
        """
        volumeNode, former = segmentation.GetNodeReference(VOLUME_ROLE), formerOf(segmentation)
        overlays = ResultOverlays(segmentation)
        wasVisible = overlays.visible
        overlays.hide()
        self.remove(segmentation)
        earlier = former or next(reversed(resultsOf(volumeNode)), None) if volumeNode else former
        if earlier is not None:
            earlier.SetDisplayVisibility(True)
        if former is not None and wasVisible and ResultOverlays(former).roles:
            ResultOverlays(former).show()
        return earlier
