"""How unsure each slice is, along the axes of the volume, and the way to the most uncertain one. No qt."""

from collections.abc import Iterator

import numpy as np
import slicer
import slicer.util

from . import display
from . import voxel_grids as grids


def sliceNodes(scene: slicer.vtkMRMLScene) -> Iterator[slicer.vtkMRMLSliceNode]:
    """The slice views of Slicer's usual layouts, in the order in which they stand there."""
    nodes = {node.GetLayoutName(): node for node in display.nodesOfClass(scene, "vtkMRMLSliceNode")}
    yield from (nodes[name] for name in ("Red", "Yellow", "Green") if name in nodes)


class Profiles:
    """The expected entropy of the slices of one entropy volume; an oblique volume goes by its own axes."""

    def __init__(self, entropyNode: slicer.vtkMRMLScalarVolumeNode) -> None:
        self._entropyNode = entropyNode
        bits = slicer.util.arrayFromVolume(entropyNode)
        inPlane = bits.sum(axis=2, dtype=np.float64)
        # Along i, j, k: sums of bits over the slice.
        self._sums = [bits.sum(axis=(0, 1), dtype=np.float64), inPlane.sum(axis=0), inPlane.sum(axis=1)]

    def of(self, sliceNode: slicer.vtkMRMLSliceNode) -> np.ndarray:
        """Sum of the bits in each slice along the axis that runs most along the view's normal, in the view's order."""
        axis, sign = self._axis(sliceNode)
        return self._sums[axis][::sign]

    def position(self, sliceNode: slicer.vtkMRMLSliceNode) -> float:
        """Where the view's slice is among those of `of`, 0 to 1 of its length; outside of that beyond the volume."""
        axis, sign = self._axis(sliceNode)
        center = [sliceNode.GetSliceToRAS().GetElement(row, 3) for row in range(3)]
        index = np.linalg.solve(self._ijkToWorld(), [*center, 1.0])[axis] + 0.5
        part = index / len(self._sums[axis])
        return float(part if sign > 0 else 1 - part)

    def goToWorst(self, sliceNode: slicer.vtkMRMLSliceNode) -> None:
        """Show the most uncertain slice in the view, which is only moved along its normal."""
        axis, _sign = self._axis(sliceNode)
        index = (np.array(self._entropyNode.GetImageData().GetDimensions()) - 1) / 2
        index[axis] = int(self._sums[axis].argmax())
        sliceNode.JumpSliceByOffsetting(*(self._ijkToWorld() @ [*index, 1.0])[:3])

    def _axis(self, sliceNode: slicer.vtkMRMLSliceNode) -> tuple[int, int]:
        """The axis of the volume along the view's normal, and 1 or -1 for its direction."""
        normal = np.array([sliceNode.GetSliceToRAS().GetElement(row, 2) for row in range(3)])
        directions = self._ijkToWorld()[:3, :3]
        along = normal @ (directions / np.linalg.norm(directions, axis=0))
        axis = int(np.abs(along).argmax())
        return axis, 1 if along[axis] > 0 else -1

    def _ijkToWorld(self) -> np.ndarray:
        return grids.toWorld(self._entropyNode) @ grids.ijkToRAS(self._entropyNode)
