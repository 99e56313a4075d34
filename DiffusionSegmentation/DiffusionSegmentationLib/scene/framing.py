"""Zooms all views to a place, and restores what they showed before."""

import json
from typing import Any

import numpy as np
import slicer.util

from .display import VOLUME_ROLE

BEFORE_ATTRIBUTE = "DiffusionSegmentation.ViewsBeforeReview"
MARGIN = 2.0
"""Width of a view relative to the size of what it shows."""
MIN_WIDTH_MM = 60.0
"""Narrower views show too little context, unless the whole volume is smaller."""


def showPlace(segmentationNode: slicer.vtkMRMLSegmentationNode, world: list[float], reachMm: float) -> None:
    """Center all views on `world` (RAS, mm) and show `reachMm` around it, with a margin.

    The state of the views before is stored on `segmentationNode`.
    """
    if segmentationNode.GetAttribute(BEFORE_ATTRIBUTE) is None:
        states = {node.GetID(): sliceState(node) for node in slicer.util.getNodesByClass("vtkMRMLSliceNode")}
        states |= {camera.GetID(): _cameraState(camera) for camera in _cameras()}
        segmentationNode.SetAttribute(BEFORE_ATTRIBUTE, json.dumps(states))
    width = max(2 * MARGIN * reachMm, min(MIN_WIDTH_MM, _sizeMm(segmentationNode)))
    slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *world, slicer.vtkMRMLSliceNode.CenteredJumpSlice)
    for node in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
        across, up, depth = node.GetFieldOfView()
        scale = width / min(across, up)
        node.SetFieldOfView(scale * across, scale * up, depth)
    for camera in _cameras():
        position, focalPoint, *others = _cameraState(camera)
        _setCamera(camera, np.add(position, world) - focalPoint, world, *others)


def _sizeMm(segmentationNode: slicer.vtkMRMLSegmentationNode) -> float:
    """Longest side of the segmented volume, or of the picture without its thickness; infinite if it was removed."""
    volumeNode = segmentationNode.GetNodeReference(VOLUME_ROLE)
    if volumeNode is None or volumeNode.GetImageData() is None:
        return float("inf")
    sides = zip(volumeNode.GetImageData().GetDimensions(), volumeNode.GetSpacing(), strict=True)
    return max((count * mm for count, mm in sides if count > 1), default=float("inf"))


def restoreViews(segmentationNode: slicer.vtkMRMLSegmentationNode) -> None:
    """Restore the views as they were before `showPlace`; views added since stay as they are."""
    text = segmentationNode.GetAttribute(BEFORE_ATTRIBUTE)
    if text is None or segmentationNode.GetScene() is None:
        return
    segmentationNode.RemoveAttribute(BEFORE_ATTRIBUTE)
    states = json.loads(text)
    for node in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
        if node.GetID() in states:
            restoreSlice(node, *states[node.GetID()])
    for camera in _cameras():
        if camera.GetID() in states:
            _setCamera(camera, *states[camera.GetID()])


def _cameras() -> list[slicer.vtkMRMLCameraNode]:
    logic = slicer.modules.cameras.logic()
    return list(filter(None, map(logic.GetViewActiveCameraNode, slicer.util.getNodesByClass("vtkMRMLViewNode"))))


def sliceState(node: slicer.vtkMRMLSliceNode) -> list[list[float]]:
    """[mm per pixel across and up, slice depth in mm], which do not depend on the size of the view, and the 16 elements
    of the slice-to-RAS matrix."""
    (across, up, depth), (columns, rows, _slices) = node.GetFieldOfView(), node.GetDimensions()
    elements = slicer.util.arrayFromVTKMatrix(node.GetSliceToRAS()).ravel().tolist()
    return [[across / max(columns, 1), up / max(rows, 1), depth], elements]


def restoreSlice(node: slicer.vtkMRMLSliceNode, scale: list[float] | None, elements: list[float]) -> None:
    """Restore what `sliceState` has returned, at the current size of the view. `scale` None: keep the field of view."""
    node.GetSliceToRAS().DeepCopy(elements)
    node.UpdateMatrices()
    if scale is not None:
        columns, rows, _slices = node.GetDimensions()
        node.SetFieldOfView(scale[0] * max(columns, 1), scale[1] * max(rows, 1), scale[2])


def _cameraState(camera: slicer.vtkMRMLCameraNode) -> list[Any]:
    """Position, focal point, up direction and parallel scale."""
    points = camera.GetPosition(), camera.GetFocalPoint(), camera.GetViewUp()
    return [*map(list, points), camera.GetParallelScale()]


def _setCamera(camera: slicer.vtkMRMLCameraNode, position: Any, focalPoint: Any, viewUp: Any, scale: float) -> None:
    with slicer.util.NodeModify(camera):
        camera.SetPosition(*position)
        camera.SetFocalPoint(*focalPoint)
        camera.SetViewUp(*viewUp)
        camera.SetParallelScale(scale)
    camera.ResetClippingRange()
