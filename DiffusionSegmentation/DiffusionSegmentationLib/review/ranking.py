"""The uncertain regions of a result for another threshold: the same ranking as the report's, computed on a thread."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
import slicer.util

from diffusion_segmentation.segmentation.uncertain_regions import (
    REPORTED,
    REVIEW_BITS,
    Ranking,
    as_json,
    reviewable_voxels,
)

from ..coalescing_thread import CoalescingThread
from ..i18n import tr as _
from ..scene import voxel_grids as grids
from ..scene.result_nodes import ENTROPY_ROLE, PROBABILITIES_ROLE, RUN_ATTRIBUTE, regionsVolume

SMALLEST_MM3 = 50


@dataclass(frozen=True)
class Wish:
    """Which regions are wanted: where the entropy reaches `bits`, none smaller than `smallestMm3`."""

    bits: float = REVIEW_BITS
    smallestMm3: int = SMALLEST_MM3


class Ranker:
    """Ranks the regions of one result; of several wishes only the last is computed. Nothing here waits, no qt."""

    def __init__(self, segmentationNode: slicer.vtkMRMLSegmentationNode) -> None:
        """Hold the arrays of the result, no copies. Raises LookupError, one sentence, where some are gone."""
        report = json.loads(segmentationNode.GetAttribute(RUN_ATTRIBUTE))
        self._names = ["background", *(entry["name"] for entry in report["volumes"])]
        regionsNode = regionsVolume(segmentationNode)
        entropyNode, sharesNode = map(segmentationNode.GetNodeReference, (ENTROPY_ROLE, PROBABILITIES_ROLE))
        if not (regionsNode and entropyNode and sharesNode and sharesNode.GetNumberOfDataNodes()):
            raise LookupError(_("The uncertainty of this result was removed; its regions stay as they are."))
        self._basins = slicer.util.arrayFromVolume(regionsNode)
        count = sharesNode.GetNumberOfDataNodes()
        self._shares = [slicer.util.arrayFromVolume(sharesNode.GetNthDataNode(n)) for n in range(count)]
        self._ijkToRAS = grids.ijkToRAS(regionsNode)
        start = grids.offset(self._ijkToRAS, grids.ijkToRAS(entropyNode))
        self._entropy = grids.block(slicer.util.arrayFromVolume(entropyNode), start, self._basins.shape)
        spacing = regionsNode.GetSpacing()
        self._voxelMl = float(np.prod(spacing)) / 1000
        self._thickness = reviewable_voxels(report["working_spacing_mm"], spacing[::-1])
        self._ranking: Ranking | None = None
        self._latest = CoalescingThread()

    @property
    def busy(self) -> bool:
        """True from a wish until `poll` has returned its regions."""
        return self._latest.busy

    def ask(self, wish: Wish) -> None:
        """Compute the regions of `wish`, instead of those of an earlier one that was not begun."""
        self._latest.submit(lambda: self._compute(wish))

    def poll(self) -> tuple[Wish, dict[str, Any]] | None:
        """What was found since, as the report tells it (regions.as_json), with its wish; None while nothing was."""
        return self._latest.poll()

    def _compute(self, wish: Wish) -> tuple[Wish, dict[str, Any]]:
        if self._ranking is None:
            self._ranking = Ranking(self._basins, self._shares, self._entropy, self._voxelMl, self._thickness)
        found = self._ranking.at(wish.bits, wish.smallestMm3 / 1000, REPORTED)
        return wish, as_json(found, self._names, self._ras)

    def _ras(self, kji: tuple[int, int, int]) -> list[float]:
        """The centre of a voxel in RAS of the volume, mm, without its parent transform."""
        return (self._ijkToRAS @ [*kji[::-1], 1.0])[:3].tolist()
