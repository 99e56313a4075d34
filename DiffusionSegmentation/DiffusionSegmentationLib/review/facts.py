"""What the reviewer has settled in a result, as facts: voxels changed by hand, and regions marked as done."""

from dataclasses import dataclass

import numpy as np
import slicer.util

from ..i18n import tr as _
from ..scene import facts, voxel_grids
from ..scene.display import VOLUME_ROLE
from ..scene.facts import UNKNOWN, Facts
from ..scene.label_map import Labels
from ..scene.result_nodes import regionsVolume, reportOf
from .review import DONE, Review


@dataclass(frozen=True)
class Settled:
    """Facts with their origin: numbers of voxels that were edited since the result was computed, of regions that were
    marked as done, of all known voxels, and of those that the result does not follow yet."""

    facts: Facts
    edited: int
    regions: int
    voxels: int
    fresh: int


def doneIn(review: Review) -> list[int]:
    """Numbers of the regions that were marked as done."""
    return [region["basin"] for region in review.regions if review.state(region) == DONE]


class FactsSource:
    """What is needed to compute the facts of one segmentation node, as it was at construction.

    The label map is copied, because Segment Editor may reallocate its memory; `settled` may run on another thread.
    """

    def __init__(self, segmentationNode: slicer.vtkMRMLSegmentationNode, earlier: "FactsSource | None" = None) -> None:
        """Takes over the copy of the label map from `earlier`, if no voxel was edited since: 20 ms for 256^3 voxels.

        Raises LookupError, one sentence, if a part of the result was removed or lies on another grid.
        """
        volumeNode = segmentationNode.GetNodeReference(VOLUME_ROLE)
        if volumeNode is None or volumeNode.GetImageData() is None:
            raise LookupError(_("The volume of this result was removed."))
        self._labels = Labels(segmentationNode)
        self._matrix = voxel_grids.ijkToRAS(volumeNode)
        shape = volumeNode.GetImageData().GetDimensions()[::-1]
        try:
            self._start = voxel_grids.offset(self._labels.ijkToRAS, self._matrix)
        except ValueError as error:
            raise LookupError(
                _("The geometry of the volume was changed since this result; segment it again.")
            ) from error
        if (self._start < 0).any() or np.any(self._start + self._labels.shape[::-1] > shape[::-1]):
            raise LookupError(_("The geometry of the volume was changed since this result; segment it again."))
        stored = facts.storedFacts(segmentationNode)
        self._stored = None if stored is None else stored.labels
        regionsNode, self._done = regionsVolume(segmentationNode), doneIn(Review(segmentationNode))
        self._regions = slicer.util.arrayFromVolume(regionsNode) if regionsNode is not None else None
        report = reportOf(segmentationNode)
        self._rounds, self._sha256 = facts.rounds(report) + 1, report.get("input", {}).get("sha256")
        self._removed = self._labels.removed
        self._copied = segmentationNode.GetID(), self._labels.stamp(), shape, self._matrix.tolist()
        isSame = earlier is not None and earlier._copied == self._copied
        self._current = earlier._current if isSame else self._labels.currentOn(self._matrix, shape)

    def settled(self) -> Settled:
        """The facts of earlier updates, the voxels edited since, and those of regions marked as done.

        Voxels that only lack a segment which the user has removed are no facts.
        """
        shape, current = self._labels.shape, self._current
        before = np.full(current.shape, UNKNOWN, np.uint8) if self._stored is None else self._stored
        known, consensus = before.copy(), np.zeros(current.shape, np.uint8)
        voxel_grids.block(consensus, self._start, shape)[:] = self._labels.consensus()
        edited = (current != consensus) & (current != before)
        if self._removed:
            edited &= ~Labels.onlyLacks(current, consensus, self._removed)
        np.copyto(known, current, where=edited)
        if self._done and self._regions is not None:
            part = voxel_grids.block(known, self._start, shape)
            now, done = voxel_grids.block(current, self._start, shape), np.isin(self._regions, self._done)
            if self._removed:
                done &= ~Labels.onlyLacks(now, voxel_grids.block(consensus, self._start, shape), self._removed)
            np.copyto(part, now, where=done)
        numbers = (int(np.count_nonzero(mask)) for mask in (edited, known != UNKNOWN, known != before))
        editedCount, voxels, fresh = numbers
        given = Facts(known, self._matrix, self._rounds, self._sha256)
        return Settled(given, editedCount, len(self._done), voxels, fresh)
