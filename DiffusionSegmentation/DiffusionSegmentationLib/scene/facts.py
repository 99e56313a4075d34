"""Facts of a result: voxels whose label is known, because the reviewer corrected them or found their region right."""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import slicer.util

from ..i18n import tr as _
from . import nrrd_files, voxel_grids
from .result_nodes import FACTS_ROLE, reportOf

UNKNOWN = 255
"""Label of the voxels that are not known, as in the engine."""


@dataclass(frozen=True)
class Facts:
    """Labels uint8 [k, j, i] on the grid of the volume, UNKNOWN elsewhere; `ijkToRAS` is 4 x 4 in mm.

    `rounds` is the number of updates with them, the next one included. `sha256` is the digest of the voxels of the
    volume in the report of the result, or None. `ask`: questions that the updated result answers.
    """

    labels: np.ndarray
    ijkToRAS: np.ndarray
    rounds: int
    sha256: str | None
    ask: tuple[str, ...] = ()

    name = "facts"
    """What messages call them."""

    def changed(self) -> bool:
        """Never: they are a copy of what is in the scene."""
        return False

    def write(self, path: Path, stop: threading.Event) -> None:
        """Write them as a label map for the worker until `stop` is set. Raises OSError."""
        nrrd_files.write(path, self.labels, self.ijkToRAS, stop)

    def fields(self, path: Path) -> dict[str, Any]:
        """The fields of a message `update` whose facts are in the file `path`."""
        asked = {"ask": list(self.ask), "keepSamples": True} if self.ask else {}
        return {"facts": str(path), "rounds": self.rounds, "sha256": self.sha256, **asked}


def rounds(report: dict[str, Any]) -> int:
    """Number of updates of a result, by its report."""
    return report.get("facts", {}).get("rounds", 0)


def storedFacts(segmentationNode: slicer.vtkMRMLSegmentationNode) -> Facts | None:
    """The facts given which the samples of a result were drawn, without a copy of its voxels; None if there were none.

    Raises LookupError, one sentence, if they were removed from the scene.
    """
    report = reportOf(segmentationNode)
    if not rounds(report):
        return None
    node = segmentationNode.GetNodeReference(FACTS_ROLE)
    volumeNode = node.GetNthDataNode(0) if node is not None and node.GetNumberOfDataNodes() else None
    if volumeNode is None:
        raise LookupError(_("The facts of this result were removed, so its samples cannot be drawn again."))
    labels, matrix = slicer.util.arrayFromVolume(volumeNode), voxel_grids.ijkToRAS(volumeNode)
    return Facts(labels, matrix, rounds(report), report["input"].get("sha256"))
