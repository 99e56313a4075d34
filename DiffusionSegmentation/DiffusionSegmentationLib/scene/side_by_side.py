"""The result in one slice view and a sample in another, of the same slice, and the way back to the layout before."""

import json

import slicer
import vtk

from . import display
from .framing import scaleOf, setScale
from .sample_browser import SAMPLE_ROLE

BEFORE_ATTRIBUTE = "DiffusionSegmentation.BeforeSideBySide"
LEFT, RIGHT = "Red", "Yellow"
"""The views of Slicer's side-by-side layout."""


class SideBySide:
    """Objects of this class keep no state: the way back is on the segmentation node."""

    def __init__(self, segmentationNode: slicer.vtkMRMLSegmentationNode, scene: slicer.vtkMRMLScene) -> None:
        """`scene` is that of the node, or was before somebody removed it."""
        self._segmentationNode = segmentationNode
        self._scene = scene

    @property
    def active(self) -> bool:
        """Whether the views show result and sample side by side."""
        return self._segmentationNode.GetAttribute(BEFORE_ATTRIBUTE) is not None

    def start(self) -> None:
        """Show the result left and the sample, which must be on show, right: the same slice of the same volume."""
        left, right = (self._slice(name) for name in (LEFT, RIGHT))
        leftLayers, rightLayers = (self._composite(name) for name in (LEFT, RIGHT))
        if not (left and right and leftLayers and rightLayers):
            return
        layoutNode = self._scene.GetFirstNodeByClass("vtkMRMLLayoutNode")
        before = {
            "layout": layoutNode.GetViewArrangement() if layoutNode else None,
            "slice": [right.GetSliceToRAS().GetElement(row, column) for row in range(4) for column in range(4)],
            "scale": scaleOf(right),
            "linked": [leftLayers.GetLinkedControl(), rightLayers.GetLinkedControl()],
            "background": rightLayers.GetBackgroundVolumeID(),
        }
        self._segmentationNode.SetAttribute(BEFORE_ATTRIBUTE, json.dumps(before))
        if layoutNode is not None:
            layoutNode.SetViewArrangement(slicer.vtkMRMLLayoutNode.SlicerLayoutSideBySideView)
        rightLayers.SetBackgroundVolumeID(leftLayers.GetBackgroundVolumeID())
        right.GetSliceToRAS().DeepCopy(left.GetSliceToRAS())
        right.UpdateMatrices()
        right.SetFieldOfView(*left.GetFieldOfView())
        for composite in (leftLayers, rightLayers):
            composite.SetLinkedControl(True)
        self.refresh()

    def refresh(self) -> None:
        """Keep result and sample to their views, also a sample that was made since."""
        if not self.active:
            return
        for node, name in ((self._segmentationNode, LEFT), (self._sample(), RIGHT)):
            view = self._slice(name)
            if node is not None and node.GetDisplayNode() is not None and view is not None:
                node.GetDisplayNode().SetViewNodeIDs([view.GetID()])

    def stop(self) -> None:
        """Bring layout, slice, layers and links back as they were."""
        text = self._segmentationNode.GetAttribute(BEFORE_ATTRIBUTE)
        if text is None:
            return
        before = json.loads(text)
        self._segmentationNode.RemoveAttribute(BEFORE_ATTRIBUTE)
        for node in (self._segmentationNode, self._sample()):
            if node is not None and node.GetDisplayNode() is not None:
                node.GetDisplayNode().RemoveAllViewNodeIDs()
        layoutNode = self._scene.GetFirstNodeByClass("vtkMRMLLayoutNode")
        if layoutNode is not None and before["layout"] is not None:
            layoutNode.SetViewArrangement(before["layout"])
        right = self._slice(RIGHT)
        if right is not None:
            matrix = vtk.vtkMatrix4x4()
            matrix.DeepCopy(before["slice"])
            right.GetSliceToRAS().DeepCopy(matrix)
            right.UpdateMatrices()
            if "scale" in before:  # not in scenes up to version 0.4
                setScale(right, before["scale"])
        composites = self._composite(LEFT), self._composite(RIGHT)
        if composites[1] is not None:
            composites[1].SetBackgroundVolumeID(before["background"])
        for composite, linked in zip(composites, before["linked"], strict=True):
            if composite is not None:
                composite.SetLinkedControl(linked)

    def _sample(self) -> slicer.vtkMRMLSegmentationNode | None:
        return self._segmentationNode.GetNodeReference(SAMPLE_ROLE)

    def _slice(self, name: str) -> slicer.vtkMRMLSliceNode | None:
        return self._named("vtkMRMLSliceNode", name)

    def _composite(self, name: str) -> slicer.vtkMRMLSliceCompositeNode | None:
        return self._named("vtkMRMLSliceCompositeNode", name)

    def _named(self, kind: str, name: str) -> slicer.vtkMRMLNode | None:
        return next((node for node in display.nodesOfClass(self._scene, kind) if node.GetLayoutName() == name), None)
