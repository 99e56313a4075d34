"""Class probabilities of the voxel under the mouse pointer. Independent of Qt."""

import numpy as np
import slicer

from ..i18n import tr as _
from . import sequences, voxel_grids
from .result_nodes import PROBABILITIES_ROLE, reportOf

MOST_CLASSES, MIN_PROBABILITY = 4, 0.02
"""`textAt` lists at most 4 classes, each with a probability of at least 2 %."""


class VoxelProbe:
    def __init__(self, segmentationNode: slicer.vtkMRMLSegmentationNode) -> None:
        self._node = segmentationNode
        self._names = [_("background"), *(entry["name"] for entry in reportOf(segmentationNode)["volumes"])]

    def sharesAt(self, world: tuple[float, float, float]) -> list[tuple[str, float]] | None:
        """(name, probability) of every class in the voxel nearest to `world` (RAS, mm); None outside the result."""
        probabilitiesNode = self._node.GetNodeReference(PROBABILITIES_ROLE)
        voxels = sequences.arrays(probabilitiesNode)
        if not voxels:
            return None
        ijkToWorld = voxel_grids.toWorld(self._node) @ voxel_grids.ijkToRAS(probabilitiesNode.GetNthDataNode(0))
        kji = np.rint(np.linalg.solve(ijkToWorld, [*world, 1.0])[:3]).astype(int)[::-1]
        if (kji < 0).any() or (kji >= voxels[0].shape).any():
            return None
        return [(name, float(array[tuple(kji)]) / 255) for name, array in zip(self._names, voxels, strict=True)]

    def textAt(self, world: tuple[float, float, float]) -> str:
        """The most probable classes and the entropy at `world`; empty outside the result."""
        classes = self.sharesAt(world)
        if classes is None:
            return ""
        listed = sorted((pair for pair in classes if pair[1] >= MIN_PROBABILITY), key=lambda pair: -pair[1])
        p = np.array([share for _name, share in classes if share > 0])
        return _("{classes}; {bits:.2f} bits").format(
            classes=", ".join(f"{name} {100 * share:.0f} %" for name, share in listed[:MOST_CLASSES]),
            bits=max(0.0, float(-(p * np.log2(p)).sum())),  # the first of equal ones: -0.0 would be shown
        )
