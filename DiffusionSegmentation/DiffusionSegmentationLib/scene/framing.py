"""Zooming of all views to a place, and restoring of what they showed before."""

import json
from collections.abc import Iterator

import numpy as np
import slicer
import vtk

from . import display

BEFORE_ATTRIBUTE = "DiffusionSegmentation.ViewsBeforeReview"
MARGIN = 2.0
"""Width of a view relative to the size of what it shows."""
MIN_WIDTH_MM = 60.0
"""Narrower views show too little context."""


class Framing:
    """Moves all slice and 3D views for one segmentation node. Stateless: the previous views are stored on the node."""

    def __init__(self, segmentationNode: slicer.vtkMRMLSegmentationNode) -> None:
        self._node = segmentationNode
        self._scene = segmentationNode.GetScene()

    def show(self, world: list[float], reachMm: float) -> None:
        """Center all views on `world` (RAS, mm) and show `reachMm` around it, with a margin."""
        if self._node.GetAttribute(BEFORE_ATTRIBUTE) is None:
            self._node.SetAttribute(BEFORE_ATTRIBUTE, json.dumps(self._viewStates()))
        width = max(2 * MARGIN * reachMm, MIN_WIDTH_MM)
        slicer.vtkMRMLSliceNode.JumpAllSlices(self._scene, *world, slicer.vtkMRMLSliceNode.CenteredJumpSlice)
        for node in display.nodesOfClass(self._scene, "vtkMRMLSliceNode"):
            across, up, depth = node.GetFieldOfView()
            scale = width / min(across, up)
            node.SetFieldOfView(scale * across, scale * up, depth)
        for camera in self._cameras():
            shift = np.subtract(world, camera.GetFocalPoint())
            _setCamera(camera, camera.GetPosition() + shift, world)

    def restore(self) -> None:
        """Restore the views as they were before `show`; views added since stay as they are."""
        text = self._node.GetAttribute(BEFORE_ATTRIBUTE)
        if text is None or self._scene is None:
            return
        self._node.RemoveAttribute(BEFORE_ATTRIBUTE)
        before = json.loads(text)
        for node in display.nodesOfClass(self._scene, "vtkMRMLSliceNode"):
            if node.GetID() in before:
                restoreSlice(node, *before[node.GetID()])
        for camera in self._cameras():
            if camera.GetID() in before:
                _setCamera(camera, *before[camera.GetID()])

    def _viewStates(self) -> dict[str, list]:
        """State of each view by the ID of its slice or camera node."""
        states = {node.GetID(): sliceState(node) for node in display.nodesOfClass(self._scene, "vtkMRMLSliceNode")}
        for camera in self._cameras():
            points = (camera.GetPosition(), camera.GetFocalPoint(), camera.GetViewUp())
            states[camera.GetID()] = [*map(list, points), camera.GetParallelScale()]
        return states

    def _cameras(self) -> Iterator[slicer.vtkMRMLCameraNode]:
        for viewNode in display.nodesOfClass(self._scene, "vtkMRMLViewNode"):
            camera = slicer.modules.cameras.logic().GetViewActiveCameraNode(viewNode)
            if camera is not None:
                yield camera


def sliceState(node: slicer.vtkMRMLSliceNode) -> list[list[float]]:
    """[mm per pixel across and up, slice depth in mm], which do not depend on the size of the view, and the 16 elements
    of the slice-to-RAS matrix."""
    (across, up, depth), (columns, rows, _slices) = node.GetFieldOfView(), node.GetDimensions()
    matrix = node.GetSliceToRAS()
    elements = [matrix.GetElement(row, column) for row in range(4) for column in range(4)]
    return [[across / max(columns, 1), up / max(rows, 1), depth], elements]


def restoreSlice(node: slicer.vtkMRMLSliceNode, scale: list[float] | None, elements: list[float]) -> None:
    """Set what `sliceState` has returned, at the present size of the view. `scale` None leaves the field of view."""
    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy(elements)
    node.GetSliceToRAS().DeepCopy(matrix)
    node.UpdateMatrices()
    if scale is not None:
        columns, rows, _slices = node.GetDimensions()
        node.SetFieldOfView(scale[0] * max(columns, 1), scale[1] * max(rows, 1), scale[2])


def _setCamera(
    camera: slicer.vtkMRMLCameraNode,
    position: list[float],
    focalPoint: list[float],
    viewUp: list[float] | None = None,
    parallelScale: float | None = None,
) -> None:
    wasModifying = camera.StartModify()
    camera.SetPosition(*position)
    camera.SetFocalPoint(*focalPoint)
    if viewUp is not None:
        camera.SetViewUp(*viewUp)
        camera.SetParallelScale(parallelScale)
    camera.EndModify(wasModifying)
    camera.ResetClippingRange()
