"""Computes the uncertain regions of a result at another threshold on a thread, ranked as in the report."""

from dataclasses import dataclass
from typing import Any

import slicer.util

from diffusion_segmentation.segmentation.uncertain_regions import (
    REPORTED,
    REVIEW_BITS,
    Ranking,
    as_json,
    reviewable_voxels,
    voxel_size,
)

from ..coalescing_thread import CoalescingThread
from ..i18n import tr as _
from ..scene import sequences, voxel_grids
from ..scene.result_nodes import ENTROPY_ROLE, PROBABILITIES_ROLE, regionsVolume, reportOf

SMALLEST_MM3 = 50


@dataclass(frozen=True)
class RegionCriteria:
    """Entropy threshold of the regions in bits, and volume of the smallest one in mm^3."""

    bits: float = REVIEW_BITS
    smallestMm3: int = SMALLEST_MM3


class Ranker(CoalescingThread):
    """Ranks the regions of one result for the latest criteria. Independent of Qt.

    `poll` returns (criteria, regions in the format of the report, see `as_json`), or None.
    """

    def __init__(self, segmentationNode: slicer.vtkMRMLSegmentationNode) -> None:
        """Uses the arrays of the result without copies. Raises LookupError, one sentence, if some were removed."""
        super().__init__()
        report = reportOf(segmentationNode)
        self._names = ["background", *(entry["name"] for entry in report["volumes"])]
        regionsNode = regionsVolume(segmentationNode)
        entropyNode = segmentationNode.GetNodeReference(ENTROPY_ROLE)
        self._probabilities = sequences.arrays(segmentationNode.GetNodeReference(PROBABILITIES_ROLE))
        if not (regionsNode and entropyNode and self._probabilities):
            raise LookupError(_("The uncertainty of this result was removed; its regions cannot be updated."))
        self._regions = slicer.util.arrayFromVolume(regionsNode)
        self._ijkToRAS = voxel_grids.ijkToRAS(regionsNode)
        start = voxel_grids.offset(self._ijkToRAS, voxel_grids.ijkToRAS(entropyNode))
        self._entropy = voxel_grids.block(slicer.util.arrayFromVolume(entropyNode), start, self._regions.shape)
        spacing = regionsNode.GetSpacing()
        self._unit = report.get("unit", "ml")
        self._voxelSize, _unit = voxel_size(spacing[::-1], self._regions.shape)
        self._thickness = reviewable_voxels(report["working_spacing_mm"], spacing[::-1], self._regions.shape)
        self._ranking: Ranking | None = None

    def ask(self, criteria: RegionCriteria) -> None:
        """Compute the regions for `criteria`; replaces earlier criteria that are still waiting."""
        self.submit(lambda: self._compute(criteria))

    def _compute(self, criteria: RegionCriteria) -> tuple[RegionCriteria, dict[str, Any]]:
        if self._ranking is None:
            self._ranking = Ranking(self._regions, self._probabilities, self._entropy, self._voxelSize, self._thickness)
        smallest = criteria.smallestMm3 / 1000 if self._unit == "ml" else None
        regions = self._ranking.at(criteria.bits, smallest, REPORTED)
        return criteria, as_json(regions, self._names, self._ras, self._unit)

    def _ras(self, kji: tuple[int, int, int]) -> list[float]:
        """Center of a voxel in mm (RAS of the volume, without parent transform)."""
        return (self._ijkToRAS @ [*kji[::-1], 1.0])[:3].tolist()
