"""The result in the left and a sample in the right slice view, both at the same slice."""

import json

import slicer.util

from .framing import restoreSlice, sliceState
from .sample_browser import SAMPLE_ROLE

BEFORE_ATTRIBUTE = "DiffusionSegmentation.BeforeSideBySide"
LEFT, RIGHT = "Red", "Yellow"
"""The views of Slicer's side-by-side layout."""


class SideBySide:
    """Switches the layout. Stateless: the previous layout is stored on the segmentation node."""

    def __init__(self, segmentationNode: slicer.vtkMRMLSegmentationNode) -> None:
        """`segmentationNode` may have been removed from the scene."""
        self._segmentationNode = segmentationNode

    @property
    def active(self) -> bool:
        """Whether the views show result and sample side by side."""
        return self._segmentationNode.GetAttribute(BEFORE_ATTRIBUTE) is not None

    def start(self) -> None:
        """Show the result left and the sample, which must be shown already, right."""
        left, right = self._views("vtkMRMLSliceNode")
        composites = leftComposite, rightComposite = self._views("vtkMRMLSliceCompositeNode")
        if not (left and right and leftComposite and rightComposite):
            return
        layoutNode = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLLayoutNode")
        scale, elements = sliceState(right)
        before = {
            "layout": layoutNode.GetViewArrangement() if layoutNode else None,
            "slice": elements,
            "scale": scale,
            "linked": [composite.GetLinkedControl() for composite in composites],
            "background": rightComposite.GetBackgroundVolumeID(),
        }
        self._segmentationNode.SetAttribute(BEFORE_ATTRIBUTE, json.dumps(before))
        if layoutNode is not None:
            layoutNode.SetViewArrangement(slicer.vtkMRMLLayoutNode.SlicerLayoutSideBySideView)
        rightComposite.SetBackgroundVolumeID(leftComposite.GetBackgroundVolumeID())
        right.GetSliceToRAS().DeepCopy(left.GetSliceToRAS())
        right.UpdateMatrices()
        right.SetFieldOfView(*left.GetFieldOfView())
        for composite in composites:
            composite.SetLinkedControl(True)
        self.refresh()

    def refresh(self) -> None:
        """Restrict result and sample to their views, including a sample node made since `start`."""
        for node, view in zip(self._nodes(), self._views("vtkMRMLSliceNode"), strict=True) if self.active else ():
            if node is not None and node.GetDisplayNode() is not None and view is not None:
                node.GetDisplayNode().SetViewNodeIDs([view.GetID()])

    def stop(self) -> None:
        text = self._segmentationNode.GetAttribute(BEFORE_ATTRIBUTE)
        if text is None:
            return
        before = json.loads(text)
        self._segmentationNode.RemoveAttribute(BEFORE_ATTRIBUTE)
        for node in self._nodes():
            if node is not None and node.GetDisplayNode() is not None:
                node.GetDisplayNode().RemoveAllViewNodeIDs()
        layoutNode = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLLayoutNode")
        if layoutNode is not None and before["layout"] is not None:
            layoutNode.SetViewArrangement(before["layout"])
        _left, right = self._views("vtkMRMLSliceNode")
        if right is not None:
            restoreSlice(right, before.get("scale"), before["slice"])  # scenes up to version 0.4 have no scale
        composites = self._views("vtkMRMLSliceCompositeNode")
        if composites[1] is not None:
            composites[1].SetBackgroundVolumeID(before["background"])
        for composite, linked in zip(composites, before["linked"], strict=True):
            if composite is not None:
                composite.SetLinkedControl(linked)

    def _nodes(self) -> tuple[slicer.vtkMRMLSegmentationNode, slicer.vtkMRMLSegmentationNode | None]:
        return self._segmentationNode, self._segmentationNode.GetNodeReference(SAMPLE_ROLE)

    def _views(self, className: str) -> list[slicer.vtkMRMLNode | None]:
        nodes = {node.GetLayoutName(): node for node in reversed(slicer.util.getNodesByClass(className))}
        return [nodes.get(LEFT), nodes.get(RIGHT)]
