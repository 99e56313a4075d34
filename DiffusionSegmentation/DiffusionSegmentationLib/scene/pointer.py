"""What the model thinks of the voxel under the mouse. No qt."""

import json

import numpy as np
import slicer
import slicer.util

from ..i18n import tr as _
from . import voxel_grids as grids
from .result_nodes import PROBABILITIES_ROLE, RUN_ATTRIBUTE

SHOWN, LEAST = 4, 0.02


class Pointer:
    """Looks up the class probabilities of one segmentation node of ours."""

    def __init__(self, segmentationNode: slicer.vtkMRMLSegmentationNode) -> None:
        self._node = segmentationNode
        report = json.loads(segmentationNode.GetAttribute(RUN_ATTRIBUTE))
        self._names = [_("background"), *(entry["name"] for entry in report["volumes"])]

    def sharesAt(self, world: tuple[float, float, float]) -> list[tuple[str, float]] | None:
        """(name, probability) of every class in the voxel nearest to `world`, RAS in mm; None outside of the result."""
        sharesNode = self._node.GetNodeReference(PROBABILITIES_ROLE)
        if sharesNode is None or not sharesNode.GetNumberOfDataNodes():
            return None
        first = sharesNode.GetNthDataNode(0)
        ijkToWorld = grids.toWorld(self._node) @ grids.ijkToRAS(first)
        index = np.rint(np.linalg.solve(ijkToWorld, [*world, 1.0])[:3]).astype(int)
        if (index < 0).any() or (index >= first.GetImageData().GetDimensions()).any():
            return None
        voxel = tuple(index[::-1])
        images = (sharesNode.GetNthDataNode(n) for n in range(sharesNode.GetNumberOfDataNodes()))
        shares = [float(slicer.util.arrayFromVolume(node)[voxel]) / 255 for node in images]
        return list(zip(self._names, shares, strict=True))

    def textAt(self, world: tuple[float, float, float]) -> str:
        """What is in dispute at `world`, most probable first, with its entropy; empty outside of the result."""
        found = self.sharesAt(world)
        if found is None:
            return ""
        told = sorted((pair for pair in found if pair[1] >= LEAST), key=lambda pair: -pair[1])[:SHOWN]
        shares = np.array([share for _name, share in found if share > 0])
        bits = float(-(shares * np.log2(shares)).sum())
        return _("{classes}; {bits:.2f} bits").format(
            classes=", ".join(f"{name} {100 * share:.0f} %" for name, share in told), bits=max(bits, 0.0)
        )
