"""The views close to a place, and the way back to what they showed before."""

import json
from collections.abc import Iterator

import numpy as np
import slicer
import vtk

from . import display

BEFORE_ATTRIBUTE = "DiffusionSegmentation.ViewsBeforeReview"
MARGIN = 2.0
LEAST_MM = 60.0
"""Narrower views would show too little to know where one is."""


class Framing:
    """Moves all slice and 3D views for one segmentation node of ours.

    Objects of this class keep no state: the way back is on the segmentation node.
    """

    def __init__(self, segmentationNode: slicer.vtkMRMLSegmentationNode) -> None:
        self._node = segmentationNode
        self._scene = segmentationNode.GetScene()

    def show(self, world: list[float], reachMm: float) -> None:
        """Let all views show what lies up to `reachMm` around `world` (RAS, mm), with a margin."""
        if self._node.GetAttribute(BEFORE_ATTRIBUTE) is None:
            self._node.SetAttribute(BEFORE_ATTRIBUTE, json.dumps(self._before()))
        width = max(2 * MARGIN * reachMm, LEAST_MM)
        slicer.vtkMRMLSliceNode.JumpAllSlices(self._scene, *world, slicer.vtkMRMLSliceNode.CenteredJumpSlice)
        for node in display.nodesOfClass(self._scene, "vtkMRMLSliceNode"):
            across, up, depth = node.GetFieldOfView()
            scale = width / min(across, up)
            node.SetFieldOfView(scale * across, scale * up, depth)
        for camera in self._cameras():
            shift = np.subtract(world, camera.GetFocalPoint())
            _look(camera, camera.GetPosition() + shift, world)

    def giveBack(self) -> None:
        """Let the views show again what they did before `show`; one that is new since then stays."""
        text = self._node.GetAttribute(BEFORE_ATTRIBUTE)
        if text is None or self._scene is None:
            return
        self._node.RemoveAttribute(BEFORE_ATTRIBUTE)
        before = json.loads(text)
        for node in display.nodesOfClass(self._scene, "vtkMRMLSliceNode"):
            if node.GetID() in before:
                scale, elements = before[node.GetID()]
                matrix = vtk.vtkMatrix4x4()
                matrix.DeepCopy(elements)
                node.GetSliceToRAS().DeepCopy(matrix)
                node.UpdateMatrices()
                setScale(node, scale)
        for camera in self._cameras():
            if camera.GetID() in before:
                _look(camera, *before[camera.GetID()])

    def _before(self) -> dict[str, list]:
        """What each view shows, by the ID of its slice or camera node."""
        before: dict[str, list] = {}
        for node in display.nodesOfClass(self._scene, "vtkMRMLSliceNode"):
            matrix = node.GetSliceToRAS()
            elements = [matrix.GetElement(row, column) for row in range(4) for column in range(4)]
            before[node.GetID()] = [scaleOf(node), elements]
        for camera in self._cameras():
            places = (camera.GetPosition(), camera.GetFocalPoint(), camera.GetViewUp())
            before[camera.GetID()] = [*map(list, places), camera.GetParallelScale()]
        return before

    def _cameras(self) -> Iterator[slicer.vtkMRMLCameraNode]:
        for viewNode in display.nodesOfClass(self._scene, "vtkMRMLViewNode"):
            camera = slicer.modules.cameras.logic().GetViewActiveCameraNode(viewNode)
            if camera is not None:
                yield camera


def scaleOf(node: slicer.vtkMRMLSliceNode) -> list[float]:
    """How many mm a pixel of a slice view is across and up, and the depth of a slice: valid at any size of the view."""
    (across, up, depth), (columns, rows, _slices) = node.GetFieldOfView(), node.GetDimensions()
    return [across / max(columns, 1), up / max(rows, 1), depth]


def setScale(node: slicer.vtkMRMLSliceNode, scale: list[float]) -> None:
    """Show a slice view at what `scaleOf` has said, whatever its size is by now."""
    columns, rows, _slices = node.GetDimensions()
    node.SetFieldOfView(scale[0] * max(columns, 1), scale[1] * max(rows, 1), scale[2])


def _look(
    camera: slicer.vtkMRMLCameraNode,
    position: list[float],
    focalPoint: list[float],
    viewUp: list[float] | None = None,
    parallelScale: float | None = None,
) -> None:
    was = camera.StartModify()
    camera.SetPosition(*position)
    camera.SetFocalPoint(*focalPoint)
    if viewUp is not None:
        camera.SetViewUp(*viewUp)
        camera.SetParallelScale(parallelScale)
    camera.EndModify(was)
    camera.ResetClippingRange()
