"""Uncertainty of each slice along the axes of the volume, and navigation to the most uncertain one."""

import numpy as np
import slicer.util

from . import voxel_grids


def sliceNodes() -> list[slicer.vtkMRMLSliceNode]:
    """The slice views of Slicer's standard layouts: Red, Yellow, Green."""
    nodes = {node.GetLayoutName(): node for node in slicer.util.getNodesByClass("vtkMRMLSliceNode")}
    return [nodes[name] for name in ("Red", "Yellow", "Green") if name in nodes]


class Profiles:
    """Summed entropy (bits) of each slice of an entropy volume, along the volume's own axes."""

    def __init__(self, entropyNode: slicer.vtkMRMLScalarVolumeNode) -> None:
        self._entropyNode = entropyNode
        bits = slicer.util.arrayFromVolume(entropyNode)
        inPlane = bits.sum(axis=2, dtype=np.float64)
        # Along i, j, k.
        self._sums = [bits.sum(axis=(0, 1), dtype=np.float64), inPlane.sum(axis=0), inPlane.sum(axis=1)]

    def of(self, sliceNode: slicer.vtkMRMLSliceNode) -> np.ndarray:
        """Sums of the slices along the volume axis closest to the view's normal, in the direction of the normal."""
        axis, sign = self._axis(sliceNode)
        return self._sums[axis][::sign]

    def position(self, sliceNode: slicer.vtkMRMLSliceNode) -> float:
        """Position of the view's slice within `of`, from 0 to 1; other values are outside the volume."""
        axis, sign = self._axis(sliceNode)
        center = slicer.util.arrayFromVTKMatrix(sliceNode.GetSliceToRAS())[:, 3]
        index = np.linalg.solve(self._ijkToWorld(), center)[axis] + 0.5
        part = index / len(self._sums[axis])
        return float(part if sign > 0 else 1 - part)

    def goToWorst(self, sliceNode: slicer.vtkMRMLSliceNode) -> None:
        """Move the view along its normal to the most uncertain slice."""
        axis, _sign = self._axis(sliceNode)
        index = (np.array(self._entropyNode.GetImageData().GetDimensions()) - 1) / 2
        index[axis] = int(self._sums[axis].argmax())
        sliceNode.JumpSliceByOffsetting(*(self._ijkToWorld() @ [*index, 1.0])[:3])

    def _axis(self, sliceNode: slicer.vtkMRMLSliceNode) -> tuple[int, int]:
        """The volume axis closest to the view's normal, and the sign of its direction."""
        normal = slicer.util.arrayFromVTKMatrix(sliceNode.GetSliceToRAS())[:3, 2]
        directions = self._ijkToWorld()[:3, :3]
        along = normal @ (directions / np.linalg.norm(directions, axis=0))
        axis = int(np.abs(along).argmax())
        return axis, 1 if along[axis] > 0 else -1

    def _ijkToWorld(self) -> np.ndarray:
        return voxel_grids.toWorld(self._entropyNode) @ voxel_grids.ijkToRAS(self._entropyNode)
