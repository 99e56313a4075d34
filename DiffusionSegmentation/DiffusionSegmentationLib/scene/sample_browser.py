"""The samples of a result, one at a time, in a selectable order.

A sample is filled and the result outlined, both in the colors of the segments, so that differences stand out. It is
shown as a whole or only inside an uncertain region. Position and order are stored on the segmentation node and saved
with the scene.
"""

import json

import numpy as np
import slicer.util

from ..i18n import tr as _
from . import display, voxel_grids
from .result_nodes import SAMPLES_ROLE, reportOf
from .volumes import Sizes

BROWSER_ATTRIBUTE = "DiffusionSegmentation.Browser"
SAMPLE_ROLE = "DiffusionSegmentation.ShownSample"
AS_DRAWN, MOST_SIMILAR = "drawn", "alike"
SAMPLE_OPACITY = 0.35


class Browser:
    """Shows the samples of one segmentation node. Stateless: all state is in the scene."""

    def __init__(self, segmentationNode: slicer.vtkMRMLSegmentationNode) -> None:
        self.segmentationNode = segmentationNode
        self.report = reportOf(segmentationNode)
        self._samplesNode = segmentationNode.GetNodeReference(SAMPLES_ROLE)
        self.dice: list[float] = self.report.get("samples_dice") or []
        """Dice of each sample with the consensus, averaged over the segments; empty if the report has none."""
        sizes = Sizes(self.report)
        self.unit = sizes.unit
        self.sizes: dict[str, list[float]] = {segment["id"]: sizes.samples(segment) for segment in sizes.segments}
        """Sizes of each segment in the samples, by segment ID, which is also the key of an order."""

    @property
    def count(self) -> int:
        """Number of stored samples; 0 if the user has removed them."""
        return self._samplesNode.GetNumberOfDataNodes() if self._samplesNode else 0

    def orders(self) -> dict[str, str]:
        """Titles of the sort orders by key: AS_DRAWN, MOST_SIMILAR (to the result), or a segment ID for its size."""
        titles = {AS_DRAWN: _("as drawn")}
        if self.dice:
            titles[MOST_SIMILAR] = _("most similar to the result first")
        bySize = self.unit.either(_("by volume of {name}"), _("by area of {name}"))
        return titles | {entry["id"]: bySize.format(name=entry["name"]) for entry in self.report["volumes"]}

    @property
    def order(self) -> str:
        return self._state()["order"]

    @order.setter
    def order(self, key: str) -> None:
        self._setState(order=key)

    def index(self, position: int) -> int:
        """Number (from 0, as drawn) of the sample at `position` of the order."""
        keys = {MOST_SIMILAR: [-dice for dice in self.dice], **self.sizes}.get(self.order)
        return sorted(range(self.count), key=keys.__getitem__)[position] if keys else position

    @property
    def position(self) -> int:
        """Current position in the order."""
        return min(self._state()["position"], max(self.count - 1, 0))

    @property
    def shown(self) -> int | None:
        """Number (from 0, as drawn) of the sample shown, or None."""
        sampleNode = self.segmentationNode.GetNodeReference(SAMPLE_ROLE)
        return None if sampleNode is None or not self.count else self.index(self.position)

    @property
    def part(self) -> int | None:
        """Number of the region inside which the sample is shown, or None if it is shown as a whole or not at all."""
        return self._state()["part"] if self.shown is not None else None

    def show(self, position: int) -> None:
        """Show the sample at `position` of the order."""
        self._setState(position=position, part=None)
        self._fill(slicer.util.arrayFromVolume(self._volume(position)))

    def showPart(self, sample: int, region: int, mask: np.ndarray) -> None:
        """Show only the part of a sample (number from 0, as drawn) inside the `mask` [k, j, i] of the region `region`.

        The sample becomes that at the current position.
        """
        position = next(n for n in range(self.count) if self.index(n) == sample)
        self._setState(position=position, part=region)
        self._fill(np.where(mask, slicer.util.arrayFromVolume(self._volume(position)), 0))

    def _volume(self, position: int) -> slicer.vtkMRMLLabelMapVolumeNode:
        return self._samplesNode.GetNthDataNode(self.index(position))

    def _fill(self, labels: np.ndarray) -> None:
        sampleNode = self.segmentationNode.GetNodeReference(SAMPLE_ROLE) or self._makeSampleNode()
        # A copy: the user may paint on it by mistake.
        image = voxel_grids.orientedImage(labels, voxel_grids.ijkToRAS(self._volume(0)))
        segmentation = sampleNode.GetSegmentation()
        present = segmentation.GetNumberOfSegments() > 0
        for entry in self.report["volumes"]:
            segment = segmentation.GetSegment(entry["id"]) if present else slicer.vtkSegment()
            segment.AddRepresentation(voxel_grids.BINARY_LABELMAP, image)
            if not present:
                segment.SetLabelValue(entry["label"])
                segment.SetName(entry["name"])
                resultSegment = self.segmentationNode.GetSegmentation().GetSegment(entry["id"])
                if resultSegment is not None:
                    segment.SetColor(*resultSegment.GetColor())
                segmentation.AddSegment(segment, entry["id"])
        segmentation.Modified()

    def hide(self) -> None:
        """Remove the sample from the scene; the position is kept."""
        display.removeNode(self.segmentationNode.GetNodeReference(SAMPLE_ROLE))

    def _state(self) -> dict:
        text = self.segmentationNode.GetAttribute(BROWSER_ATTRIBUTE)
        return {"order": AS_DRAWN, "position": 0, "part": None} | (json.loads(text) if text else {})

    def _setState(self, **values: str | int | None) -> None:
        self.segmentationNode.SetAttribute(BROWSER_ATTRIBUTE, json.dumps(self._state() | values))

    def _makeSampleNode(self) -> slicer.vtkMRMLSegmentationNode:
        sampleNode = display.addTemporarySegmentation(self.segmentationNode, SAMPLE_ROLE, _("{name} sample"))
        displayNode = sampleNode.GetDisplayNode()
        displayNode.SetVisibility2DOutline(False)
        displayNode.SetVisibility2DFill(True)
        displayNode.SetOpacity2DFill(SAMPLE_OPACITY)
        return sampleNode
