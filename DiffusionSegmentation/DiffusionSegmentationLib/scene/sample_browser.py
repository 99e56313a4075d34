"""The samples of a result, one at a time, in an order that tells something.

A sample is filled and the result outlined, both in the colours of the segments: where they differ is seen at once.

Which one is shown, and in which order, is kept on the segmentation and so is saved with the scene.
"""

import json
from dataclasses import dataclass

import slicer
import slicer.util

from ..i18n import tr as _
from . import display
from . import voxel_grids as grids
from .result_nodes import RUN_ATTRIBUTE, SAMPLES_ROLE

BROWSER_ATTRIBUTE = "DiffusionSegmentation.Browser"
SAMPLE_ROLE = "DiffusionSegmentation.ShownSample"
DRAWN, ALIKE = "drawn", "alike"
SAMPLE_OPACITY = 0.35


@dataclass(frozen=True)
class Order:
    """A way to sort the samples: DRAWN, ALIKE (most like the consensus first) or the ID of a segment (its volume)."""

    key: str
    title: str


class Browser:
    """Shows the samples of one segmentation node of ours. Objects of this class keep no state: all is in the scene."""

    def __init__(self, segmentationNode: slicer.vtkMRMLSegmentationNode) -> None:
        self.segmentationNode = segmentationNode
        self.scene = segmentationNode.GetScene()
        self.report = json.loads(segmentationNode.GetAttribute(RUN_ATTRIBUTE))
        self._samplesNode = segmentationNode.GetNodeReference(SAMPLES_ROLE)

    @property
    def count(self) -> int:
        """Number of samples that were kept, the first as drawn; 0 if a person has removed them."""
        return self._samplesNode.GetNumberOfDataNodes() if self._samplesNode else 0

    def orders(self) -> list[Order]:
        """The ways to sort."""
        orders = [Order(DRAWN, _("as drawn"))]
        if self._dice():
            orders.append(Order(ALIKE, _("most like the result first")))
        volumes = [Order(v["id"], _("by volume of {name}").format(name=v["name"])) for v in self.report["volumes"]]
        return orders + volumes

    @property
    def order(self) -> str:
        """The key of the order chosen."""
        return self._said()["order"]

    @order.setter
    def order(self, key: str) -> None:
        self._say(order=key)

    def index(self, position: int) -> int:
        """The number, from 0 as drawn, of the sample at `position` of the order."""
        return self._sorted()[position]

    @property
    def position(self) -> int:
        """Where in the order the person is."""
        return min(self._said()["position"], max(self.count - 1, 0))

    @property
    def shown(self) -> int | None:
        """The number, from 0 as drawn, of the sample on show; None if there is none."""
        sampleNode = self.segmentationNode.GetNodeReference(SAMPLE_ROLE)
        return None if sampleNode is None or not self.count else self.index(self.position)

    def dice(self, index: int) -> float | None:
        """Mean Dice of sample `index` with the consensus over the segments; None if the report does not tell it."""
        dice = self._dice()
        return dice[index] if dice else None

    def volumeMl(self, index: int, segmentID: str) -> float:
        """Volume of a segment in sample `index`."""
        return next(v["samples_ml"][index] for v in self.report["volumes"] if v["id"] == segmentID)

    def isVolume(self, key: str) -> bool:
        """Whether `key` names an order by a segment's volume."""
        return any(entry["id"] == key for entry in self.report["volumes"])

    def show(self, position: int) -> None:
        """Show the sample at `position` of the order."""
        self._say(position=position)
        sampleNode = self.segmentationNode.GetNodeReference(SAMPLE_ROLE) or self._make()
        image = self._image(self.index(position))
        segmentation = sampleNode.GetSegmentation()
        kind = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
        present = segmentation.GetNumberOfSegments() > 0
        for entry in self.report["volumes"]:
            segment = segmentation.GetSegment(entry["id"]) if present else slicer.vtkSegment()
            segment.AddRepresentation(kind, image)
            if not present:
                segment.SetLabelValue(entry["label"])
                segment.SetName(entry["name"])
                own = self.segmentationNode.GetSegmentation().GetSegment(entry["id"])
                if own is not None:
                    segment.SetColor(*own.GetColor())
                segmentation.AddSegment(segment, entry["id"])
        segmentation.Modified()

    def hide(self) -> None:
        """Take the sample out of the scene; the place in the order stays."""
        sampleNode = self.segmentationNode.GetNodeReference(SAMPLE_ROLE)
        if sampleNode is not None:
            display.removeNode(sampleNode)

    def _dice(self) -> list[float]:
        return self.report.get("samples_dice") or []

    def _sorted(self) -> list[int]:
        order = self.order
        if order == ALIKE and self._dice():
            return sorted(range(self.count), key=lambda n: -self._dice()[n])
        if self.isVolume(order):
            return sorted(range(self.count), key=lambda n: self.volumeMl(n, order))
        return list(range(self.count))

    def _said(self) -> dict:
        text = self.segmentationNode.GetAttribute(BROWSER_ATTRIBUTE)
        return {"order": DRAWN, "position": 0} | (json.loads(text) if text else {})

    def _say(self, **values: str | int) -> None:
        self.segmentationNode.SetAttribute(BROWSER_ATTRIBUTE, json.dumps(self._said() | values))

    def _image(self, index: int) -> slicer.vtkOrientedImageData:
        """A copy of a sample's labels: a person may paint on it by mistake."""
        volumeNode = self._samplesNode.GetNthDataNode(index)
        return grids.orientedImage(slicer.util.arrayFromVolume(volumeNode), grids.ijkToRAS(volumeNode))

    def _make(self) -> slicer.vtkMRMLSegmentationNode:
        sampleNode = display.addBeside(self.segmentationNode, _("{name} sample"))
        sampleNode.GetDisplayNode().SetVisibility2DOutline(False)
        sampleNode.GetDisplayNode().SetVisibility2DFill(True)
        sampleNode.GetDisplayNode().SetOpacity2DFill(SAMPLE_OPACITY)
        self.segmentationNode.SetNodeReferenceID(SAMPLE_ROLE, sampleNode.GetID())
        return sampleNode
